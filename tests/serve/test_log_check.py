"""Every change of the audit log is found, and what cannot be known is said."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from audited_server import Server
from typer.testing import CliRunner

from bench.cli.serve_log import log_app
from bench.errors import UsageError
from bench.serve import audit, checkpoint_writer, checkpoints, signatures
from bench.serve.checkpoint_writer import LogError
from bench.serve.log_check import verify_log


@pytest.fixture
def server(tmp_path):
    """Twelve rows; checkpoints at rows 5 and 10."""
    server = Server(tmp_path)
    for _ in range(2):
        server.write(5)
        assert server.writer.step()
    server.write(2)
    yield server
    server.state.close()


def test_an_untouched_log_holds_and_says_what_cannot_be_known(server):
    outcome = server.outcome()
    assert outcome.holds is True
    assert "holds up to row 10, checkpoint of 2023-11-14" in outcome.lines[0]
    assert "rows 11 to 12 are later than the last checkpoint" in outcome.lines[1]
    assert "cannot be known" in outcome.lines[1]


@pytest.mark.parametrize("row", [1, 7, 10, 12])
def test_an_edited_row_is_found(server, row):
    server.forge(
        "UPDATE audit SET record = replace(record, '\"inputs\": 3', '\"inputs\": 2') WHERE number = ?", row
    )
    outcome = server.outcome()
    assert outcome.holds is False
    assert f"row {row}: its record" in outcome.lines[0]


@pytest.mark.parametrize("row", [1, 6, 11])
def test_a_deleted_row_is_found(server, row):
    server.forge("DELETE FROM audit WHERE number = ?", row)
    outcome = server.outcome()
    assert outcome.holds is False
    assert f"row {row} missing" in outcome.lines[0]


def test_a_deleted_row_is_found_though_the_later_ones_move_up(server):
    server.forge("DELETE FROM audit WHERE number = 6")
    for number in range(7, 13):
        server.forge("UPDATE audit SET number = ? WHERE number = ?", number - 1, number)
    assert "row 6: its record" in server.outcome().lines[0]


def test_two_exchanged_rows_are_found(server):
    for old, new in ((7, -1), (8, 7), (-1, 8)):
        server.forge("UPDATE audit SET number = ? WHERE number = ?", new, old)
    outcome = server.outcome()
    assert outcome.holds is False
    assert "row 7: its record" in outcome.lines[0]


@pytest.mark.parametrize("row", [0, 4, 8])
def test_a_cut_tail_is_found_by_the_checkpoints(server, row):
    server.forge("DELETE FROM audit WHERE number > ?", row)
    outcome = server.outcome()
    assert outcome.holds is False
    assert f"cut after row {row}" in outcome.lines[0]
    assert f"{row + 1} to 10 missing" in outcome.lines[0]


@pytest.mark.parametrize(("row", "named"), [(2, "rows 1 to 5"), (7, "rows 6 to 10")])
def test_a_log_that_was_written_anew_is_found_by_the_checkpoints(server, row, named):
    server.forge("UPDATE audit SET record = '{}' WHERE number = ?", row)
    server.rewrite()
    assert verify_log(server.path, None, None).holds is None
    outcome = server.outcome()
    assert outcome.holds is False
    assert f"{named} were written anew" in outcome.lines[0]


def test_what_changes_after_the_last_checkpoint_cannot_be_known_and_nobody_claims_it(server):
    server.forge("DELETE FROM audit WHERE number > 10")
    outcome = server.outcome()
    assert outcome.holds is True
    assert "cannot be known" in outcome.lines[1]


def test_without_checkpoints_nothing_is_promised(server):
    outcome = verify_log(server.path, None, None)
    assert outcome.holds is None
    assert "no checkpoint to compare with" in outcome.lines[1]


def test_a_checkpoint_that_was_changed_taken_out_or_signed_by_another_is_found(server, tmp_path):
    lines = server.file.read_bytes().splitlines(keepends=True)
    other = signatures.new_key_pair(tmp_path / "other.key")
    assert verify_log(server.path, server.file, signatures.read_public_key(other)).holds is False
    for damaged in (
        lines[1:],
        [lines[0].replace(b'"number":5', b'"number":4'), lines[1]],
        lines[::-1],
        [b"{}\n"],
    ):
        server.file.write_bytes(b"".join(damaged))
        assert server.outcome().holds is False


def test_an_unfinished_checkpoint_of_a_killed_writer_is_none_and_the_next_one_follows(server):
    with server.file.open("ab") as file:
        file.write(b'{"number":12,"ha')
    assert server.outcome().holds is True
    assert server.new_writer().step(final=True)
    assert "12 rows, 3 checkpoints; holds up to row 12" in server.outcome().lines[0]


def test_checkpoints_come_after_so_many_rows_or_seconds_and_only_for_new_rows(server):
    assert not server.writer.step()
    server.seconds = 60
    assert server.writer.step()
    server.seconds = 600
    assert not server.writer.step()
    assert not server.writer.step(final=True)


def test_the_time_of_checkpoints_never_goes_back(server):
    server.seconds = -1_000_000
    server.writer.step(final=True)
    times = [each.time for each in checkpoints.read(server.file, server.writer.key.public_key())]
    assert times == sorted(times)


@pytest.mark.parametrize("statement", ["DELETE FROM audit", "UPDATE audit SET hash = '0' WHERE number = 12"])
def test_the_writer_signs_no_log_that_does_not_go_on_from_the_last_checkpoint(server, statement):
    before = server.file.read_bytes()
    server.forge(statement)
    with pytest.raises(LogError):
        server.writer.step(final=True)
    assert server.file.read_bytes() == before


def test_the_writer_ends_when_the_state_file_is_deleted_while_the_server_still_writes_to_it(server):
    server.path.unlink()
    server.write(1)
    with pytest.raises(LogError, match="is gone"):
        server.writer.step()


def test_a_new_signing_key_needs_a_new_file_for_checkpoints(server, tmp_path):
    file, other = tmp_path / "later" / "checkpoints", tmp_path / "other.key"
    public = signatures.new_key_pair(other)
    file.parent.mkdir()
    public.rename(file.with_name("checkpoints.pub"))
    given = Namespace(state=server.path, file=file, key=server.key_file, rows=1, seconds=1)
    with pytest.raises(UsageError, match="a new key needs a new file"):
        checkpoint_writer._opened(given)
    assert not file.exists()


def test_records_hold_no_arrays_and_cut_long_texts(server):
    with server.state.transaction() as connection:
        with pytest.raises(TypeError, match="takes no list"):
            audit.append(connection, "answered", {"rows": [1.0]})
        audit.append(connection, "answered", {"account": "x" * 10_000})
    with audit.reading(server.path) as connection:
        assert len(next(audit.rows(connection, 12)).record) < 1_000


def test_equal_records_have_different_digests(server):
    with audit.reading(server.path) as connection:
        assert len({audit.digest_of(row.record) for row in audit.rows(connection)}) == 12


def verified(*arguments):
    return CliRunner().invoke(log_app, ["verify", *map(str, arguments)])


def test_the_command_ends_with_0_1_or_3(server):
    folder = server.path.parent
    places = ("--state", folder, "--checkpoints", server.file, "--public-key", server.public_file)
    assert verified(*places).exit_code == 0
    assert verified("--state", folder).exit_code == 3
    server.forge("DELETE FROM audit WHERE number = 3")
    assert verified(*places).exit_code == 1
    assert verified("--state", folder).exit_code == 1


def test_the_process_checkpoints_what_was_written_until_its_input_is_closed(tmp_path):
    server = Server(tmp_path)
    server.write(7)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.serve.checkpoint_writer", "--state", server.path),
            *("--file", server.file, "--key", server.key_file, "--rows", "1000", "--seconds", "1000"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == b"ready\n"
    server.write(3)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert "10 rows, 1 checkpoint; holds up to row 10" in server.outcome().lines[0]
    server.state.close()

"""Evidence for one client: verified without the log, and silent on everybody else."""

import json

import pytest
from audited_server import Server
from typer.testing import CliRunner

from bench.cli.serve_log import log_app
from bench.errors import UsageError
from bench.serve import audit, signatures, terms
from bench.serve.evidence import exported, verify_evidence


def write(server, account, count=1, event="answered"):
    with server.state.transaction() as connection:
        for _ in range(count):
            fields = {"time": 1_700_000_000.0, "account": account, "inputs": 4, "address": "10.1.2.3"}
            audit.append(connection, event, fields)


@pytest.fixture
def server(tmp_path):
    """Rows of three clients, with checkpoints after each block; the last rows have none."""
    server = Server(tmp_path)
    write(server, "bob", 3)
    server.writer.step(final=True)
    with server.state.transaction() as connection:
        terms.accept(connection, "ann", "2026-11", "ab" * 32, now=1_700_000_000.0)
    write(server, "bob-secret", 2)
    write(server, "ann", 2)
    server.writer.step(final=True)
    write(server, "ann")
    yield server
    server.state.close()


@pytest.fixture
def document(server, tmp_path):
    return made(server, tmp_path)


def made(server, folder, client="ann"):
    if not (folder / "evidence.key").exists():
        signatures.new_key_pair(folder / "evidence.key")
    return exported(
        server.path,
        client,
        server.file,
        checkpoint_key=signatures.read_public_key(server.public_file),
        key=signatures.read_private_key(folder / "evidence.key"),
        made=0.0,
    )


def verified(document, folder, copies=None):
    key = signatures.read_public_key(folder / "evidence.key.pub")
    return verify_evidence(json.dumps(document).encode(), key, copies)


def test_evidence_tells_rows_terms_inputs_and_what_is_covered(document, tmp_path):
    outcome = verified(document, tmp_path)
    text = "\n".join(outcome.lines)
    assert outcome.holds is True
    assert "4 rows of the client 'ann', from 4 to 9" in text
    assert f"version '2026-11', SHA-256 {'ab' * 32}, accepted 2023-11-14 22:13:20 UTC (row 4)" in text
    assert "12 inputs in 3 queries" in text
    assert "3 of 4 rows are covered" in text
    assert "vouches" in text


def test_nothing_of_other_clients_is_in_it(document, server):
    text = json.dumps(document)
    assert "bob" not in text
    with audit.reading(server.path) as connection:
        for row in audit.rows(connection):
            record = json.loads(row.record)
            assert (row.record in [each["record"] for each in document["rows"]]) == (
                record["account"] == "ann"
            )
            assert (record["salt"] in text) == (record["account"] == "ann")


def test_it_begins_at_the_checkpoint_before_the_clients_first_row(document):
    assert (document["start"], len(document["digests"])) == (3, 6)


def change_row(document):
    document["rows"][1]["record"] = document["rows"][1]["record"].replace('"inputs": 4', '"inputs": 9')


CHANGES = {
    "a changed row": change_row,
    "a row left out": lambda document: document["rows"].pop(),
    "a row twice": lambda document: document["rows"].append(document["rows"][0]),
    "another client": lambda document: document.update(client="bob"),
    "another digest": lambda document: document["digests"].__setitem__(1, "0" * 64),
    "digests left out": lambda document: document["digests"].__delitem__(slice(2, None)),
    "another start": lambda document: document.update(start=2),
    "no checkpoints": lambda document: document.update(checkpoints=[]),
    "a checkpoint without signature": lambda document: document["checkpoints"][1].update(signature="00"),
    "rows that are no list": lambda document: document.update(rows=7),
    "no rows": lambda document: document.update(rows=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_evidence_is_broken(document, tmp_path, change):
    change(document)
    assert verified(document, tmp_path).holds is False


@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"a row left out", "no checkpoints"}))
def test_evidence_that_its_own_signer_changed_goes_with_no_checkpoint(document, tmp_path, name):
    """A row may be left out, and a checkpoint: the page says that the first cannot be known."""
    CHANGES[name](document)
    del document["signature"]
    key = signatures.read_private_key(tmp_path / "evidence.key")
    document["signature"] = signatures.sign(key, "evidence", document)
    outcome = verified(document, tmp_path)
    assert outcome.holds is False or "0 of" in "\n".join(outcome.lines)


def test_a_copy_of_the_checkpoints_that_somebody_kept_is_compared(document, server, tmp_path):
    assert verified(document, tmp_path, server.file).holds is True
    other = Server(tmp_path / "other")
    write(other, "ann", 9)
    other.writer.step(final=True)
    assert verified(document, tmp_path, other.file).holds is False
    other.state.close()


def test_an_earlier_copy_of_the_checkpoints_attests_what_was_there_then(document, server, tmp_path):
    copy = tmp_path / "earlier"
    lines = server.file.read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])["number"]
    copy.write_bytes(lines[0])
    assert first < json.loads(lines[-1])["number"]
    outcome = verified(document, tmp_path, copies=copy)
    numbers = [each["number"] for each in document["rows"]]
    covered = sum(number <= first for number in numbers)
    assert outcome.holds
    assert f"{covered} of {len(numbers)} rows are covered" in "".join(outcome.lines)
    assert covered < len(numbers)


def test_evidence_is_not_written_over_the_log_or_a_key(server):
    words = ["export", "ann", "--state", server.path.parent, "--checkpoints", server.file]
    for target in (server.path, server.file, server.key_file, server.public_file):
        before = target.read_bytes()
        more = ["--key", server.key_file, "--public-key", server.public_file, "--out", target]
        result = CliRunner().invoke(log_app, [*map(str, [*words, *more])])
        assert isinstance(result.exception, UsageError)
        assert target.read_bytes() == before


def test_a_client_without_rows_and_a_broken_log_give_none(server, tmp_path):
    with pytest.raises(UsageError, match="no row of the client 'anna'; did you mean 'ann'"):
        made(server, tmp_path, "anna")
    server.forge("DELETE FROM audit WHERE number = 2")
    with pytest.raises(UsageError, match="row 2 missing"):
        made(server, tmp_path)


def test_the_command_writes_evidence_and_verifies_it(server, tmp_path):
    signatures.new_key_pair(tmp_path / "evidence.key")
    out = tmp_path / "ann.json"
    places = ("--state", server.path.parent, "--checkpoints", server.file, "--public-key", server.public_file)
    run = CliRunner().invoke
    written = run(
        log_app,
        ["export", "ann", *map(str, places), "--key", str(tmp_path / "evidence.key"), "--out", str(out)],
    )
    assert written.exit_code == 0, written.output
    asked = ["verify", "--evidence", str(out), "--public-key", str(tmp_path / "evidence.key.pub")]
    assert run(log_app, asked).exit_code == 0
    out.write_text(out.read_text().replace("ann", "bob"))
    assert run(log_app, asked).exit_code == 1
    out.write_text("{}")
    assert isinstance(run(log_app, asked).exception, UsageError)

"""Backups: whole, signed, without keys, restored into an empty folder alone."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.errors import UsageError
from bench.serve import audit, backup, counting, keys, manifests, second_factor, signatures, terms, watermark
from bench.serve.backup import FILE
from bench.serve.noise_seed import noise_seed
from bench.serve.predictor import Mark
from bench.serve.secret_values import Secret
from bench.serve.state import State

PEPPER = Secret(b"PEPPER-SECRET" * 4)
CONTROLS = """
[terms]
file = "terms.txt"
version = "1"
[keys]
pepper_file = "pepper.secret"
[model]
file = "models/m.enc"
name = "m"
version = "1"
key_file = "model.key"
public_key_file = "signing.key.pub"
"""


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with a server and its backup, of which each test gets a copy; and the server's secrets."""
    tmp_path = tmp_path_factory.mktemp("template")
    folder = tmp_path / "server"
    with State(folder / FILE) as state, state.transaction() as connection:
        now = state.now()
        uri = second_factor.enrol_admin(connection, PEPPER, now=now)
        key = keys.add(connection, PEPPER, "ann", "client", now=now, by="admin")
        terms.accept(connection, "ann", "1", "ab" * 32, now=now)
        counting.admit(connection, "ann", 7, now, 100, None)
        seed = noise_seed(state)
        mark_key = watermark.watermark_key(state)
        watermark.remember(connection, "ann", [Mark(0, b"d", 0, 1, [1.0])], classes=["a", "b"])
    controls = tmp_path / "controls"
    (controls / "models").mkdir(parents=True)
    for name, text in {
        "controls.toml": CONTROLS,
        "terms.txt": "no resale",
        "pepper.secret": "PEPPER-SECRET" * 4,
        "model.key": "MODEL-KEY-SECRET" * 4,
        "models/m.enc": "encrypted",
    }.items():
        (controls / name).write_text(text)
    (controls / "pepper.secret").chmod(0o600)
    signatures.new_key_pair(controls / "signing.key")
    run("model", "sign", controls / "models", "--key", controls / "signing.key")
    signatures.new_key_pair(tmp_path / "backup.key")
    secrets = [key, uri.partition("secret=")[2].partition("&")[0], "PEPPER-SECRET", "MODEL-KEY", "PRIVATE"]
    secrets = [each.encode() for each in [*secrets, str(seed)]]
    out = tmp_path / "backup"
    file = controls / "controls.toml"
    assert run("backup", "make", "--state", folder, "--controls", file, "--out", out).exit_code == 0
    assert run("backup", "sign", out, "--key", tmp_path / "backup.key").exit_code == 0
    return tmp_path, [*secrets, mark_key]


@pytest.fixture
def server(template, tmp_path):
    """A server with an account that asked about 7 inputs, terms, a model, and secrets all around."""
    source, secrets = template
    for name in ("server", "controls"):
        shutil.copytree(source / name, tmp_path / name)
    for name in ("backup.key", "backup.key.pub"):
        shutil.copy2(source / name, tmp_path / name)
    return tmp_path / "server", tmp_path / "controls" / "controls.toml", secrets


@pytest.fixture
def made(template, server):
    """The signed backup of that server."""
    folder, _, _ = server
    return Path(shutil.copytree(template[0] / "backup", folder.parent / "backup"))


def restored(made, to):
    pepper = made.parent / "controls" / "pepper.secret"
    key = made.parent / "backup.key.pub"
    return run("backup", "restore", made, "--public-key", key, "--to", to, "--pepper-file", pepper)


def test_it_has_what_a_server_needs_and_no_key(made, server):
    assert manifests.listed(made) == [
        "controls/controls.toml",
        "controls/models/m.enc",
        "controls/models/manifest.json",
        "controls/signing.key.pub",
        "controls/terms.txt",
        FILE,
    ]
    _, _, secrets = server
    content = b"".join(path.read_bytes() for path in made.rglob("*") if path.is_file())
    assert not [each for each in secrets if each in content]
    with closing(sqlite3.connect(f"file:{made / FILE}?immutable=1", uri=True)) as connection:
        for table in backup.EMPTIED:
            assert connection.execute(f"select count(*) from {table}").fetchone() == (0,)  # noqa: S608


def test_nothing_of_a_second_factor_is_left_in_free_pages(made, server):
    folder, _, _ = server
    with closing(sqlite3.connect(folder / FILE)) as connection:
        (sealed,) = connection.execute("select secret from factors").fetchone()
    assert sealed not in (made / FILE).read_bytes()


def test_every_table_of_a_state_is_kept_or_emptied(server):
    folder, _, _ = server
    with closing(sqlite3.connect(folder / FILE)) as connection:
        tables = {
            name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")
        }
        assert tables == backup.KEPT | backup.EMPTIED
        connection.execute("create table later (secret text)")
        connection.commit()
    with pytest.raises(UsageError, match="'later'"):
        backup.make(folder, folder.parent / "other", {}, pepper=None)
    assert not (folder.parent / "other").exists()


def test_a_restored_server_has_its_accounts_counters_terms_noise_and_log(made, server, tmp_path):
    assert restored(made, tmp_path / "new").exit_code == 0
    folder, _, (key, *_) = server
    with State(tmp_path / "new" / FILE) as state, State(folder / FILE) as before:
        assert keys.account_of_key(state._connection, PEPPER, key.decode()).name == "ann"
        for table in ("counters", "accounts", "terms", "watermark"):
            assert state.rows(f"select * from {table}") == before.rows(f"select * from {table}")  # noqa: S608
        assert noise_seed(state) == noise_seed(before)
        assert watermark.watermark_key(state) == watermark.watermark_key(before)
        with state.transaction() as connection:
            assert counting.admit(connection, "ann", 3, state.now(), 100, None) == 7
        records = [json.loads(record) for (record,) in state.rows("select record from audit order by number")]
    assert [each["event"] for each in records[-2:]] == ["backup made", "restored from a backup"]
    with audit.reading(tmp_path / "new" / FILE) as connection:
        last = audit.START
        for row in audit.rows(connection):
            assert audit.break_in(last, row) == ""
            last = row
    assert run("keys", "init", "--help").exit_code == 0
    assert (tmp_path / "new" / FILE).stat().st_mode & 0o077 == 0


def test_a_server_that_is_writing_is_backed_up_whole(server, tmp_path):
    folder, _, _ = server
    with State(folder / FILE) as state:
        with state.transaction() as connection:
            audit.append(connection, "answered", {"account": "ann"})
        manifest = backup.make(folder, tmp_path / "live", {}, pepper=None)
        with state.transaction() as connection:
            audit.append(connection, "answered", {"account": "ann"})
    assert backup.verify(tmp_path / "live", None).about == manifest.about


def test_rows_that_a_server_writes_between_two_steps_of_a_backup_are_in_it_or_not(
    server, tmp_path, monkeypatch
):
    folder, _, _ = server
    reading = audit.reading

    def later(path):
        with State(path) as state, state.transaction() as connection:
            audit.append(connection, "answered", {"account": "ann"})
        return reading(path)

    monkeypatch.setattr(audit, "reading", later)
    manifest = backup.make(folder, tmp_path / "live", {}, pepper=None)
    assert backup.verify(tmp_path / "live", None).about == manifest.about


def test_the_folder_that_one_is_in_is_refused_in_one_sentence(server, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", str(tmp_path / "here")):
        with pytest.raises(UsageError, match="name a new one"):
            backup.make(server[0], Path(name), {}, pepper=None)


def test_without_the_servers_pepper_nothing_is_restored(made, tmp_path):
    key = signatures.read_public_key(tmp_path / "backup.key.pub")
    for pepper in (None, Secret(b"q" * 32)):
        with pytest.raises(UsageError, match="pepper"):
            backup.restore(made, key, tmp_path / "new", pepper=pepper)
    assert not (tmp_path / "new").exists()


def test_a_backup_without_pepper_leaves_seed_and_watermark_key_out_and_says_so(server, tmp_path):
    folder, _, secrets = server
    assert backup.make(folder, tmp_path / "b", {}, pepper=None).about["left_out"] is True
    content = (tmp_path / "b" / FILE).read_bytes()
    assert not [each for each in secrets if each in content]


def unsigned(made):
    backup_manifest = manifests.read(made, "backup")
    manifests.write(made, manifests.Manifest("backup", backup_manifest.files, backup_manifest.about))


def signed_by_another(made):
    signatures.new_key_pair(made.parent / "other.key")
    run("backup", "sign", made, "--key", made.parent / "other.key")


def named(name):
    def change(made):
        """A list with a name that leads elsewhere, signed with the right key."""
        old = manifests.read(made, "backup")
        files = {**old.files, name: ("0" * 64, 1)}
        key = signatures.read_private_key(made.parent / "backup.key")
        manifests.write(made, manifests.signed(manifests.Manifest("backup", files, old.about), key))

    return change


def shortened_log(made):
    with closing(sqlite3.connect(made / FILE)) as connection, connection:
        connection.execute("delete from audit where number = (select max(number) from audit)")
    old = manifests.read(made, "backup")
    key = signatures.read_private_key(made.parent / "backup.key")
    files = {**old.files, FILE: manifests.digest_of(made / FILE)}
    manifests.write(made, manifests.signed(manifests.Manifest("backup", files, old.about), key))


CHANGES = {
    "a changed file": lambda made: (made / "controls" / "terms.txt").write_text("resale"),
    "an added file": lambda made: (made / "controls" / "new").write_text(""),
    "a missing file": lambda made: (made / FILE).unlink(),
    "a link": lambda made: [(made / FILE).unlink(), (made / FILE).symlink_to("/etc/hostname")],
    "no signature": unsigned,
    "another's signature": signed_by_another,
    "a path to the folder above": named("../evil"),
    "an absolute path": named("/evil"),
    "a signed model's list instead": lambda made: (made / "controls" / "models" / "manifest.json").replace(
        made / "manifest.json"
    ),
    "a log that was cut": shortened_log,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_backup_that_is_not_as_it_was_signed_is_not_restored(made, tmp_path, change):
    change(made)
    assert run("backup", "verify", made, "--public-key", tmp_path / "backup.key.pub").exit_code == 1
    before = sorted(path.name for path in tmp_path.iterdir())
    assert restored(made, tmp_path / "new").exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_backup_is_not_signed(made, tmp_path):
    (made / FILE).write_bytes(b"x")
    assert run("backup", "sign", made, "--key", tmp_path / "backup.key").exit_code == 1


def test_it_is_restored_into_an_empty_folder_alone(made, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for place in ("full", "link", "full/file"):
        assert isinstance(restored(made, tmp_path / place).exception, UsageError)
    assert restored(made, tmp_path / "empty").exit_code == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [('"terms.txt"', '"../terms.txt"'), ('"terms.txt"', '"model.key"')],
    ids=["outside", "a key"],
)
def test_no_file_outside_of_the_controls_folder_and_no_key_is_backed_up(server, tmp_path, old, new):
    folder, controls, _ = server
    controls.write_text(controls.read_text().replace(old, new))
    result = run("backup", "make", "--state", folder, "--controls", controls, "--out", tmp_path / "b")
    assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "b").exists()

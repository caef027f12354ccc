"""Backups of a server: its state without keys, its controls, its encrypted model, in a signed folder.

Left out are second factors, sessions and failed tries, and every file that holds a key: the pepper, the keys
of the model, of certificates and of checkpoints. Digests of API keys stay, so that clients keep their keys:
without the pepper they are useless, since a key has 256 random bits. The seed of a defense's noise and the
key of a watermark are encrypted (:mod:`bench.serve.backup_secrets`). The rest says who asked how much, and
which answers were watermarked: a backup is as confidential as the state.
"""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench.errors import UsageError
from bench.files import write_atomically
from bench.serve import audit, backup_secrets, manifests
from bench.serve.manifests import Manifest, ManifestError
from bench.serve.state import State, state_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from bench.serve.controls import Controls
    from bench.serve.secret_values import Secret

FILE = state_file(Path()).name
"""The state, in a backup."""
KEPT = frozenset({"seen", "accounts", "counters", "spending", "tallies", "audit", "terms", "server"}) | {
    *("watermark", "watermark_key")
}
"""Tables of the state that a backup holds."""
EMPTIED = frozenset({"factors", "sessions", "failures"})
"""Tables that it holds without rows."""
CONTROLS = "controls"
"""Folder of the controls file, and of what it names, in a backup."""


def make(state: Path, out: Path, files: Mapping[str, Path], *, pepper: Secret | None) -> Manifest:
    """Write a backup of the folder ``state`` to the new folder ``out``; it is not signed yet.

    ``files``: further files by their path in the backup. ``pepper``: what the seed of noise and the key of a
    watermark are encrypted under; None: they are left out, which ``about`` of the manifest says. A running
    server goes on meanwhile. Raises UsageError.
    """
    _check_empty(out, "--out")
    source = state / FILE
    if not source.is_file():
        raise UsageError(f"{state} has no state of a server")
    with State(source) as opened, opened.transaction() as connection:
        now = opened.now()
        audit.append(connection, "backup made", {"time": now})
    with _unfinished(out) as part:
        content, left_out, (rows, last) = _content(source, pepper)
        _write(part.path / FILE, content)
        for name, path in files.items():
            if path.is_symlink() or not path.is_file():
                raise UsageError(f"{path}: it is no file, and a backup needs it")
            _write(part.path / name, path.read_bytes())
        manifest = manifests.made(
            part.path, "backup", {"made": now, "rows": rows, "hash": last, "left_out": left_out}
        )
        manifests.write(part.path, manifest)
        part.finish()
    return manifest


def files_of(controls: Controls, file: Path) -> dict[str, Path]:
    """Return the controls ``file`` and the files without secrets that it names, by their path in a backup.

    Raises UsageError for one outside of the folder of the controls.
    """
    folder = file.parent
    names = [] if controls.terms is None else [controls.terms.file]
    if model := controls.model:
        names.append(model.file)
        if model.public_key_file:
            # What is signed is the folder as a whole.
            around = folder / model.file
            names += [
                (Path(model.file).parent / name).as_posix()
                for name in (*manifests.listed(around.parent), manifests.FILE)
            ]
            names.append(model.public_key_file)
    found = {f"{CONTROLS}/{file.name}": file}
    secret = {_resolved(folder, name) for name in _secret_files(controls)}
    for name in names:
        inside = f"{CONTROLS}/{Path(name).as_posix()}"
        if not manifests.is_safe(inside):
            raise UsageError(
                f"{name!r} is not in the folder of {file}; a backup holds files of that folder alone"
            )
        if _resolved(folder, name) in secret:
            raise UsageError(
                f"{name!r} holds a key, and lies among what is signed as the model; move it elsewhere"
            )
        found[inside] = folder / name
    return found


def _secret_files(controls: Controls) -> list[str]:
    named = [
        controls.keys.pepper_file,
        controls.jwt.key_file if controls.jwt else None,
        controls.model.key_file if controls.model else None,
        controls.audit.key_file if controls.audit else None,
    ]
    return [name for name in named if name]


def _resolved(folder: Path, name: str) -> Path:
    return (folder / name).resolve()


def _content(source: Path, pepper: Secret | None) -> tuple[bytes, bool, tuple[int, str]]:
    """Return the state file without its secrets as bytes, and whether some cannot be restored from it.

    Also number and hash of the last row of its log: a server that runs may have written further rows.
    """
    with audit.reading(source) as live, closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        live.backup(copy)
        tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if unknown := sorted(tables - KEPT - EMPTIED):
            raise UsageError(f"{source} has a table {unknown[0]!r}, which this version cannot back up")
        copy.execute("PRAGMA secure_delete = ON")
        for table in sorted(tables & EMPTIED):
            copy.execute(f"DELETE FROM {table}")  # noqa: S608  # names of our own
        last = copy.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
        left_out = backup_secrets.take_out(copy, pepper)
        copy.execute("VACUUM")
        content = bytearray(copy.serialize())
    content[18:20] = b"\x01\x01"  # no log beside it: file format of a database that is not in WAL mode
    return bytes(content), left_out, last


def verify(folder: Path, key: Ed25519PublicKey | None) -> Manifest:
    """Return the manifest of a backup that is as it was signed; raises ManifestError, UsageError.

    ``key``: None before it is signed. The state has to be whole, and its audit log to hold.
    """
    manifest = manifests.verify(folder, "backup", key)
    if FILE not in manifest.files:
        raise ManifestError(f"it has no {FILE}")
    check_state((folder / FILE).read_bytes(), manifest)
    return manifest


def check_state(content: bytes, manifest: Manifest) -> None:
    """Raise ManifestError unless the bytes of a state file are whole and end where the manifest says."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.deserialize(content)
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                raise ManifestError(f"{FILE} is damaged")
            last = audit.START
            for row in audit.rows(connection):
                if fault := audit.break_in(last, row):
                    raise ManifestError(f"its audit log is broken: {fault}")
                last = row
        except sqlite3.Error as error:
            raise ManifestError(f"{FILE} is damaged: {error}") from error
    if (last.number, last.hash) != (manifest.about.get("rows"), manifest.about.get("hash")):
        raise ManifestError("its audit log ends elsewhere than the manifest says")


def restore(folder: Path, key: Ed25519PublicKey, target: Path, *, pepper: Secret | None) -> Manifest:
    """Write a backup's files to ``target``, a folder that is empty or not there yet.

    Everything is verified first; nothing is left behind if anything fails. ``pepper``: of the server's keys,
    where the backup has encrypted secrets. Raises ManifestError, UsageError.
    """
    _check_empty(target, "--to")
    manifest = verify(folder, key)
    with _unfinished(target) as part:
        for name, (digest, size) in manifest.files.items():
            content = (folder / name).read_bytes()
            _write(part.path / name, content)
            if manifests.digest_of(part.path / name) != (digest, size):
                raise ManifestError(f"{name} was changed while it was read")
        with State(part.path / FILE) as state, state.transaction() as connection:
            backup_secrets.put_back(connection, pepper)
            fields = {"time": state.now(), "rows": manifest.about["rows"]}
            audit.append(connection, "restored from a backup", fields)
        part.finish()
    return manifest


def _check_empty(folder: Path, option: str) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{option} {folder}: it is a link or a file; name a new folder")
    if folder.resolve() == Path.cwd():
        raise UsageError(f"{option} {folder}: it is the folder that you are in; name a new one")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{option} {folder}: the folder is not empty; name a new one")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, content)
    path.chmod(0o600)


class _unfinished:  # noqa: N801  # a context manager, used as one
    """A folder beside ``final`` that takes its place once it is finished, and is removed otherwise."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self.path = final.with_name(f"{final.name}.{secrets.token_hex(8)}.part")

    def __enter__(self) -> Self:
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700)
        return self

    def finish(self) -> None:
        if self._final.is_dir():
            self._final.rmdir()  # fails if somebody has put a file there meanwhile
        self.path.rename(self._final)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

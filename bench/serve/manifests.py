"""Signed lists of the files of a folder: a changed, added or missing file is found before any is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import UsageError
from bench.files import write_atomically
from bench.serve.signatures import is_signed, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FILE = "manifest.json"
"""Name of the list in its folder."""
LARGEST = 10_000_000
"""Most bytes of a list."""
Kind = Literal["model", "backup"]
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class ManifestError(Exception):
    """A folder is not as it was signed; the message says in what."""


@dataclass(frozen=True)
class Manifest:
    """The files of a folder.

    ``files``: SHA-256 and number of bytes by path, with "/". ``about``: what else is signed. ``signature``:
    hexadecimal digits, "" if not signed.
    """

    kind: Kind
    files: Mapping[str, tuple[str, int]]
    about: Mapping[str, Any]
    signature: str = ""

    @property
    def body(self) -> dict[str, Any]:
        """What is signed."""
        files = {name: {"sha256": digest, "bytes": size} for name, (digest, size) in self.files.items()}
        return {"kind": self.kind, "files": files, "about": dict(self.about)}


def is_safe(name: str) -> bool:
    """Return whether a path leads nowhere but into its folder, on any system.

    No "..", no absolute path, no backslash, no hidden file, no name of a device.
    """
    parts = name.split("/")
    return (
        len(parts) <= 8
        and all(_PART.fullmatch(part) and not part.endswith(".") for part in parts)
        and not any(_DEVICES.fullmatch(part) for part in parts)
    )


def listed(folder: Path) -> list[str]:
    """Return the paths of all files in a folder but the manifest; raises ManifestError for a link."""
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}")
    found = []
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ManifestError(f"{relative} is a link or no ordinary file")
            if name in files and relative != FILE:
                found.append(relative)
    return sorted(found)


def digest_of(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the number of bytes of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


def made(folder: Path, kind: Kind, about: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a folder as it is, without signature; raises UsageError."""
    try:
        names = listed(folder)
    except ManifestError as error:
        raise UsageError(f"{folder}: {error}; only files and folders are signed") from error
    if not names:
        raise UsageError(f"{folder}: it has no files")
    _check_names(folder, names)
    return Manifest(kind, {name: digest_of(folder / name) for name in names}, about)


def _check_names(folder: Path, names: list[str]) -> None:
    if odd := [name for name in names if not is_safe(name)]:
        raise UsageError(
            f"{folder}: the name {odd[0][:100]!r} is not accepted; letters, digits, dots, hyphens and "
            "underscores are"
        )
    if len({name.lower() for name in names}) < len(names):
        raise UsageError(f"{folder}: two names differ by capital letters alone")


def signed(manifest: Manifest, key: Ed25519PrivateKey) -> Manifest:
    """Return the manifest with its signature."""
    signature = sign(key, f"manifest of a {manifest.kind}", manifest.body)
    return Manifest(manifest.kind, manifest.files, manifest.about, signature)


def write(folder: Path, manifest: Manifest) -> None:
    """Write a manifest into its folder."""
    content = json.dumps(manifest.body | {"signature": manifest.signature}, indent=1, sort_keys=True)
    write_atomically(folder / FILE, content + "\n")


def read(folder: Path, kind: Kind) -> Manifest:
    """Return the manifest in a folder; raises ManifestError where there is none or it is damaged."""
    path = folder / FILE
    try:
        if path.is_symlink() or path.stat().st_size > LARGEST:
            raise ManifestError(f"{FILE} is a link, or too large")
        document = json.loads(path.read_bytes())
        files = document["files"].items()
        found = Manifest(
            document["kind"],
            {str(name): (str(each["sha256"]), int(each["bytes"])) for name, each in files},
            dict(document["about"]),
            str(document["signature"]),
        )
    except FileNotFoundError:
        raise ManifestError(f"there is no {FILE}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ManifestError(f"{FILE} is damaged") from None
    if found.kind != kind:
        raise ManifestError(f"{FILE} is that of something else than a {kind}")
    return found


def verify(folder: Path, kind: Kind, key: Ed25519PublicKey | None) -> Manifest:
    """Return the manifest of a folder that is as it was signed with ``key``; raises ManifestError.

    ``key``: None where there is no signature yet, and the files alone are compared.
    """
    manifest = read(folder, kind)
    if key is not None:
        if not manifest.signature:
            raise ManifestError("it is not signed")
        if not is_signed(key, f"manifest of a {kind}", manifest.body, manifest.signature):
            raise ManifestError(f"{FILE} is not signed with this key, or was changed")
    if odd := [name for name in manifest.files if not is_safe(name)]:
        raise ManifestError(f"the name {odd[0][:100]!r} leads out of the folder, or is not accepted")
    there = listed(folder)
    if added := sorted(set(there) - set(manifest.files)):
        raise ManifestError(f"{added[0]} was added")
    if missing := sorted(set(manifest.files) - set(there)):
        raise ManifestError(f"{missing[0]} is missing")
    for name, expected in manifest.files.items():
        if digest_of(folder / name) != expected:
            raise ManifestError(f"{name} was changed")
    return manifest

"""Ed25519 keys and signatures: of checkpoints, evidence, and the manifests of models and backups."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, one_line
from bench.files import write_atomically
from bench.serve.extra import needs_serve

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LARGEST = 10_000
"""Most bytes of a file that holds a key."""


def new_key_pair(path: Path) -> Path:
    """Write a new private key to ``path``, mode 0600, and its public key to ``path`` + ".pub"; return that.

    Raises UsageError where either file exists: a key is never overwritten.
    """
    ed25519 = _library()
    from cryptography.hazmat.primitives import serialization

    public_path = path.with_name(f"{path.name}.pub")
    if public_path.exists():
        raise UsageError(f"{public_path}: a key is there already; name another file")
    key = ed25519.Ed25519PrivateKey.generate()
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(path, content)
    write_public_key(public_path, key.public_key())
    return public_path


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600; raises UsageError where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path}: a key is there already; name another file") from error
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def read_secret(path: Path, what: str) -> bytes:
    """Return a file that no other user may read, without blanks around; raises UsageError, without content.

    ``what``: the file holds, in an error.
    """
    try:
        # Not waiting for who writes into a pipe; the mode is that of what is read.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(LARGEST + 1) if stat.S_ISREG(mode) else None
    except OSError as error:
        raise UsageError(f"{path}: {what} cannot be read: {error.strerror or error}") from error
    if content is None:
        raise UsageError(f"{path}: {what} is expected in a file")
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"{path}: others may read {what}; run chmod 600 {path}")
    if len(content) > LARGEST:
        raise UsageError(f"{path}: it is too large for {what}")
    return content.strip()


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key in a PEM file of mode 0600; raises UsageError."""
    ed25519 = _library()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_secret(path, "the private key")
    try:
        key = load_pem_private_key(content, password=None)
    except Exception:  # noqa: BLE001  # the library's errors may quote what they read
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{path}: it holds no private Ed25519 key; make one with moatbench model keygen")
    private: Ed25519PrivateKey = key
    return private


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Return the public key in a PEM file; raises UsageError."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST)
    except OSError as error:
        raise UsageError(f"{path}: the public key cannot be read: {error.strerror or error}") from error
    return public_key(content, str(path))


def public_key(content: bytes, name: str) -> Ed25519PublicKey:
    """Return the public key in a PEM text; raises UsageError, which calls it ``name``."""
    ed25519 = _library()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE" in content:
        raise UsageError(f"{name}: it holds a private key; name the public one, which ends in .pub")
    try:
        key = load_pem_public_key(content)
    except Exception as error:
        raise UsageError(f"{name}: it holds no public key: {one_line(error)}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UsageError(f"{name}: it holds no public Ed25519 key")
    public: Ed25519PublicKey = key
    return public


def write_public_key(path: Path, key: Ed25519PublicKey) -> None:
    """Write a public key as PEM."""
    write_atomically(path, pem(key))


def pem(key: Ed25519PublicKey) -> str:
    """Return a public key as PEM."""
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the first 16 digits of the SHA-256 of a public key, in hexadecimal, for people to compare."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def canonical(body: Mapping[str, Any]) -> bytes:
    """Return JSON values as bytes, the same for equal values."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def sign(key: Ed25519PrivateKey, kind: str, body: Mapping[str, Any]) -> str:
    """Return the signature of ``body`` as hexadecimal digits.

    ``kind``: what is signed, so that a signature of one kind of text is none of another.
    """
    return key.sign(_message(kind, body)).hex()


def is_signed(key: Ed25519PublicKey, kind: str, body: Mapping[str, Any], signature: object) -> bool:
    """Return whether ``signature`` is that of ``body`` by the owner of ``key``."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(str(signature)), _message(kind, body))
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(kind: str, body: Mapping[str, Any]) -> bytes:
    return f"moatbench {kind} 1\n".encode() + canonical(body)


def _library() -> Any:
    with needs_serve():
        from cryptography.hazmat.primitives.asymmetric import ed25519
    return ed25519

"""Models at rest: AES-256-GCM, with the model's name and version as associated data.

A file that is changed, cut off, exchanged for another model's, or put back from an earlier version cannot be
decrypted under the name and version that a server expects. The plaintext is in memory only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError
from bench.serve.extra import needs_serve
from bench.serve.signatures import canonical, read_secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SUFFIX = ".enc"
"""Of an encrypted model's file."""
FORMATS = (".skops", ".onnx", ".pt2")
"""Suffixes of models that are served: formats that hold no pickle."""
_FIRST = b"moatbench encrypted model 1\n"
_NONCE = 12
_TAG = 16
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_MAKE = "moatbench model encrypt makes one"
_KEY = re.compile(rb"[0-9A-Fa-f]{64}")


def named(text: str) -> tuple[str, str]:
    """Return name and version of "NAME@VERSION"; raises UsageError."""
    name, _, version = text.partition("@")
    if not (_NAME.fullmatch(name) and _NAME.fullmatch(version)):
        raise UsageError("--as has to be NAME@VERSION, as digits@3: letters, digits, dots and hyphens")
    return name, version


def new_key() -> bytes:
    """Return a new key as text: 64 hexadecimal digits and a line end."""
    return os.urandom(32).hex().encode() + b"\n"


def read_key(variable: str | None, file: Path | None, environ: Mapping[str, str]) -> bytes:
    """Return the 32 bytes of the key that an environment variable or a file of mode 0600 holds.

    Raises UsageError, which names the place and never shows the content.
    """
    if variable is not None:
        if variable not in environ:
            raise UsageError(f"the environment variable {variable} (the key of the model) is not set")
        text, place = environ[variable].strip().encode("utf-8", "surrogateescape"), variable
    elif file is not None:
        text, place = read_secret(file, "the key of the model"), str(file)
    else:
        raise UsageError("name the key of the model: an environment variable, or a file of mode 0600")
    if not _KEY.fullmatch(text):
        raise UsageError(
            f"{place}: the key of a model has 64 hexadecimal digits; "
            "moatbench model keygen --encryption makes one"
        )
    return bytes.fromhex(text.decode())


def encrypt(content: bytes, *, name: str, version: str, suffix: str, key: bytes) -> bytes:
    """Return a model's bytes encrypted under a fresh nonce; ``suffix``: of its file, as ".skops"."""
    header = _header(name, version, suffix)
    nonce = os.urandom(_NONCE)
    sealed: bytes = _cipher(key).encrypt(nonce, content, _FIRST + header)
    return _FIRST + header + b"\n" + nonce + sealed


def decrypt(content: bytes, *, name: str, version: str, key: bytes, place: str) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a model, if it is the one of this name and version.

    ``place``: the file's name, in errors. Raises UsageError for any other content.
    """
    with needs_serve():
        from cryptography.exceptions import InvalidTag
    header, found, rest = content.removeprefix(_FIRST).partition(b"\n")
    if not content.startswith(_FIRST) or not found or len(rest) < _NONCE + _TAG:
        raise UsageError(f"{place}: it is no encrypted model, or it was cut off; {_MAKE}")
    try:
        stated = json.loads(header)
        suffix = str(stated["suffix"])
        held = f"{stated['name']}@{stated['version']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UsageError(f"{place}: it is no encrypted model; {_MAKE}") from None
    if held != f"{name}@{version}":
        raise UsageError(f"{place}: it holds {held[:130]!r}, and {name}@{version} is expected")
    try:
        # Of what is expected, not of what the file states.
        plain: bytes = _cipher(key).decrypt(
            rest[:_NONCE], rest[_NONCE:], _FIRST + _header(name, version, suffix)
        )
    except InvalidTag:
        raise UsageError(
            f"{place}: it cannot be decrypted as {name}@{version}: the key is another one, "
            "or the file was changed"
        ) from None
    if suffix not in FORMATS:
        raise UsageError(f"{place}: models of this kind are not served")
    return suffix, plain


def _header(name: str, version: str, suffix: str) -> bytes:
    return canonical({"name": name, "version": version, "suffix": suffix})


def _cipher(key: bytes) -> AESGCM:
    with needs_serve():
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    return AESGCM(key)

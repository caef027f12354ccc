"""The encrypted model that a server's controls pin: decrypted in memory, for the process that serves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.errors import UsageError
from bench.models.model_files import DECRYPTED
from bench.serve import encrypted_model, manifests, signatures


@dataclass(frozen=True)
class Pin:
    """The file, the name and version that it has to hold, its key, and the public key of its manifest."""

    file: Path
    name: str
    version: str
    key: bytes = field(repr=False)
    public_key: Path | None = None


@contextmanager
def pinned(pin: Pin | None) -> Iterator[None]:
    """Let ``load_model`` read the encrypted model of ``pin``, and no other, inside the block."""
    token = DECRYPTED.set(None if pin is None else partial(_decrypted, pin))
    try:
        yield
    finally:
        DECRYPTED.reset(token)


def _decrypted(pin: Pin, text: str, path: Path) -> tuple[str, bytes]:
    """Return the suffix and the bytes of the pinned model; raises UsageError for any other file.

    Where a public key is named, the folder of the file has to be as it was signed, before anything is read.
    ``text``: how the user names the file.
    """
    if path.resolve() != pin.file.resolve():
        raise UsageError(f"{text}: the controls name another model, {pin.file}")
    if pin.public_key is not None:
        try:
            manifests.verify(path.parent, "model", signatures.read_public_key(pin.public_key))
        except manifests.ManifestError as error:
            raise UsageError(f"{path.parent}: it is not as it was signed: {error}") from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{text}: it cannot be read: {error.strerror or error}") from error
    return encrypted_model.decrypt(content, name=pin.name, version=pin.version, key=pin.key, place=text)


def pin_of(
    *,
    file: str,
    name: str,
    version: str,
    key_env: str | None,
    key_file: str | None,
    public_key_file: str | None,
    folder: Path,
    environ: Mapping[str, str],
) -> Pin:
    """Return the pin of the table ``[model]`` of the controls in ``folder``; raises UsageError."""
    key = encrypted_model.read_key(key_env, None if key_file is None else folder / key_file, environ)
    public = None if public_key_file is None else folder / public_key_file
    return Pin(folder / file, name, version, key, public)

"""``moatbench model``: models that are encrypted and signed where they are stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.exit_codes import ExitCode

model_app = typer.Typer(
    help="Encrypt and sign models where they are stored, and verify them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with a model's files.")]


@model_app.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File for the new key, mode 0600.")],
    encryption: Annotated[
        bool, typer.Option("--encryption", help="A key to encrypt models with, instead of one to sign with.")
    ] = False,
) -> None:
    """Make a key: to sign with (Ed25519; the public one goes to FILE.pub), or to encrypt models with."""
    from bench.serve import encrypted_model, signatures

    if encryption:
        signatures.write_secret(file, encrypted_model.new_key())
        print(f"{file}: a key to encrypt models with")
        return
    public = signatures.new_key_pair(file)
    print(f"{file}: a private key; {public}: the public one, {_fingerprint(public)}")


@model_app.command()
def encrypt(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .skops, .onnx or .pt2 file.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME@VERSION", help="What the file will hold.")],
    out: Annotated[Path, typer.Option(help="File to write, which ends in .enc.")],
    key_file: Annotated[Path | None, typer.Option(help="File of the key, mode 0600.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Environment variable of the key.")] = None,
) -> None:
    """Encrypt a model (AES-256-GCM); it can be decrypted under its name and version alone."""
    from bench.cli.outputs import check_outputs
    from bench.errors import UsageError
    from bench.files import user_file, write_atomically
    from bench.serve import encrypted_model

    path = user_file(model, "model file")
    if path.suffix.lower() not in encrypted_model.FORMATS:
        raise UsageError(f"{model}: {', '.join(encrypted_model.FORMATS)} are served; no pickle is")
    if out.suffix != encrypted_model.SUFFIX:
        raise UsageError(f"--out {out}: the name of an encrypted model ends in {encrypted_model.SUFFIX}")
    title, version = encrypted_model.named(name)
    key = encrypted_model.read_key(key_env, key_file, os.environ)
    check_outputs(files={"--out": out}, inputs={"MODEL": path})
    content = encrypted_model.encrypt(
        path.read_bytes(), name=title, version=version, suffix=path.suffix.lower(), key=key
    )
    write_atomically(out, content)
    print(f"{out}: {title}@{version}; delete {model} where others can read it")


@model_app.command()
def sign(
    folder: Folder,
    key: Annotated[Path, typer.Option(help="Private key to sign with, mode 0600.")],
) -> None:
    """Sign the list of a folder's files, as FOLDER/manifest.json."""
    from bench.serve import manifests, signatures

    private = signatures.read_private_key(key)
    manifest = manifests.signed(manifests.made(folder, "model", {}), private)
    manifests.write(folder, manifest)
    print(f"{folder}: {len(manifest.files)} files signed, key {signatures.fingerprint(private.public_key())}")


@model_app.command()
def verify(
    folder: Folder,
    public_key: Annotated[Path, typer.Option(help="Public key of who signed it.")],
) -> None:
    """Find files that were changed, added or removed since a folder was signed; exit code 1 if any was."""
    from bench.serve import manifests, signatures

    key = signatures.read_public_key(public_key)
    try:
        manifest = manifests.verify(folder, "model", key)
    except manifests.ManifestError as error:
        print(f"{folder}: broken: {error}")
        raise typer.Exit(ExitCode.REGRESSION) from None
    print(f"{folder}: {len(manifest.files)} files are as they were signed, key {signatures.fingerprint(key)}")


def _fingerprint(public: Path) -> str:
    from bench.serve import signatures

    return signatures.fingerprint(signatures.read_public_key(public))

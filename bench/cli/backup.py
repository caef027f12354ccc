"""``moatbench backup``: a server's state, controls and encrypted model, signed, without keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.exit_codes import ExitCode

backup_app = typer.Typer(
    help="Make, sign, verify and restore backups of a server; they hold no keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A backup.")]
PublicKey = Annotated[Path, typer.Option(help="Public key of who signed it.")]
SIGN = "sign it where the key is: moatbench backup sign FOLDER --key FILE"


@backup_app.command()
def make(
    state: Annotated[Path, typer.Option(help="Folder that moatbench serve was given as --state.")],
    out: Annotated[Path, typer.Option(help="New folder for the backup.")],
    controls: Annotated[
        Path | None, typer.Option(help="The server's controls file; its terms and model are backed up too.")
    ] = None,
) -> None:
    """Write a backup of a server, which may run meanwhile; it has to be signed on another machine."""
    import os

    from bench.serve import backup
    from bench.serve.controls import Controls, load_controls

    settings = load_controls(controls) if controls else Controls()
    files = backup.files_of(settings, controls) if controls else {}
    folder = controls.parent if controls else Path()
    pepper = settings.keys.pepper(folder, state, os.environ) if settings.keys.on else None
    manifest = backup.make(state, out, files, pepper=pepper)
    print(f"{out}: {len(manifest.files)} files, audit log up to row {manifest.about['rows']}; no keys inside")
    if manifest.about["left_out"]:
        print("noise and watermark will be drawn anew: there is no pepper to encrypt what they follow from")
    print(SIGN)


@backup_app.command()
def sign(
    folder: Folder,
    key: Annotated[Path, typer.Option(help="Private key, mode 0600, which is not on the server.")],
) -> None:
    """Sign a backup, after a look at whether it is whole."""
    from bench.serve import backup, manifests, signatures

    private = signatures.read_private_key(key)
    try:
        manifest = backup.verify(folder, None)
    except manifests.ManifestError as error:
        print(f"{folder}: broken, and not signed: {error}")
        raise typer.Exit(ExitCode.REGRESSION) from None
    manifests.write(folder, manifests.signed(manifest, private))
    print(f"{folder}: {len(manifest.files)} files signed, key {signatures.fingerprint(private.public_key())}")


@backup_app.command()
def verify(folder: Folder, public_key: PublicKey) -> None:
    """Find out whether a backup is as it was signed, and whole; exit code 1 if it is not."""
    from bench.serve import backup, manifests, signatures

    key = signatures.read_public_key(public_key)
    try:
        manifest = backup.verify(folder, key)
    except manifests.ManifestError as error:
        print(f"{folder}: broken: {error}")
        raise typer.Exit(ExitCode.REGRESSION) from None
    print(f"{folder}: {len(manifest.files)} files are as they were signed, key {signatures.fingerprint(key)}")


@backup_app.command()
def restore(
    folder: Folder,
    public_key: PublicKey,
    to: Annotated[Path, typer.Option(help="Folder to write, which is empty or not there.")],
    pepper_file: Annotated[Path | None, typer.Option(help="File of the pepper of keys, mode 0600.")] = None,
    pepper_env: Annotated[str | None, typer.Option(help="Environment variable of the pepper.")] = None,
) -> None:
    """Verify a backup and write it to an empty folder, which moatbench serve then takes as --state."""
    import os

    from bench.serve import backup, manifests, signatures
    from bench.serve.secret_values import read_secret

    key = signatures.read_public_key(public_key)
    pepper = None
    if pepper_file or pepper_env:
        pepper = read_secret("the pepper of keys", variable=pepper_env, file=pepper_file, environ=os.environ)
    try:
        manifest = backup.restore(folder, key, to, pepper=pepper)
    except manifests.ManifestError as error:
        print(f"{folder}: broken, and not restored: {error}")
        raise typer.Exit(ExitCode.REGRESSION) from None
    print(f"{to}: {len(manifest.files)} files; counters go on from row {manifest.about['rows']} of the log")
    print(
        "put the pepper of keys where the controls expect it; moatbench keys init makes a second factor anew"
    )

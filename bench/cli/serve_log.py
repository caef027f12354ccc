"""``moatbench serve log``: whether a server's audit log is as it was written, and evidence from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.exit_codes import ExitCode

log_app = typer.Typer(
    help="Verify the audit log of a server, and export what it says of one client.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
State = Annotated[Path | None, typer.Option(help="Folder that moatbench serve was given as --state.")]
Checkpoints = Annotated[
    Path | None,
    typer.Option(help="File of checkpoints, or a copy of it that was kept elsewhere."),
]
PublicKey = Annotated[
    Path | None, typer.Option(help="Public key of the checkpoints (default: their file's name with .pub).")
]


@log_app.callback()
def log() -> None:
    """Verify the audit log of a server, and export what it says of one client."""


@log_app.command()
def verify(
    state: State = None,
    checkpoints: Checkpoints = None,
    public_key: PublicKey = None,
) -> None:
    """Find rows of an audit log that were edited, deleted, exchanged, cut off or written anew.

    Exit code 0: it holds up to the last checkpoint; 1: it is broken; 3: there is nothing to compare it with.
    """
    from bench.errors import UsageError
    from bench.serve import log_check, signatures
    from bench.serve.state import state_file

    if state is None:
        raise UsageError("give --state, the folder of the server")
    if checkpoints is None and public_key is not None:
        raise UsageError("--public-key is that of --checkpoints; give both")
    key = None
    if checkpoints is not None:
        public_key = public_key or checkpoints.with_name(f"{checkpoints.name}.pub")
        key = signatures.read_public_key(public_key)
    outcome = log_check.verify_log(state_file(state), checkpoints, key)
    print("\n".join(outcome.lines))
    if key is not None and public_key is not None:
        print(f"key of the checkpoints: {signatures.fingerprint(key)} ({public_key})")
    raise typer.Exit(
        {True: ExitCode.FINE, False: ExitCode.REGRESSION, None: ExitCode.INCOMPLETE}[outcome.holds]
    )

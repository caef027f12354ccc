"""``moatbench serve log``: whether a server's audit log is as it was written, and evidence from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from bench.exit_codes import ExitCode

if TYPE_CHECKING:
    from bench.serve.log_check import Outcome

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
    Path | None,
    typer.Option(
        help="Public key of the checkpoints (default: their file's name with .pub), or of evidence."
    ),
]


@log_app.callback()
def log() -> None:
    """Verify the audit log of a server, and export what it says of one client."""


@log_app.command()
def verify(
    state: State = None,
    checkpoints: Checkpoints = None,
    evidence: Annotated[
        Path | None, typer.Option(help="Instead of --state: a file of moatbench serve log export.")
    ] = None,
    public_key: PublicKey = None,
) -> None:
    """Find rows of an audit log that were edited, deleted, exchanged, cut off or written anew.

    Exit code 0: it holds up to the last checkpoint; 1: it is broken; 3: there is nothing to compare it with.
    """
    from bench.errors import UsageError
    from bench.serve import log_check, signatures
    from bench.serve.state import state_file

    if (state is None) == (evidence is None):
        raise UsageError("give --state, the folder of the server, or --evidence, a file from its log")
    if state is None:
        _end(_evidence(cast("Path", evidence), public_key, checkpoints))
    if checkpoints is None and public_key is not None:
        raise UsageError("--public-key is that of --checkpoints; give both")
    key = None
    if checkpoints is not None:
        public_key = public_key or public_key_of(checkpoints)
        key = signatures.read_public_key(public_key)
    outcome = log_check.verify_log(state_file(state), checkpoints, key)
    if key is not None and public_key is not None:
        of = f"key of the checkpoints: {signatures.fingerprint(key)} ({public_key})"
        outcome = log_check.Outcome(outcome.holds, (*outcome.lines, of))
    _end(outcome)


@log_app.command()
def export(
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="An account of the server.")],
    state: Annotated[Path, typer.Option(help="Folder that moatbench serve was given as --state.")],
    checkpoints: Annotated[Path, typer.Option(help="File of checkpoints.")],
    key: Annotated[Path, typer.Option(help="Private key to sign the evidence with, mode 0600.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    public_key: PublicKey = None,
) -> None:
    """Write what the log says of one client, for others to verify; it shows nothing of other clients."""
    import json
    import time

    from bench.cli.outputs import check_outputs
    from bench.files import write_atomically
    from bench.serve import evidence, signatures
    from bench.serve.state import state_file

    private = signatures.read_private_key(key)
    signer = signatures.read_public_key(public_key or public_key_of(checkpoints))
    read = {"--checkpoints": checkpoints, "--key": key, "--state": state_file(state)}
    check_outputs(
        files={"--out": out}, inputs={**read, "--public-key": public_key or public_key_of(checkpoints)}
    )
    document = evidence.exported(
        state_file(state), client, checkpoints, checkpoint_key=signer, key=private, made=time.time()
    )
    write_atomically(out, json.dumps(document, indent=0) + "\n")
    print(f"{out}: {len(document['rows'])} rows, key {signatures.fingerprint(private.public_key())}")


def public_key_of(checkpoints: Path) -> Path:
    """Return the file of the public key that lies beside checkpoints."""
    return checkpoints.with_name(f"{checkpoints.name}.pub")


def _evidence(file: Path, public_key: Path | None, checkpoints: Path | None) -> Outcome:
    from bench.errors import UsageError
    from bench.files import user_file
    from bench.serve import evidence, signatures

    if public_key is None:
        raise UsageError("--evidence needs --public-key, of who signed it")
    content = user_file(file, "file of evidence").read_bytes()
    return evidence.verify_evidence(content, signatures.read_public_key(public_key), checkpoints)


def _end(outcome: Outcome) -> NoReturn:
    """Print what was found, and end with its exit code."""
    from bench.report.terminal_page import printable

    print(printable("\n".join(outcome.lines)))
    raise typer.Exit(
        {True: ExitCode.FINE, False: ExitCode.REGRESSION, None: ExitCode.INCOMPLETE}[outcome.holds]
    )

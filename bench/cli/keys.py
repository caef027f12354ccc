"""``moatbench keys``: who may query a server. Every command but the first needs a second factor."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from bench.errors import UsageError

if TYPE_CHECKING:
    import sqlite3

    from bench.serve.access_controls import Keys
    from bench.serve.secret_values import Secret

T = TypeVar("T")
keys_app = typer.Typer(
    help="Make, revoke and list the keys of a server's clients, behind a second factor.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class KeyRole(StrEnum):
    """What a key allows."""

    client = "client"
    metrics = "metrics"


StateFolder = Annotated[Path, typer.Option("--state", metavar="DIR", help="Folder of the server's state.")]
ControlsFile = Annotated[
    Path | None, typer.Option("--controls", metavar="FILE", help="The server's controls, if it has a file.")
]
Code = Annotated[
    str | None,
    typer.Option("--code", metavar="CODE", help="The code that the authenticator shows (default: asked)."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="An account.")]


@keys_app.command()
def init(
    state: StateFolder,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="First accounts.")] = None,
    controls: ControlsFile = None,
) -> None:
    """Prepare a server's folder: the pepper of keys, and the second factor of who administers it.

    Prints the otpauth URI for an authenticator, and the keys of the accounts that are named. Each is shown
    this once.
    """
    from bench.serve import keys, second_factor
    from bench.serve.access_controls import PEPPER_FILE
    from bench.serve.secret_values import new_secret
    from bench.serve.signatures import write_secret
    from bench.serve.state import State, state_file

    settings = _settings(controls)
    first = [keys.checked_name(name) for name in names or ()]
    if len(set(first)) < len(first):
        raise UsageError("an account is named twice; name each once")
    with State(state_file(state)) as opened:
        if not settings.pepper_is_elsewhere and not (state / PEPPER_FILE).exists():
            with opened.transaction() as connection:
                second_factor.require_none(connection, state / PEPPER_FILE)
        if not settings.pepper_is_elsewhere and not (state / PEPPER_FILE).exists():
            write_secret(state / PEPPER_FILE, new_secret().encode())
        pepper = _pepper(state, controls)
        with opened.transaction() as connection:
            now = opened.now()
            uri = second_factor.enrol_admin(connection, pepper, now=now)
            made = [
                (name, keys.add(connection, pepper, name, "client", now=now, by=second_factor.ADMIN))
                for name in first
            ]
    _show([(second_factor.ADMIN, uri), *made])


@keys_app.command()
def add(
    state: StateFolder,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Accounts, one code for all.")],
    role: Annotated[KeyRole, typer.Option(help="client: may query; metrics: may read metrics.")] = (
        KeyRole.client
    ),
    code: Code = None,
    controls: ControlsFile = None,
) -> None:
    """Make accounts, or a new key for an account that was revoked; prints each key this once."""
    from bench.serve import keys, second_factor

    pepper = _pepper(state, controls)

    def act(connection: sqlite3.Connection, now: float) -> list[tuple[str, str]]:
        lines = []
        for name in names:
            key = keys.add(connection, pepper, name, role.value, now=now, by=second_factor.ADMIN)
            lines.append((name, key))
            if role is KeyRole.metrics:
                lines.append((name, second_factor.enrol(connection, pepper, name, now=now)))
        return lines

    _show(_perform(state, pepper, code, act))


@keys_app.command()
def revoke(name: Name, state: StateFolder, code: Code = None, controls: ControlsFile = None) -> None:
    """Revoke an account's key and tokens; all workers refuse them at once."""
    from bench.serve import keys, second_factor

    _perform(
        state,
        _pepper(state, controls),
        code,
        lambda connection, now: keys.revoke(connection, name, now=now, by=second_factor.ADMIN),
    )
    print(f"{name}: revoked")


@keys_app.command()
def restore(name: Name, state: StateFolder, code: Code = None, controls: ControlsFile = None) -> None:
    """End the suspension of an account and forget its flagged inputs."""
    from bench.serve import keys, second_factor

    _perform(
        state,
        _pepper(state, controls),
        code,
        lambda connection, now: keys.restore(connection, name, now=now, by=second_factor.ADMIN),
    )
    print(f"{name}: restored")


@keys_app.command(name="list")
def list_accounts(state: StateFolder, code: Code = None, controls: ControlsFile = None) -> None:
    """List accounts: role, inputs counted and flagged, and whether they are revoked or suspended."""
    from tabulate import tabulate

    from bench.serve import keys

    found = _perform(state, _pepper(state, controls), code, lambda connection, _now: keys.listed(connection))
    rows = [
        (
            each.name,
            each.role,
            each.spent,
            each.flagged,
            *map(_day, (each.made, each.revoked, each.suspended)),
        )
        for each in found
    ]
    headers = ("account", "role", "inputs", "flagged", "made", "revoked", "suspended")
    print(tabulate(rows, headers))


def _perform(
    folder: Path, pepper: Secret, code: str | None, act: Callable[[sqlite3.Connection, float], T]
) -> T:
    """Do an act of the admin; the code is asked for where none is given and there is a terminal."""
    from bench.serve import second_factor
    from bench.serve.state import State, state_file

    if code is None:
        if not sys.stdin.isatty():
            raise UsageError("the code of the authenticator is needed: --code CODE")
        code = str(typer.prompt("code of the authenticator", hide_input=True, err=True))
    if not state_file(folder).is_file():
        raise UsageError(f"{folder} has no state of a server; moatbench keys init --state {folder} makes one")
    with State(state_file(folder)) as state:
        return second_factor.perform(state, pepper, second_factor.ADMIN, code, act)


def _settings(controls: Path | None) -> Keys:
    from bench.serve.controls import Controls, load_controls

    return (load_controls(controls) if controls else Controls()).keys


def _pepper(folder: Path, controls: Path | None) -> Secret:
    near = controls.parent if controls else Path()
    return _settings(controls).pepper(near, folder, os.environ)


def _show(secrets: Sequence[tuple[str, str]]) -> None:
    """Print accounts with what is theirs; nothing else ever shows it."""
    for name, secret in secrets:
        print(f"{name} {secret}")
    print("keep these now: they are not shown again", file=sys.stderr)


def _day(time: float | None) -> str:
    return "" if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")

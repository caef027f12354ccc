"""The watermarked answers that each account got, in the state of a server, and as a file of the owner's."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from bench.errors import UsageError, shown
from bench.files import replacement
from bench.serve.predictor import Mark
from bench.serve.state import State

Strict = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
TABLE = """CREATE TABLE IF NOT EXISTS watermark (
    account TEXT NOT NULL, digest BLOB NOT NULL, time REAL NOT NULL, input TEXT NOT NULL, label TEXT NOT NULL,
    victim_label TEXT NOT NULL, classes TEXT NOT NULL, columns TEXT NOT NULL, PRIMARY KEY (account, digest)
) STRICT"""
KEYS = "CREATE TABLE IF NOT EXISTS watermark_key (only INTEGER PRIMARY KEY, key BLOB NOT NULL) STRICT"


def watermark_key(state: State) -> bytes:
    """Return the secret key of a server's watermark, drawn once: the same for all workers and later.

    Whoever knows it can leave the wrong answers out: it is shown to nobody.
    """
    with state.transaction() as connection:
        connection.execute(KEYS)
        drawn = secrets.token_bytes(32)
        connection.execute("INSERT OR IGNORE INTO watermark_key VALUES (1, ?)", (drawn,))
        (key,) = connection.execute("SELECT key FROM watermark_key").fetchone()
    return bytes(key)


class Trigger(pydantic.BaseModel):
    """An input that was answered with a wrong class.

    ``input``: as the model is given it, numbers, texts and null in lists. ``label``: the class that was
    answered, ``victim_label`` the model's own. ``time``: in seconds since 1970.
    """

    model_config = Strict

    input: list[Any]
    label: str
    victim_label: str
    time: float = 0.0

    @pydantic.model_validator(mode="after")
    def _wrong(self) -> Trigger:
        if self.label == self.victim_label:
            raise ValueError("a trigger's label is not the victim's")
        return self


class TriggerSet(pydantic.BaseModel):
    """The triggers of one client. ``classes``: their names in order; ``columns``: of a table, else empty."""

    model_config = Strict

    moatbench_triggers: Literal[1] = 1
    client: str
    classes: Annotated[list[str], pydantic.Field(min_length=2)]
    columns: list[str] = []
    triggers: list[Trigger]

    @pydantic.model_validator(mode="after")
    def _known(self) -> TriggerSet:
        named = {name for each in self.triggers for name in (each.label, each.victim_label)}
        if len(set(self.classes)) != len(self.classes) or named - set(self.classes):
            raise ValueError("labels are among the classes, and these differ")
        return self


def remember(
    connection: sqlite3.Connection,
    account: str,
    marks: Sequence[Mark],
    *,
    classes: Sequence[str],
    columns: Sequence[str] = (),
    time: float = 0.0,
) -> None:
    """Keep the marks of an answer to an account, inside the caller's transaction.

    An input that counts as one that the account had before is not kept again. ``classes``: names of the
    model's classes; ``columns``: of a table.
    """
    if not marks:
        return
    connection.execute(TABLE)
    for mark in marks:
        connection.execute(
            "INSERT OR IGNORE INTO watermark VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                account,
                mark.digest,
                time,
                json.dumps(mark.input),
                str(classes[mark.label]),
                str(classes[mark.victim_label]),
                json.dumps(list(map(str, classes))),
                json.dumps(list(columns)),
            ),
        )


def trigger_set(connection: sqlite3.Connection, account: str, *, alone: bool = False) -> TriggerSet:
    """Return the triggers of an account, oldest first; raises UsageError where it has none.

    ``alone``: without those that another account got too.
    """
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    rows = (
        connection.execute(
            "SELECT input, label, victim_label, time, classes, columns FROM watermark AS own "
            "WHERE account = ? AND NOT (? AND EXISTS (SELECT 1 FROM watermark AS other "
            "WHERE other.digest = own.digest AND other.account <> own.account)) ORDER BY time, digest",
            (account, alone),
        ).fetchall()
        if "watermark" in names
        else []
    )
    if not rows:
        only = " that no other account got" if alone else ""
        raise UsageError(f"account {shown(account)} was given no watermarked answer{only}")
    *_, classes, columns = rows[-1]
    # Another model may have been served before.
    same = [row for row in rows if row[4:] == (classes, columns)]
    return TriggerSet(
        client=account,
        classes=json.loads(classes),
        columns=json.loads(columns),
        triggers=[
            Trigger(input=json.loads(values), label=label, victim_label=own, time=time)
            for values, label, own, time, *_ in same
        ],
    )


def write_trigger_set(path: Path, triggers: TriggerSet) -> None:
    """Write the triggers as JSON, for the owner of the file alone: it is as secret as the key."""
    content = triggers.model_dump_json(indent=1) + "\n"
    with replacement(path.resolve()) as part:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode())


def read_trigger_set(path: Path) -> TriggerSet:
    """Return what :func:`write_trigger_set` wrote; raises UsageError, one sentence."""
    try:
        return TriggerSet.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {shown(str(path))}: {error.strerror}") from error
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path} is no file of moatbench watermark export: {place + ': ' if place else ''}{first['msg']}"
        ) from None

"""The file of ``moatbench watermark export``."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bench.cli.outputs import check_outputs
from bench.errors import UsageError, shown
from bench.serve.state import state_file
from bench.serve.watermark import trigger_set, write_trigger_set


def exported(client: str, state: Path, out: Path, *, alone: bool = False) -> int:
    """Write the triggers of a client; return how many. Raises UsageError where there are none.

    ``alone``: without those that another client got too.
    """
    file = state_file(state)
    if not file.is_file():
        raise UsageError(f"no state of a server in {shown(str(state))}; name the folder of moatbench serve")
    check_outputs(files={"--out": out}, inputs={"--state": file})
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = trigger_set(connection, client, alone=alone)
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{file} is no state of a server: {error}") from error
    write_trigger_set(out, found)
    return len(found.triggers)

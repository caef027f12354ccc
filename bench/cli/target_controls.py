"""``moatbench target controls``: which controls a target enforces."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import __version__
from bench.cli.model_options import victim_name
from bench.cli.outputs import check_outputs
from bench.errors import UsageError
from bench.exit_codes import ExitCode
from bench.files import write_atomically
from bench.remote.exchange import Inputs
from bench.remote.probing import pages
from bench.remote.probing.base import FAILS, UNTESTED, Finding
from bench.remote.probing.context import Triggers
from bench.remote.probing.opening import opened
from bench.remote.probing.registry import PROBES, chosen
from bench.remote.probing.run import INTERRUPTED, Outcome, planned_inputs, run_probes
from bench.remote.probing.sarif import sarif
from bench.remote.target import Target, load_target
from bench.report.terminal_page import printable

MOST_ROWS = 512
"""Inputs of the user's data that are used."""


@dataclass(frozen=True)
class Asked:
    """What the user asked for. ``options``: those that say where inputs are, that are set."""

    file: Path
    only: tuple[str, ...] = ()
    second_account: str | None = None
    limit: int | None = None
    allowed_host: str | None = None
    out: Path | None = None
    options: Mapping[str, Any] | None = None
    triggers: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder of ledger and results."""
        return self.out or Path("results") / victim_name(self.file.name)


def controls(asked: Asked) -> ExitCode:
    """Run the probes, print what they find, write three files, and return the exit code."""
    target = load_target(asked.file)
    probes = chosen(asked.only)
    inputs = _inputs(asked.options or {})
    folder = asked.folder
    files = {"the results": folder / "controls.md", "the JSON": folder / "controls.json"}
    check_outputs(files={**files, "the SARIF": folder / "controls.sarif"}, folders={"--out": folder})
    started = dt.datetime.now(dt.UTC)
    with opened(
        target,
        folder / "ledger.sqlite",
        folder=asked.file.resolve().parent,
        allowed_host=asked.allowed_host,
        environ=os.environ,
        inputs=inputs,
        second=asked.second_account,
        run_limit=asked.limit,
        triggers=None if asked.triggers is None else _triggers(asked.triggers, target),
    ) as found:
        most = planned_inputs(probes, found.context)
        if asked.limit is not None:
            most = min(most, asked.limit)
        _say(f"{pages.counted(probes)} of {found.url} ({found.permission}): at most {most:,} inputs")
        if found.earlier:
            _say(
                f"{found.earlier:,} inputs were booked by earlier probes of this target; this run books anew"
            )
        outcome = run_probes(probes, found.context, found.ledger, most=most, tell=_tell)
        tested = pages.Tested(
            file=_relative(asked.file),
            line=_line_of_url(asked.file),
            url=found.url,
            permission=found.permission,
            at=f"{started:%Y-%m-%d %H:%M} UTC",
            moatbench=__version__,
        )
    print("\n".join(printable(line) for line in pages.terminal(outcome)))
    write_atomically(folder / "controls.md", pages.markdown(outcome, tested))
    write_atomically(folder / "controls.json", pages.document(outcome, tested))
    write_atomically(folder / "controls.sarif", sarif(outcome, tested, PROBES))
    print(printable(str(folder / "controls.md")))
    if outcome.stopped == INTERRUPTED:
        raise KeyboardInterrupt  # after what was found and spent is written
    return _exit_code(outcome)


def _exit_code(outcome: Outcome) -> ExitCode:
    if outcome.stopped:
        _say(f"the run ended early: {outcome.stopped}")
    if any(each.verdict.result == FAILS for each in outcome.findings):
        return ExitCode.REGRESSION
    if outcome.stopped:
        return ExitCode.INCOMPLETE
    if all(each.verdict.result == UNTESTED for each in outcome.findings):
        _say("no probe of this run could test anything; each says above what it lacks")
        return ExitCode.INCOMPLETE
    return ExitCode.FINE


def _inputs(options: Mapping[str, Any]) -> Inputs | None:
    """Return the first inputs of the user's file, each once; None where none is named."""
    if options.get("data") is None:
        if options:
            raise UsageError("the other options need inputs; name them by --data FILE")
        return None
    import numpy as np

    from bench.data.sent_rows import on_the_wire
    from bench.data.user_data import load_data
    from bench.data.user_splits import row_groups

    data = load_data(options["data"], label=options.get("label"), columns=options.get("columns"))
    rows = np.unique(row_groups(data.x))[:MOST_ROWS]
    return on_the_wire(data, data.x[rows])


def _triggers(path: Path, target: Target) -> Triggers:
    """Return what ``moatbench watermark export`` wrote; raises UsageError where it is of another model."""
    import numpy as np

    from bench.serve.watermark import read_trigger_set

    found = read_trigger_set(path)
    places = {name: place for place, name in enumerate(target.classes)}
    if set(found.classes) != set(places):
        raise UsageError(f"{path} has the triggers of a model with other classes than the target file names")
    rows = [each.input for each in found.triggers]
    try:
        x = np.array(rows, dtype=np.float64)
    except (ValueError, TypeError):
        inputs = Inputs(np.zeros((len(rows), 1), np.float32), rows, tuple(found.columns))
    else:
        inputs = Inputs(x.astype(np.float32), x, tuple(found.columns))
    wrong, own = (
        np.array([places[name] for name in names], dtype=np.int64)
        for names in ([each.label for each in found.triggers], [each.victim_label for each in found.triggers])
    )
    return Triggers(inputs, wrong, own)


def _tell(finding: Finding) -> None:
    _say(f"{finding.probe.name}: {finding.verdict.result}")


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _relative(file: Path) -> str:
    """Return the path of a file from the working folder, as code hosts know it."""
    with suppress(ValueError, OSError):
        return file.resolve().relative_to(Path.cwd().resolve()).as_posix()
    return file.as_posix()


def _line_of_url(file: Path) -> int:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    named = (
        number for number, line in enumerate(lines, 1) if line.partition("=")[0].strip().strip("'\"") == "url"
    )
    return next(named, 1)

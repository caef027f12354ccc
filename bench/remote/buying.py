"""The process that buys answers, as the process that attacks sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

import bench
from bench.errors import BudgetError, MissingDataError, StoppedError, UsageError
from bench.remote.exchange import Inputs
from bench.remote.frames import BrokenFrameError, packed, read_frame, write_frame
from bench.remote.money import RunLimitError
from bench.remote.progress import Progress
from bench.run_facts import CampaignFacts

ERRORS: Mapping[str, type[Exception]] = {
    "UsageError": UsageError,
    "MissingDataError": MissingDataError,
    "BudgetError": BudgetError,
    "RunLimitError": RunLimitError,
    "StoppedError": StoppedError,
}
"""Errors that pass from the buying process to the other, by their names."""
MODULE = "bench.remote.buyer"
"""What the process runs."""
START = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
runpy.run_module(sys.argv.pop(), run_name="__main__", alter_sys=True)
"""
"""Starts it; an interrupt while it loads is for the process that started it, which then ends it."""
LINGER = 30.0
"""Seconds, besides those of a request, in which a process that is to end may finish what it has sent."""


class Buyer(Protocol):
    """Buys answers of one target, each (input, occurrence) once, within its caps.

    A *session* is one attack, or the evaluation: equal inputs of one session are different occurrences, which
    are bought one by one; the first occurrence in another session is the same purchase.
    """

    def ask(
        self, inputs: Inputs, *, session: str, purpose: str, account: str = "", fresh: bool = False
    ) -> NDArray[np.float64]:
        """Return answers (n, classes), rows of NaN for inputs that the target refuses, in order.

        ``purpose``: what it is booked under, as in :class:`bench.run_facts.CampaignFacts`. ``fresh``: buy all
        of it now, whatever was bought before. Raises UsageError where the target or its file is wrong,
        BudgetError where the caps do not allow all of it (nothing is sent then), and StoppedError where the
        same command can go on later.
        """

    def finish(self) -> None:
        """See a last time that the same model answers; raises as :meth:`ask`."""

    def facts(self) -> CampaignFacts:
        """Return what was bought so far, in this process and before."""

    def metadata(self) -> dict[str, Any]:
        """Return what the target says of itself for free, {} if nothing."""

    def close(self) -> None:
        """End the process; what was answered is in the ledger."""


class BuyingProcess:
    """A child process that buys; it has the keys, the ledger and the connections.

    It ends when this process does. ``on_progress`` is called while :meth:`ask` waits.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._process, self._on_progress = process, on_progress
        self._between = True  # orders; not in the middle of one that was interrupted
        self.pid = process.pid
        self._linger = LINGER

    def ask(
        self, inputs: Inputs, *, session: str, purpose: str, account: str = "", fresh: bool = False
    ) -> NDArray[np.float64]:
        """Return answers (n, classes); see :meth:`Buyer.ask`."""
        header, arrays = packed(inputs)
        terms = {"session": session, "purpose": purpose, "account": account, "fresh": fresh}
        _, (answers,) = self._call({"do": "ask", **terms, **header}, arrays)
        return cast("NDArray[np.float64]", answers)

    def finish(self) -> None:
        """See a last time that the same model answers."""
        self._call({"do": "finish"})

    def facts(self) -> CampaignFacts:
        """Return what was bought so far."""
        header, _ = self._call({"do": "facts"})
        return CampaignFacts.model_validate(header["facts"])

    def metadata(self) -> dict[str, Any]:
        """Return what the target says of itself for free, {} if nothing."""
        header, _ = self._call({"do": "metadata"})
        return dict(header["metadata"])

    def close(self) -> None:
        """End the process, once what it has sent is recorded."""
        process, self._between = self._process, False
        for stream in (
            process.stdout,
            process.stdin,
        ):  # it may be writing what nobody reads; the end of its orders
            with suppress(OSError):
                if stream:
                    stream.close()
        try:
            process.wait(self._linger)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def call_first(self, header: Mapping[str, Any]) -> None:
        """Tell the process what to buy of; raises what keeps it from it."""
        answer, _ = self._call(header)
        self._linger += answer["timeout"]  # an answer that is paid may come as late as that

    def _call(
        self, header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()
    ) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Return the answer to one order; raises the error that it ends with."""
        process = self._process
        if process.stdin is None or process.stdout is None or not self._between:
            raise StoppedError("the buying process has ended; run the same command to go on")
        self._between = False
        try:
            write_frame(process.stdin, header, arrays)
            while True:
                found = read_frame(process.stdout)
                if found is None:
                    break
                answer, content = found
                if "progress" in answer:
                    if self._on_progress is not None:
                        self._on_progress(Progress(**answer["progress"]))
                    continue
                self._between = True
                if "error" in answer:
                    raise _error(answer["error"], answer["message"])
                return answer, content
        except (BrokenFrameError, BrokenPipeError):
            pass
        code = process.wait()
        if code == ENDED_BY_USER:
            raise KeyboardInterrupt
        raise StoppedError(
            f"the buying process ended ({'signal' if code < 0 else 'exit code'} {abs(code)}); "
            "what was answered is kept: run the same command to go on"
        )


ENDED_BY_USER = 130
"""The exit code of a buying process that was interrupted."""


def _error(name: str, message: str) -> BaseException:
    """Return an error of the buying process as one of this."""
    if name == "KeyboardInterrupt":
        return KeyboardInterrupt()
    return ERRORS[name](message) if name in ERRORS else RuntimeError(f"the buying process failed: {message}")


def start_buyer(
    target_file: Path,
    ledger: Path,
    *,
    allowed_host: str | None = None,
    classes: int | None = None,
    planned: int | None = None,
    canary: bool = True,
    run_limit: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Buyer:
    """Start the process that buys answers of the target; raises UsageError where it may not.

    ``allowed_host``: the host that the user says they may test. ``ledger``: made where there is none.
    ``classes``: that the data have, if known; another number in the target file is an error. ``planned``:
    inputs that will be booked in all, canary included; the time that is left and the canary in the middle
    depend on it. ``canary``: whether to see, with up to 20 inputs a run, that the same model answers.
    ``run_limit``: most inputs that this process may book; more raises RunLimitError.
    """
    # Keys come from the environment. Modules of this project come from where they are now, and none from the
    # current folder, which may hold a json.py.
    path = os.pathsep.join([str(Path(bench.__file__).parents[1]), *_given(os.environ.get("PYTHONPATH"))])
    process = subprocess.Popen(  # noqa: S603  # our own module
        [sys.executable, "-P", "-c", START, MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    buyer = BuyingProcess(process, on_progress)
    try:
        buyer.call_first(
            {
                "do": "open",
                "target": str(target_file),
                "ledger": str(ledger),
                "allowed_host": allowed_host,
                "classes": classes,
                "planned": planned,
                "canary": canary,
                "run_limit": run_limit,
            }
        )
    except BaseException:
        buyer.close()
        raise
    return buyer


def _given(path: str | None) -> list[str]:
    return [path] if path else []

"""The process that buys: it has the keys, the ledger and the connections, and neither torch nor ART.

Orders come as frames on its standard input, answers go as frames to its standard output. It ends at the end
of its input, once what it has sent is recorded; an interrupt from the terminal, or its end, ends it the same
way.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from bench.errors import MoatbenchError, StoppedError, UsageError
from bench.remote.buying import ENDED_BY_USER
from bench.remote.campaign import campaign_facts
from bench.remote.exchange import Exchange
from bench.remote.frames import BrokenFrameError, read_frame, unpacked, write_frame
from bench.remote.ledger import Ledger
from bench.remote.lots import InterruptedPurchaseError
from bench.remote.money import Prices
from bench.remote.pace import Pace
from bench.remote.permission import LOOPBACK
from bench.remote.progress import Progress
from bench.remote.purchase import Purchaser
from bench.remote.target import Target, load_target
from bench.run_facts import CampaignFacts

Frame = tuple[dict[str, Any], list[NDArray[Any]]]
SWITCH_SECONDS = 0.0005
"""After so long a thread gives way to others."""
PROGRESS_SECONDS = 0.25
"""Progress is told at most so often."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A target that may be asked. ``url``: without anything secret; ``permission``: who allows it."""

    exchange: Exchange
    url: str
    fingerprint: str
    permission: str = LOOPBACK
    metadata: Callable[[], dict[str, Any]] = dict


Opener = Callable[[Target, Path, str | None], Opened]
"""Opens a target; also gets the folder of its file, and the host that the user says they may test."""


class Desk:
    """Does the orders of one parent process.

    ``opened``: how an exchange is opened. ``tell``: writes a frame to the parent.
    """

    def __init__(self, opened: Opener, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._opened, self._tell = opened, tell
        self._purchaser: Purchaser | None = None
        self._target: Opened | None = None
        self._facts: Callable[[], CampaignFacts]
        self._told = 0.0
        self._stopped = False

    def do(self, header: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> Frame:
        """Return the answer to one order."""
        if header["do"] == "open":
            return {"timeout": self._open(header)}, []
        purchaser, opened = self._purchaser, self._target
        if purchaser is None or opened is None:
            raise UsageError("no target is open")
        if header["do"] == "ask":
            names = ("session", "purpose", "account", "fresh")
            answers = purchaser.ask(unpacked(header, arrays), **{name: header[name] for name in names})
            return {}, [answers]
        if header["do"] == "finish":
            purchaser.finish()
            return {}, []
        if header["do"] == "metadata":
            return {"metadata": opened.metadata()}, []
        return {"facts": self._facts().model_dump(mode="json")}, []

    def _open(self, order: Mapping[str, Any]) -> float:
        """Open the target, and its ledger; return the seconds that a request may take."""
        file = Path(order["target"])
        target = load_target(file)
        if order["classes"] not in {None, len(target.classes)}:
            raise UsageError(
                f"{file} names {len(target.classes)} classes, and the data have {order['classes']}; name the "
                "classes of the target in the order of its answers"
            )
        opened = self._opened(target, file.resolve().parent, order["allowed_host"])
        self._target = opened
        prices, pace = Prices.of(target), Pace.of(target)
        ledger = Ledger(
            Path(order["ledger"]), opened.fingerprint, prices, pace=pace, run_limit=order["run_limit"]
        )
        needed = None if opened.permission == LOOPBACK else target.permission
        self._purchaser = purchaser = Purchaser(
            target,
            ledger,
            opened.exchange,
            fingerprint=opened.fingerprint,
            planned=order["planned"],
            canary=order["canary"],
            until=needed.until if needed else None,
            on_progress=self._progress,
        )
        self._facts = lambda: campaign_facts(
            ledger,
            target,
            name=file.stem,
            url=opened.url,
            permission=opened.permission,
            digits=purchaser.digits,
        )
        if self._stopped:
            purchaser.stop.set()
        return target.timeout

    def _progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.waits or now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._tell({"progress": dataclasses.asdict(progress)})

    def stop(self) -> None:
        """Send nothing more; what is being sent is still recorded."""
        self._stopped = True
        if self._purchaser is not None:
            self._purchaser.stop.set()

    def close(self) -> None:
        """Close the connections and the ledger."""
        if self._target is not None:
            self._target.exchange.close()
        if self._purchaser is not None:
            self._purchaser.close()


def serve(orders: IO[bytes], answers: IO[bytes], opened: Opener) -> int:
    """Do the orders of a parent until its end; return the exit code."""
    lock = threading.Lock()

    def tell(header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> None:
        with lock, suppress(OSError):  # nobody may read it any more
            write_frame(answers, header, arrays)

    desk = Desk(opened, tell)
    waiting: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
    interrupted = threading.Event()

    def read() -> None:
        """Read orders while others are being done, so that the end of the parent is noticed at once."""
        with suppress(BrokenFrameError, OSError):
            while (frame := read_frame(orders)) is not None:
                waiting.put(frame)
        desk.stop()
        waiting.put(None)

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one does not wait for what is being sent
        interrupted.set()
        desk.stop()
        waiting.put(None)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)
        # Windows has no SIGHUP. One that is ignored means nohup.
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            signal.signal(hangup, interrupt)
    threading.Thread(target=read, daemon=True).start()
    try:
        while (frame := waiting.get()) is not None and not interrupted.is_set():
            tell(*_answer(desk, *frame))
    finally:
        desk.close()
    return ENDED_BY_USER if interrupted.is_set() else 0


def _answer(desk: Desk, header: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> Frame:
    """Return the answer to an order, or the error that it ends with, in one sentence."""
    try:
        return desk.do(header, arrays)
    except InterruptedPurchaseError:
        return {"error": "KeyboardInterrupt", "message": "interrupted"}, []
    except (MoatbenchError, StoppedError) as error:
        return {"error": type(error).__name__, "message": str(error)}, []
    except Exception as error:  # noqa: BLE001  # told to the parent, which reports it
        # Its text may hold what nobody may see.
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"
        return {"error": "Exception", "message": words}, []


def open_target(target: Target, folder: Path, allowed_host: str | None) -> Opened:
    """Return a target that may be asked; raises UsageError where it may not."""
    from bench.remote import client

    exchange = client.open_exchange(target, folder=folder, allowed_host=allowed_host, environ=os.environ)
    return Opened(
        exchange,
        url=client.public_url(target),
        fingerprint=client.fingerprint(target, ""),
        permission=exchange.permission,
        metadata=exchange.metadata,
    )


def main(opened: Opener = open_target) -> int:
    """Serve the parent on the standard streams, which a target of the user's own may not write to."""
    # Every statement of the ledger lets other threads run. Those that write requests would give way only
    # after five milliseconds each time, and all others wait for the ledger meanwhile.
    sys.setswitchinterval(SWITCH_SECONDS)
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    code = serve(orders, answers, opened)
    sys.stderr.flush()
    os._exit(code)  # the thread that reads orders may wait for ever


if __name__ == "__main__":
    main()

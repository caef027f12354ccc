"""What the commands on a live target are asked for. Needs neither torch nor ART."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cli.model_options import victim_name
from bench.remote.buying import Buyer, start_buyer
from bench.run_facts import CampaignFacts


@dataclass(frozen=True)
class Request:
    """What the user asked for. ``options``: those that say where inputs are, that are set."""

    file: Path
    options: Mapping[str, Any]
    test: int
    budgets: tuple[int, ...]
    attacks: tuple[str, ...] = ()
    surrogates: tuple[str, ...] = ()
    repeats: int = 5
    buy_repeats: int = 1
    allowed_host: str | None = None
    out: Path | None = None

    @property
    def name(self) -> str:
        """A name for the target and its results' folder: that of its file."""
        return victim_name(self.file.name)

    @property
    def folder(self) -> Path:
        """The folder of ledger, store and report."""
        return self.out or Path("results") / self.name


@contextmanager
def buying(request: Request, **options: Any) -> Iterator[Buyer]:
    """Yield what buys answers; ``options``: of :func:`bench.remote.buying.start_buyer`."""
    buyer = start_buyer(
        request.file, request.folder / "ledger.sqlite", allowed_host=request.allowed_host, **options
    )
    try:
        yield buyer
    finally:
        buyer.close()


def latency(facts: CampaignFacts) -> float | None:
    """Return the seconds of one request with the fewest inputs, as measured; None where nothing was sent."""
    measured = {int(size): value for size, value in facts.latency_ms.items()}
    return measured[min(measured)] / 1000 if measured else None

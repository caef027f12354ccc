"""Metrics of a server in the text format of Prometheus, from the state file, so those of all its workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.serve.extra import needs_serve
from bench.serve.state import State

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

COUNTERS = {
    "requests": ("requests, by the control that refused them and by status", ("control", "status")),
    "inputs": ("inputs that were admitted, rejected or flagged by a defense, or got no answer", ("outcome",)),
    "seconds": ("seconds from the admission of inputs to their answer, summed", ()),
}
"""Help and labels of each count of :mod:`bench.serve.tallies`."""
GAUGES = {
    "accounts": ("accounts whose key is not revoked", "select count(*) from accounts where revoked is null"),
    "suspended_accounts": (
        "accounts that are suspended",
        "select count(*) from counters where suspended is not null",
    ),
}


class _Collector:
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        rows = self._state.rows("select name, control, status, total from tallies order by 1, 2, 3")
        for name, (text, labels) in COUNTERS.items():
            counter = CounterMetricFamily(f"moatbench_{name}", text, labels=labels)
            for found, control, status, total in rows:
                if found == name:
                    counter.add_metric([control, str(status)][: len(labels)], total)
            yield counter
        for name, (text, query) in GAUGES.items():
            yield GaugeMetricFamily(f"moatbench_{name}", text, value=self._state.rows(query)[0][0])


def metrics_text(state: State) -> bytes:
    """Return the metrics; no account and no address is named in them."""
    with needs_serve():
        from prometheus_client import CollectorRegistry, generate_latest
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(state))
    text: bytes = generate_latest(registry)
    return text

"""All probes, in the order in which they run: those that use an account up come last."""

from __future__ import annotations

from collections.abc import Sequence

from bench.errors import UsageError, nearest
from bench.remote.probes import (
    authentication,
    detection,
    error_leaks,
    noise,
    other_doors,
    pipelining,
    precision,
    race,
    rate_unit,
    resets,
    second_factor,
    second_key,
    size,
    smuggled_rows,
    spoofed_address,
    straddle,
    watermark,
    workers,
)
from bench.remote.probing.base import Probe

PROBES: tuple[Probe, ...] = (
    authentication.PROBE,
    second_factor.PROBE,
    other_doors.PROBE,
    smuggled_rows.PROBE,
    error_leaks.PROBE,
    precision.PROBE,
    noise.PROBE,
    watermark.PROBE,
    rate_unit.PROBE,
    spoofed_address.PROBE,
    second_key.PROBE,
    workers.PROBE,
    pipelining.PROBE,
    resets.PROBE,
    straddle.PROBE,
    size.PROBE,
    race.PROBE,
    detection.PROBE,
)


def chosen(names: Sequence[str]) -> list[Probe]:
    """Return the probes of these names, in the order in which they run; all if there are none."""
    known = [probe.name for probe in PROBES]
    for name in names:
        if name not in known:
            raise UsageError(f"there is no probe {name!r}; {nearest(name, known)}")
    return [probe for probe in PROBES if not names or probe.name in names]

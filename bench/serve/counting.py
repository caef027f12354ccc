"""What an account may still send: quota in all, rate in any window, suspension. Counted in inputs."""

from __future__ import annotations

import math
import re
import sqlite3
from dataclasses import dataclass

_RATE = re.compile(r"([1-9][0-9]{0,9})/(second|minute|hour|day)")
_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}

# The second condition on the time is the exact one; the first lets the index find the rows.
_OLD = "from spending where account = :account and at <= :edge and :now - at > :window"
_SUM_OF_OLD = "select sum(inputs) " + _OLD
_DELETE_OLD = "delete " + _OLD


@dataclass(frozen=True)
class Rate:
    """At most ``inputs`` in any ``seconds``, wherever those begin."""

    inputs: int
    seconds: float


@dataclass(frozen=True)
class Denied:
    """Why inputs are not admitted. ``wait``: seconds until they would be; None: they never will."""

    status: int
    text: str
    control: str
    wait: int | None = None


def parsed_rate(text: str) -> Rate:
    """Return the rate that "600/minute" means; raises ValueError for another text."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("it has to be inputs per second, minute, hour or day, as '600/minute'")
    return Rate(int(match[1]), _SECONDS[match[2]])


def admit(
    connection: sqlite3.Connection, account: str, inputs: int, now: float, cap: int | None, rate: Rate | None
) -> int | Denied:
    """Return how many inputs of an account were counted before, and count ``inputs`` more; Denied: why not.

    Suspension, quota and rate decide.
    ``now``: the steady time of :meth:`bench.serve.state.State.moment`, in the same transaction. ``cap``:
    inputs in all; None: any number. What was counted stays counted, whatever becomes of the request.

    The window is exact: every admission is a row, and those of the last ``rate.seconds`` are in the counter
    ``recent``. A row leaves it only when it is older than the window, so no window holds more than the limit.
    """
    if inputs < 1:
        raise ValueError(f"{inputs} inputs cannot be counted")
    most = min(inputs if cap is None else cap, inputs if rate is None else rate.inputs)
    if inputs > most:
        return Denied(413, f"a request may have at most {most} inputs", "quota")
    connection.execute("insert or ignore into counters (account) values (?)", (account,))
    (suspended,) = connection.execute(
        "select suspended from counters where account = ?", (account,)
    ).fetchone()
    if suspended is not None:
        return Denied(403, "the account is suspended", "suspension")
    if rate is not None:
        _forget(connection, account, now, rate)
    row = connection.execute(
        """update counters set spent = spent + :n, recent = recent + :counted where account = :account
           and (:cap is null or spent + :n <= :cap) and (:rate is null or recent + :n <= :rate)
           returning spent""",
        {
            "account": account,
            "n": inputs,
            "counted": inputs if rate else 0,
            "cap": cap,
            "rate": rate.inputs if rate else None,
        },
    ).fetchone()
    if row is None:
        return _denied(connection, account, inputs, now, cap, rate)
    if rate is not None:
        connection.execute("insert into spending values (?, ?, ?)", (account, now, inputs))
    return int(row[0]) - inputs


def flag(connection: sqlite3.Connection, account: str, flagged: int, now: float, after: int) -> bool:
    """Count flagged inputs of an account; return whether this suspends it: at ``after`` of them."""
    connection.execute("insert or ignore into counters (account) values (?)", (account,))
    connection.execute("update counters set flagged = flagged + ? where account = ?", (flagged, account))
    changed = connection.execute(
        "update counters set suspended = ? where account = ? and suspended is null and flagged >= ?",
        (now, account, after),
    )
    return changed.rowcount == 1


def _forget(connection: sqlite3.Connection, account: str, now: float, rate: Rate) -> None:
    """Remove the admissions that are older than the window."""
    old = {"account": account, "edge": now - rate.seconds + 1e-3, "now": now, "window": rate.seconds}
    (inputs,) = connection.execute(_SUM_OF_OLD, old).fetchone()
    if inputs is not None:
        connection.execute(_DELETE_OLD, old)
        connection.execute(
            "update counters set recent = recent - ? where account = ?", (int(inputs), account)
        )


def _denied(
    connection: sqlite3.Connection, account: str, inputs: int, now: float, cap: int | None, rate: Rate | None
) -> Denied:
    spent, recent = connection.execute(
        "select spent, recent from counters where account = ?", (account,)
    ).fetchone()
    if cap is not None and spent + inputs > cap:
        left = max(0, cap - spent)
        return Denied(429, f"the quota is {cap} inputs, of which {left} are left", "quota")
    if rate is None:
        raise AssertionError("nothing but quota and rate denies")
    rows = connection.execute("select at, inputs from spending where account = ? order by at", (account,))
    for at, count in rows:
        recent -= count
        if recent + inputs <= rate.inputs:
            # One second more: the row leaves the window after its end, not at it.
            wait = math.floor(max(0.0, at + rate.seconds - now)) + 1
            return Denied(429, f"at most {rate.inputs} inputs in {rate.seconds:.0f} s", "rate", wait)
    raise AssertionError("the counter of the window has inputs that no row has")

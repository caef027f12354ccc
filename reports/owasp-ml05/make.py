"""Makes ``report.md``, ``details.md`` and ``attackers.md`` from the ``measured.json`` of ``measure.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from measure import (
    ACCOUNT_PRICE,
    ACCOUNTS,
    ATTACKERS,
    FLAGGED,
    MOST_USERS,
    PRICE,
    QUOTA,
    RATE,
    REPEATS,
    REQUEST,
    ROUNDS,
    WANTED,
)
from scipy import stats

from bench.analysis.interval_text import number
from bench.files import write_atomically
from bench.metrics.intervals import share_interval
from bench.report.markdown import markdown

HERE = Path(__file__).parent
HELD = {
    "none": "no control",
    "quota": f"quota of {QUOTA} inputs an account",
    "rate": f"{RATE} inputs a minute an account",
    "suspension": f"detector; suspended after {FLAGGED} flagged inputs",
    "obfuscation": "labels alone",
    "watermark": "`dawn(rate=0.05)`",
    "all": "all of these",
}
OWASP = {
    "none": "–",
    "quota": "2, 7",
    "rate": "2, 7",
    "suspension": "7",
    "obfuscation": "4",
    "watermark": "5",
    "all": "2, 4, 5, 7",
}
FIDELITY = {"digits/mlp": "fidelity", "adult/mlp": "balanced fidelity"}
PAGE = (HERE / "page.md.txt").read_text(encoding="utf-8")


def page(measured: dict[str, Any]) -> str:
    """Return the page."""
    return PAGE.format(
        answers="\n".join(f"- **{name}.** {answer(name, found)}" for name, found in measured.items()),
        victims="\n\n".join(section(name, found) for name, found in measured.items()),
        repeats=REPEATS,
        price=PRICE,
        account=ACCOUNT_PRICE,
        wanted=WANTED,
        request=REQUEST,
        accounts=ACCOUNTS,
        users=MOST_USERS,
        rounds=ROUNDS,
        quota=QUOTA,
        few=WANTED // QUOTA,
        attackers=len(ATTACKERS),
    )


def answer(name: str, found: dict[str, Any]) -> str:
    """Return what the controls do for one victim."""
    by_name = {row["control"]: row for row in found["best"]}
    none, everything = by_name["none"], by_name["all"]
    users = {row["control"]: row for row in found["users"]}
    lost = 100 * (users["none"]["accuracy"] - users["all"]["accuracy"])
    return (
        f"Without controls, ${none['cheapest']['money']:.2f} buy a surrogate with a {FIDELITY[name]} of "
        f"{share(none['fidelity'])} %. Behind all controls it is {share(everything['fidelity'])} % for "
        f"${everything['cheapest']['money']:.2f} and {everything['cheapest']['accounts']:.0f} accounts, and "
        f"users lose {lost:.1f} points of accuracy."
    )


def section(name: str, found: dict[str, Any]) -> str:
    """Return the first page's table of one victim."""
    users = {row["control"]: row for row in found["users"]}
    table = [
        [
            HELD[row["control"]],
            share(row["fidelity"]),
            "–" if row["control"] == "none" else share(row["reduction"]),
            price(row["cheapest"]),
            accuracy(users[row["control"]]),
        ]
        for row in found["best"]
    ]
    headers = [
        "control",
        f"{FIDELITY[name]} (%)",
        "reduction (pp)",
        "what it takes",
        "users' accuracy (%)",
    ]
    return f"## {name}\n\n{markdown(headers, table)}"


def price(cheapest: dict[str, Any]) -> str:
    """Return money, accounts and hours of an attacker, who sends as many inputs behind every control."""
    accounts = f"{cheapest['accounts']:.0f}"
    hours = f", {cheapest['hours']:.2f} h" if cheapest["hours"] else ""
    return f"${cheapest['money']:.2f}, {accounts} account{'' if accounts == '1' else 's'}{hours}"


def details(measured: dict[str, Any]) -> str:
    """Return the page of each victim's further tables."""
    parts = [
        "# What it takes, what users lose, and latency",
        "[Report](report.md) says what the columns are.",
    ]
    for name, found in measured.items():
        parts += [f"## {name}", *tables(found)]
    return "\n\n".join(parts) + "\n"


def tables(found: dict[str, Any]) -> list[str]:
    """Return the further tables of one victim."""
    cheapest = [
        [OWASP[row["control"]], HELD[row["control"]], row["cheapest"]["attacker"], *effort(row["cheapest"])]
        for row in found["best"]
    ]
    lost = [
        [
            HELD[row["control"]],
            f"{100 * row['answered']:.1f}",
            accuracy(row),
            f"{100 * row['suspended']:.1f}",
        ]
        for row in found["users"]
    ]
    base = np.array(found["latency"]["none"])
    added = [
        [HELD[each], milliseconds(np.array(values) - base)]
        for each, values in found["latency"].items()
        if each != "none"
    ]
    effort_headers = ["ML05", "control", "cheapest attacker", "inputs", "accounts", "money ($)", "hours"]
    return [
        markdown(effort_headers, cheapest, text=3),
        markdown(["control", "answered (%)", "users' accuracy (%)", "suspended users (%)"], lost, text=1),
        markdown(["control", "added to a request (ms)"], added, text=1),
    ]


def accuracy(row: dict[str, Any]) -> str:
    """Return the accuracy that users see."""
    found = share_interval(round(row["accuracy"] * row["inputs"]), row["inputs"])
    return share([found.value, found.low, found.high])


def attackers(measured: dict[str, Any]) -> str:
    """Return the page of every attacker behind every control."""
    parts = ["# Every attacker, every control", "[Report](report.md) says who they are."]
    for name, found in measured.items():
        order = [row["attacker"] for row in found["attacks"]]
        every = [
            [row["attacker"], HELD[row["control"]], share(row["fidelity"]), *effort(row)]
            for row in sorted(found["attacks"], key=lambda row: order.index(row["attacker"]))
        ]
        headers = [
            "attacker",
            "control",
            f"{FIDELITY[name]} (%)",
            "inputs",
            "accounts",
            "money ($)",
            "hours",
        ]
        parts += [f"## {name}", markdown(headers, every, text=2)]
    return "\n\n".join(parts) + "\n"


def share(found: list[float]) -> str:
    """Return a share in percent with its interval, as the other reports write it."""
    value, low, high = (100 * each for each in found)
    return f"{number(value, 1)} [{number(low, 1)}, {number(high, 1)}]"


def effort(row: dict[str, Any]) -> list[str]:
    """Return inputs, accounts, money and hours of an attack, means over repeats."""
    hours = f"{row['hours']:.2f}" if row["hours"] else "0"
    return [f"{row['answered']:.0f}", f"{row['accounts']:.0f}", f"{row['money']:.2f}", hours]


def milliseconds(differences: Any) -> str:
    """Return the median in milliseconds, with its interval by order statistics."""
    rising, n = np.sort(differences) * 1000, len(differences)
    low = int(stats.binom.ppf(0.025, n, 0.5))
    return f"{np.median(rising):.1f} [{rising[low]:.1f}, {rising[n - 1 - low]:.1f}]"


if __name__ == "__main__":
    found = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))
    write_atomically(HERE / "report.md", page(found))
    write_atomically(HERE / "details.md", details(found))
    write_atomically(HERE / "attackers.md", attackers(found))

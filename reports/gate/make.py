"""Writes ``report.md``, ``details.md`` and a figure: error rates of the gate, on runs whose truth is known.

    moatbench run reports/gate/bank.toml --store results/bank/store.sqlite --out results/bank
    tox -e latency
    python reports/gate/streams.py results/bank/streams.sqlite
    python reports/gate/make.py results/bank/store.sqlite results/bank/streams.sqlite

``tox -e evidence`` does all of it, and goes on where it was interrupted: what make.py has measured lies in
``results/bank/measured``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

import joblib
import matplotlib as mpl
from draws import NONE, REPEATS, REPEATS_ELSEWHERE, Bank
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import (
    APART,
    CHANCE,
    EFFECTS,
    ELSEWHERE,
    NOISY,
    PAIRED,
    PLANTED,
    RETRAININGS,
    Caught,
    Coverage,
    Outcome,
    Power,
    at_tolerance,
    caught,
    coverage,
    dependence,
    detection_power,
    everywhere,
    largest,
    power,
)

from bench.analysis.interval_text import DASH
from bench.exit_codes import ExitCode
from bench.files import replacement
from bench.gate.baseline import read
from bench.gate.compare import TOLERANCE
from bench.gate.defense_rows import NATS
from bench.gate.rows import Decision, RowKind
from bench.metrics.intervals import share_interval
from bench.records import Record
from bench.report import sections
from bench.report.figures.style import BLUE, GREY, STYLE, place_axes
from bench.report.markdown import markdown
from bench.report.page import written
from bench.report.templates import rendered
from bench.sources import code
from bench.store import Store
from bench.tasks import DefenseEvaluation

T = TypeVar("T")

HERE = Path(__file__).parent
ORANGE, GREEN = "#d07a28", "#3c9d5b"
MODES = (PAIRED, APART)
PLACES = (PAIRED, APART, ELSEWHERE)
RUNS = {"alarms": 200, "power": 60, "everywhere": 100, "planted": 100, "coverage": 1000, "dependence": 25}
"""Comparisons behind every number; of power, at each place and effect."""
SHARES = (0.0, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)
"""Correlations of noise at which its detection is measured."""
NEEDED = 3
"""Points beyond the tolerance at which a change should be found in 95 of 100 runs."""

HOW = """\
A matrix (`bank.toml`) holds {repeats} repeats of every cell of the matrix `ci`, and of {plants} defenses that
were changed on purpose (`planted.py`: seeded regressions). It is taken as the truth. A run is drawn
from it: {drawn} repeats ({elsewhere} without the victim's data) and {inputs} test inputs, each with
replacement, the inputs the same for baseline and candidate, as in use.

- *Same seeds*: both have the same repeats; the gate finds that undefended surrogates are equal and compares
  in pairs. This is the case where only a defense was changed.
- *Other seeds*: the candidate's repeats are drawn anew, and its noise has another seed: of {streams} that
  were evaluated. This is the case where a change touches the order of random numbers.
- *Other seeds, retrained victim*: the candidate's victim was trained anew besides, by the same recipe with
  other rounding errors, as on another machine: one of {retrainings}. On a real one seeds are the same, which
  leaves less to chance.

A true effect of a given size is made by turning agreements of the baseline into disagreements: half of
them are all those of a few inputs, the others are scattered over surrogates and inputs. The utility loss
is lowered in every draw, by between half and one and a half times as much."""
ALARMED = """\
An alarm is exit code 1: a `weaker`, `costlier` or `broken` row, with `--strict` a `changed` one too. The
gate promises that a run in which no true effect exceeds the tolerance ({points:g} pp, {nats:g} nats) raises
one in at most 5 %, by default and with `--strict`. With an effect *at* the tolerance in every row that can
change (undefended surrogates cannot where seeds are the same) the bound has no margin."""
LARGEST = """\
Holm's procedure makes no assumption on dependence, which costs little power. With other seeds and every row
at the tolerance the largest statistic exceeds {0:.2f} in 5 % of runs, which is the most that a bootstrap
of it could gain; Bonferroni requires {1:.2f} of {2} attackers."""
POWERFUL = """\
One condition is changed at a time (a defense and a pool), all else stays. *Found*: the row that
changed is `weaker` or `costlier`. *Least row*: the one that is found least often. *All changed: some found*:
every row has that effect, and the share is of runs in which some row of the family is found."""
SEEN = """\
With the same victim and the same seeds nothing random is left in detection rates, in answer statistics and in
utility loss without noise: a difference beyond its limit is always seen, and one within it never is. With a
retrained victim, detection rates are tested."""
PLANTS = """\
True effects (pp, on the bank) on the best attack and on the attack on probabilities, where they are
largest; the share of {runs} runs with exit code 1, by default and with `--strict`; and the share in which a
kind of row raised an alarm or was `changed`."""
COVERED = """\
Nominal 95 % intervals over {draws:,} draws. *Repeats*: {repeats} repeats drawn, inputs as they are, by the
error over repeats. *Inputs*: inputs drawn, all of the bank's repeats, by the error over inputs. *Both*: the
interval that is shown, which is wider than either. The gate's rows are the shipped defenses next to the
changed ones. One of these, the leak by 1e-6, moves a single agreement of all repeats, which few draws of
repeats hold: the lowest share there."""
DEPENDENT = """\
Gaussian noise of which a part is drawn once an input. Its correlation between two queries of one input is
given; it counts as found at p ≤ {level:g} in any test of its independence, on {inputs} test inputs, over
{runs} seeds of the noise. {wanted} are found {least}."""
TIMED = """\
Medians ± interquartile ranges on one thread of {cpu}, Python {python}. The victim's own answer is part of
every row, and all of the row `none`; the difference to it is what a defense adds. Numbers of different
machines cannot be compared."""
SILENT = """\
- **False alarms.** With no effect, {none} (other seeds) and {elsewhere} (and a retrained victim) of {runs}
  runs ended with exit code 1, with `--strict` {none_strict} and {elsewhere_strict}. With a true effect at the
  tolerance in every row {paired} (same seeds) and {apart} (other seeds) did. Up to 16 are compatible with
  the 5 % that the gate promises."""
LOUD = """\
- **Power.** {needed} pp beyond the tolerance the one row that changed is found, with the same seeds, in
  {paired}."""
LESS = """\
- **Power with other seeds:** {apart}. There 95 % are found {from_}; below that too few of {inputs} test
  inputs and {repeats} repeats have changed for as many rows, and the gate says `cannot tell`. Where all rows
  change by {at:g} pp, as they do with another victim or library, it is noticed by {widely}."""
NOTICED = """\
- **Seeded regressions.** Of {all}, {noticed} end with exit code 1 in at least 95 of {runs} runs in each of
  three cases, and {strict} with `--strict`{missed}."""
HELD = """\
- **Intervals.** Nominal 95 % intervals contained the truth in {low:.1%} to {high:.1%} of {draws:,}
  draws."""

POWERS = "\n### Same seeds\n"
"""With these lines the tables of power begin."""
LINK = """

[Power at each effect, noise that is not new, every seeded regression, coverage, time, and how it was
made](details.md)"""
HEAD = """\
# Error rates of the regression gate: details

[The first page](report.md) says what was measured.

## False alarms

{alarms}
## Power at each effect

"""


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store", type=Path, help="the bank's store")
    parser.add_argument("streams", type=Path, help="the store of streams.py")
    parser.add_argument("--latency", type=Path, help="JSON of tox -e latency")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    baseline = read(given.store)
    with Store(given.streams) as store:
        streams = list(store.records())
    whole = Bank.of(baseline, streams)
    bank = whole.cut()
    kept = Kept(given.store.with_name("measured"), [*baseline.records, *streams])
    alarms = {
        (mode, size): kept(f"alarms, {mode.name}, {size}", at_tolerance, bank, mode, size, RUNS["alarms"])
        for mode, size in ((APART, 0), (ELSEWHERE, 0), (APART, 1), (PAIRED, 1))
    }
    powers = {
        (mode, effect): kept(f"power, {mode.name}, {effect}", power, bank, mode, effect, RUNS["power"])
        for mode in MODES
        for effect in EFFECTS
    }
    rates = {
        effect: kept(f"detection rates, {effect}", detection_power, bank, effect, RUNS["power"])
        for effect in EFFECTS
    }
    widely = {
        (mode, effect): kept(
            f"all changed, {mode.name}, {effect}", everywhere, bank, mode, effect, RUNS["everywhere"]
        )
        for mode in MODES
        for effect in EFFECTS
    }
    task = bank.evaluations[NOISY].task
    shown = (
        kept("dependence of noise", dependence, task, SHARES, RUNS["dependence"])
        if isinstance(task, DefenseEvaluation)
        else {}
    )
    found = {
        (what, mode): kept(f"{what}, {mode.name}", caught, whole, changes, mode, RUNS["planted"])
        for what, changes in PLANTED.items()
        for mode in PLACES
    }
    covered = kept("coverage", coverage, bank, whole, RUNS["coverage"])
    most = kept("largest statistic", largest, bank, RUNS["coverage"])
    parts = [
        "# Error rates of the regression gate",
        _verdict(alarms, powers, widely, found, covered, bank.inputs),
        "## Method",
        HOW.format(
            repeats=bank.repeats,
            plants=len({new for changes in PLANTED.values() for new in changes.values()} - {NONE}),
            inputs=bank.inputs,
            drawn=REPEATS,
            elsewhere=REPEATS_ELSEWHERE,
            streams=len(bank.streams[NOISY]),
            retrainings=RETRAININGS,
        ),
        *_alarms(alarms),
        LARGEST.format(*most),
        *_powers(powers, widely, given.out),
        *_rates(rates),
        *_dependence(shown, bank.inputs),
        *_planted(found),
        *_coverage(covered),
        *_latency(given.latency),
        "## How it was made",
        rendered("origin", **sections.run_facts(whole.meta, {})),
    ]
    first, details = paged("\n\n".join(part for part in parts if part))
    written(given.out / "report.md", [first])
    written(given.out / "details.md", [details])


def paged(page: str) -> tuple[str, str]:
    """Return the first page and that of details: its table, and everything from that of power on.

    Raises ValueError for a page without these tables.
    """
    first, mark, details = page.partition(POWERS)
    table = re.search(r"(?:^\|.*\n)+", first, re.MULTILINE)
    if not mark or table is None:
        raise ValueError("the page lacks the tables of false alarms and of power; it was split before")
    first = first.replace(table[0], "[The runs](details.md#false-alarms)\n")
    return first.rstrip() + LINK, HEAD.format(alarms=table[0]) + mark.lstrip() + details


class Kept:
    """What is measured, kept in a folder, so that an interrupted program goes on where it was.

    A result belongs to one bank, one number of runs and one state of the code.
    """

    def __init__(self, folder: Path, records: Iterable[Record]) -> None:
        keys = sorted(record.key for record in records)
        self.folder, self.of = folder, [code("draws", "measure", "planted").digest(), *keys]
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, measure: Callable[..., T], *given: Any) -> T:
        """Return what ``measure`` gives for ``given``, which ``name`` and the numbers in it identify."""
        numbers = [each for each in given if isinstance(each, (int, float, tuple))]
        name_of_file = hashlib.sha256(repr([name, numbers, self.of]).encode()).hexdigest()[:32]
        path = self.folder / f"{name_of_file}.joblib"
        if path.exists():
            found: T = joblib.load(path)
            return found
        started = time.perf_counter()
        found = measure(*given)
        with replacement(path) as partial:
            joblib.dump(found, partial)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        return found


def _loud(told: Sequence[Outcome], *, strict: bool = False) -> int:
    """Return how many runs ended with exit code 1."""
    return sum((each.strict if strict else each.default) is ExitCode.REGRESSION for each in told)


def _verdict(alarms: Any, powers: Any, widely: Any, found: Any, covered: Any, inputs: int) -> str:
    false = {key: _loud(told) for key, told in alarms.items()}
    strict = {key: _loud(told, strict=True) for key, told in alarms.items()}
    at = 100 * TOLERANCE + NEEDED
    families = list(powers[PAIRED, at])
    sure = {family: _sure([powers[APART, effect][family].alarm for effect in EFFECTS]) for family in families}
    missed = dict.fromkeys(what for (what, _), each in found.items() if each.default < 0.95)
    unseen = dict.fromkeys(what for (what, _), each in found.items() if each.strict < 0.95)
    inside = [each.mean for each in covered.values()]
    lines = [
        SILENT.format(
            paired=false[PAIRED, 1],
            apart=false[APART, 1],
            none=false[APART, 0],
            elsewhere=false[ELSEWHERE, 0],
            none_strict=strict[APART, 0],
            elsewhere_strict=strict[ELSEWHERE, 0],
            runs=RUNS["alarms"],
        ),
        LOUD.format(
            needed=NEEDED,
            paired=", ".join(
                f"{powers[PAIRED, at][family].alarm:.0%} ({family.label})" for family in families
            ),
        ),
        LESS.format(
            apart=", ".join(f"{powers[APART, at][family].alarm:.0%} ({family.label})" for family in families),
            from_=", ".join(f"{sure[family]} ({family.label})" for family in families),
            inputs=inputs,
            repeats=REPEATS,
            at=at,
            widely=", ".join(f"{family.label} in {widely[APART, at][family]:.0%}" for family in families),
        ),
        NOTICED.format(
            noticed=len(PLANTED) - len(missed),
            strict=len(PLANTED) - len(unseen),
            all=len(PLANTED),
            runs=RUNS["planted"],
            missed=f"; by default not: {'; '.join(missed)}" if missed else "",
        ),
        HELD.format(low=min(inside), high=max(inside), draws=RUNS["coverage"]),
    ]
    return "\n".join(fill(" ".join(line.split()), 110, subsequent_indent="  ") for line in lines)


def _sure(shares: Sequence[float]) -> str:
    """Return from how many pp on 95 % are found, between two effects in proportion."""
    for place, (low, high) in enumerate(pairwise(shares)):
        if low < 0.95 <= high:
            left, right = EFFECTS[place], EFFECTS[place + 1]
            return f"from {left + (0.95 - low) / (high - low) * (right - left):.1f} pp on"
    return f"beyond {EFFECTS[-1]} pp"


def _alarms(alarms: Mapping[Any, Sequence[Outcome]]) -> list[str]:
    rows = []
    for (mode, size), told in alarms.items():
        cells = []
        for strict in (False, True):
            loud = _loud(told, strict=strict)
            share = share_interval(loud, len(told))
            cells.append(f"{loud} of {len(told)} ({share.low:.1%} to {share.high:.1%})")
        unsure = f"{sum(each.strict is ExitCode.INCOMPLETE for each in told) / len(told):.0%}"
        if size:  # an answer statistic has changed then, which is what --strict is there to say
            cells[1] = unsure = DASH
        whole: Counter[tuple[RowKind, Decision]] = sum((each.verdicts for each in told), Counter())
        tested = Counter({key: n for key, n in whole.items() if key[0] is not RowKind.contract})
        verdicts = (Decision.same, Decision.cannot_tell, Decision.stronger)
        shares = [sum(n for (_, each), n in tested.items() if each is verdict) for verdict in verdicts]
        effect = "none" if not size else f"{100 * TOLERANCE:g} pp (.05 nats) in every row"
        rows.append([effect, mode.name, *cells, unsure] + [f"{each / tested.total():.1%}" for each in shares])
    headers = [
        "true effect",
        "",
        "exit code 1 (95 % interval)",
        "the same with `--strict`",
        "exit code 3 with `--strict`",
        "rows: same",
        "cannot tell",
        "better",
    ]
    return [
        "## False alarms",
        ALARMED.format(points=100 * TOLERANCE, nats=NATS),
        markdown(headers, rows, text=2),
    ]


def _powers(
    powers: Mapping[Any, Mapping[RowKind, Power]], widely: Mapping[Any, Mapping[RowKind, float]], out: Path
) -> list[str]:
    families = list(powers[PAIRED, EFFECTS[0]])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.6))
        for place, family in enumerate(families):
            axes = place_axes(figure, 0.65 + 3.05 * place, 0.55, 2.75, 2.0)
            _panel(axes, family, powers, widely)
            if place:
                axes.tick_params(labelleft=False)
            else:
                axes.set_ylabel("share of changed rows")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper left", ncols=2, frameon=False, bbox_to_anchor=(0.05, 1.0))
        (out / "figures").mkdir(parents=True, exist_ok=True)
        figure.savefig(out / "figures" / "power.svg", transparent=True, metadata={"Date": None})
    tables = []
    for mode in MODES:
        rows = []
        for family, effect in product(families, EFFECTS):
            each = powers[mode, effect][family]
            shares = (each.alarm, each.unsure, each.same, each.least, widely[mode, effect][family])
            rows.append([family.label, str(effect), *(f"{share:.0%}" for share in shares)])
        headers = [
            "kind",
            "effect (pp)",
            "found",
            "cannot tell",
            "same",
            "least row",
            "all changed: some found",
        ]
        tables += [f"### {mode.name.capitalize()}", markdown(headers, rows)]
    at = 100 * TOLERANCE + NEEDED
    least = [
        f"- of {family.label}, {mode.name}: {each.where} ({each.least:.0%})"
        for family in families
        for mode in MODES
        for each in (powers[mode, at][family],)
    ]
    return [
        "## Power",
        POWERFUL,
        "![Share of changed rows that are found, by the true effect](figures/power.svg)",
        "*Dashed: the tolerance, and three percentage points beyond it.*",
        SEEN,
        *tables,
        f"At {at:g} pp the least row is",
        "\n".join(least),
    ]


def _panel(
    axes: Axes,
    family: RowKind,
    powers: Mapping[Any, Mapping[RowKind, Power]],
    widely: Mapping[Any, Mapping[RowKind, float]],
) -> None:
    for mode, line in ((PAIRED, "-"), (APART, "--")):
        told = [powers[mode, effect][family] for effect in EFFECTS]
        axes.plot(EFFECTS, [each.alarm for each in told], line, color=BLUE, label=f"found, {mode.name}")
        axes.plot(
            EFFECTS, [each.unsure for each in told], line, color=ORANGE, label=f"cannot tell, {mode.name}"
        )
        some = [widely[mode, effect][family] for effect in EFFECTS]
        axes.plot(EFFECTS, some, line, color=GREEN, label=f"all rows changed: some found, {mode.name}")
    for limit in (100 * TOLERANCE, 100 * TOLERANCE + NEEDED):
        axes.axvline(limit, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set(title=family.label, xlabel="true effect (pp)", ylim=(-0.03, 1.03))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(visible=True)


def _rates(rates: Mapping[int, Power]) -> list[str]:
    rows = [
        [str(effect), f"{each.alarm:.0%}", f"{each.unsure:.0%}", f"{each.same:.0%}"]
        for effect, each in rates.items()
    ]
    return [
        "### Detection rates with a retrained victim",
        "The detector flags so many percentage points less of every pool.",
        markdown(["effect (pp)", "found", "cannot tell", "same"], rows),
    ]


def _dependence(shown: Mapping[float, float], inputs: int) -> list[str]:
    rows = [[f"{share:.2f}", f"{found:.0%}"] for share, found in shown.items()]
    sure = next((share for share, found in shown.items() if found >= 0.9), None)
    least = f"from {sure:g} on" if sure else f"beyond {max(shown):g}"
    return [
        "### Noise that is not new",
        DEPENDENT.format(level=CHANCE, runs=RUNS["dependence"], inputs=inputs, least=least, wanted="90 %"),
        markdown(["correlation", "found"], rows),
    ]


def _planted(found: Mapping[tuple[str, Any], Caught]) -> list[str]:
    rows, seen = [], []
    for (what, mode), each in found.items():
        shares = [f"{each.by[family]:.0%}" if each.by[family] else DASH for family in RowKind]
        gains = [f"{each.strength:+.1f}", f"{each.sentinel:+.1f}"] if mode is PAIRED else ["", ""]
        codes = [f"**{each.default:.0%}**", f"**{each.strict:.0%}**"]
        rows.append([what if mode is PAIRED else "", mode.name, *gains, *codes, *shares])
        if mode is PAIRED:
            always = [name for name, count in each.facts.items() if count >= RUNS["planted"] / 2]
            seen.append(f"- {what}: {', '.join(always) or DASH}.")
    headers = [
        "change",
        "",
        "best attack",
        "attack on probabilities",
        "exit code 1",
        "with `--strict`",
        *(kind.label for kind in RowKind),
    ]
    return [
        "## Seeded regressions",
        PLANTS.format(runs=RUNS["planted"]),
        markdown(headers, rows, text=2),
        "What is said in at least half of the runs with the same seeds:",
        "\n".join(seen),
    ]


def _coverage(covered: Mapping[tuple[str, str], Coverage]) -> list[str]:
    rows = [
        [
            name,
            component,
            f"{each.mean:.1%}",
            f"{each.low:.1%} to {each.high:.1%}",
            f"{100 * each.width:.2f}",
            each.rows,
        ]
        for (name, component), each in covered.items()
    ]
    headers = ["interval", "drawn anew", "contained the truth", "over rows", "mean width (pp)", "rows"]
    return [
        "## Coverage",
        COVERED.format(draws=RUNS["coverage"], repeats=REPEATS),
        markdown(headers, rows, text=2),
    ]


def _latency(path: Path | None) -> list[str]:
    if path is None:
        return []
    told = json.loads(path.read_text(encoding="utf-8"))
    answers: dict[str, dict[int, str]] = {}
    others = []
    for each in told["benchmarks"]:
        median, spread = each["stats"]["median"], each["stats"]["iqr"]
        queries = each["extra_info"].get("queries")
        if queries:
            cell = f"{1e6 * median / queries:,.1f} ± {1e6 * spread / queries:,.1f}"
            answers.setdefault(each["params"]["text"], {})[queries] = cell
        else:
            name = (each["params"] or {}).get("architecture", "")
            others.append([each["group"], name, f"{1e3 * median:,.2f} ± {1e3 * spread:,.2f}"])
    machine, cpu = told["machine_info"], told["machine_info"]["cpu"]
    sizes = sorted({size for each in answers.values() for size in each})
    rows = [[name, *(each.get(size, DASH) for size in sizes)] for name, each in answers.items()]
    facts = {"cpu": cpu.get("brand_raw", machine["machine"]), "python": machine["python_version"]}
    return [
        "## Time",
        TIMED.format(**facts),
        markdown(["defense", *(f"µs a query, in batches of {size}" for size in sizes)], rows),
        markdown(["what", "surrogate", "ms"], others, text=2),
    ]


if __name__ == "__main__":
    main()

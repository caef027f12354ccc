"""``moatbench assess``: looks at a model, measures how long it takes, chooses what to run, and runs it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from attacks.base import TransferSet
from bench import plugins
from bench.calls import parse_call
from bench.cli import checking
from bench.cli.confirmation import MOST, most_cells
from bench.cli.outputs import check_outputs
from bench.cli.progress import duration
from bench.cli.session import Progress, Session
from bench.errors import UsageError
from bench.files import write_atomically
from bench.metrics.balance import commonest_share, is_imbalanced
from bench.models.determinism import single_thread
from bench.models.model_check import Latency, base_rate
from bench.models.own_victims import own_victim
from bench.models.training_speed import seconds_of_trainings
from bench.models.victim_options import VictimOptions
from bench.models.victims import Victim
from bench.plan import assessment
from bench.plan.assessment import GAUSSIAN, ROUNDED, Scope, Subject
from bench.plan.durations import Durations
from bench.plan.matrix import Matrix, canonical_defense, read_matrix
from bench.records import Record
from bench.runner.local_backend import available_cores, worker_context
from bench.runner.run import run as run_tasks
from bench.store import Store
from bench.tasks import OWN, Cell, Task, VictimSpec

FIRST = "# Written by moatbench assess for: "
SEAL = "# Digest of what follows: "
EXACT = ("equation_solving", "path_finding")
"""Attacks that solve for a model, where they apply."""
MOST_OF_TIME = 0.2
"""Share of the time that the repeats of one attack may train for; a whole assessment has dozens."""
REPORT_SECONDS = 20.0
"""Time that is kept for the report and for what is left of uneven work."""
UNEVEN = 1.1
"""By how much work that is spread over processes takes longer than its share."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the user asked for. ``minutes``: that it may take. ``budgets``: empty to choose them."""

    options: VictimOptions
    name: str
    minutes: float = 10.0
    sells: assessment.Sells = "probabilities"
    budgets: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The request as one line, by which the same command recognises its matrix."""
        values = {**asdict(self), "options": self.options.model_dump()}
        return json.dumps(values, sort_keys=True, ensure_ascii=False)


@dataclass
class Assessment:
    """An assessment from its request to its report.

    ``out``: the folder of matrix, store and report. ``brought``: the model where it is in memory, and not in
    the files of the request; then ``jobs`` has to be 1.
    """

    request: Request
    out: Path
    jobs: int
    say: Say
    started: float
    brought: Victim | None = None

    @property
    def matrix_file(self) -> Path:
        """The matrix that the assessment writes."""
        return self.out / "matrix.toml"

    @property
    def store(self) -> Path:
        """The store of its results."""
        return self.out / "store.sqlite"

    def run(self, command: str, progress: Progress) -> tuple[Counter[str], list[str]]:
        """Run what is left; return the number of cells by status, and what to say at the end.

        Raises UsageError where the model or its data cannot be assessed, or not in the time.
        """
        text = self._earlier()
        if text is None:
            text = self._chosen()
            check_outputs(folders={"--out": self.out})
            write_atomically(self.matrix_file, _sealed(self.request, text))
            self.say(f"matrix: {self.matrix_file} (to run it again: {self._again()})")
        else:
            self.say(f"going on with {self.matrix_file}, which the same command has written")
        session = self._session(read_matrix(text, str(self.matrix_file), self.out))
        return session.run(jobs=self.jobs, fresh=False, command=command, progress=progress)

    def _again(self) -> str:
        words = ["moatbench", "run", self.matrix_file.as_posix()]
        if self.out != Path("results") / self.request.name:
            words += ["--store", self.store.as_posix(), "--out", self.out.as_posix()]
        return shlex.join(words)

    def _session(self, matrix: Matrix) -> Session:
        session = Session.of_matrix(matrix, store=self.store, out=self.out)
        if self.brought is not None or "victim" in vars(self):
            # What was looked at is what is run: a model is not loaded, and asked, a second time.
            spec = VictimSpec(OWN + self.request.name, "", matrix.seed)
            if not self.victim.fingerprint:
                with single_thread():
                    self.victim.check()
            worker_context(session.settings.as_they_are(session.tasks)).add({spec: self.victim})
        return session

    def _earlier(self) -> str | None:
        """Return the matrix that the same command has written; None where there is none of its own.

        Raises UsageError for a matrix that somebody else wrote or edited.
        """
        if not self.matrix_file.exists():
            return None
        first, _, rest = self.matrix_file.read_text(encoding="utf-8").partition("\n")
        seal, _, text = rest.partition("\n")
        if not first.startswith(FIRST) or seal != SEAL + _digest(text):
            raise UsageError(
                f"{self.matrix_file} was not written by moatbench assess, or was edited; run it with "
                f"{self._again()}, or name another folder with --out"
            )
        return text if first == FIRST + self.request.text else None

    # What is known of the model.

    @cached_property
    def victim(self) -> Victim:
        """The model with its splits."""
        return self.brought or own_victim(self.request.options, name=self.request.name, seed=0)

    @cached_property
    def subject(self) -> Subject:
        """What a plan has to know of the model."""
        splits, options = self.victim.splits, self.request.options
        pool = len(splits.pool.x)
        if self.request.budgets and max(self.request.budgets) > pool:
            raise UsageError(
                f"--budget {max(self.request.budgets)}: an attacker has {pool:,} inputs of these data; "
                "give at most that many queries, or more inputs"
            )
        return Subject(
            name=self.request.name,
            layout=self.victim.inputs.layout,
            shape=self.victim.shape,
            classes=self.victim.classes,
            pool=pool,
            calibration=len(splits.calibration.x),
            labelled=checking.labelled(self.victim),
            labels_only=self._labels_only(),
            public=options.public is not None,
            shifted=bool(options.shift),
            sells=self.request.sells,
            budgets=self.request.budgets,
        )

    def _labels_only(self) -> bool:
        answers = self.victim.probabilities(self.victim.splits.test.x)
        return bool((answers.max(axis=1) == 1).all())

    @cached_property
    def options(self) -> VictimOptions:
        """The options of the request, with the threshold that stands for one that is not stated."""
        options = self.request.options
        if options.threshold is None:
            base = base_rate(self.victim, labelled=checking.labelled(self.victim))
            return options.model_copy(update={"threshold": base.threshold if base else None})
        return options

    def _matrix(self, scope: Scope, description: str = "") -> str:
        options = relative(self.options, self.out)
        return assessment.matrix_text(
            self.subject, scope, options, head=_head(self.request, self._again()), description=description
        )

    # What to run.

    def _chosen(self) -> str:
        """Return the matrix to run, after looking and measuring; raises UsageError where it cannot be."""
        seen = checking.looked(self.victim, self.request.options)
        self.say(checking.headline(self.victim, self.request.options))
        for finding in seen.findings:
            self.say(f"  {checking.line(finding)}")
        self.say(f"  {checking.line(checking.latency_note(seen.latency))}")
        if seen.faults:
            raise UsageError(
                f"{self.request.options.model} cannot be assessed: {seen.faults[0]}"
                + (f" (and {len(seen.faults) - 1} more faults)" if seen.faults[1:] else "")
            )
        self._require_time_for_queries(seen.latency)
        existed = self.out.exists()
        check_outputs(folders={"--out": self.out}, files={"--out": self.store})
        try:
            return self._fitting(seen.latency)
        except UsageError:
            if not existed:
                shutil.rmtree(self.out, ignore_errors=True)  # the folder is ours, and nothing in it is of use
            raise

    def _require_time_for_queries(self, latency: Latency) -> None:
        """Raise UsageError where asking the model alone takes longer than there is."""
        seconds = self._query_seconds(latency, smallest=True)
        if seconds > 60 * self.request.minutes / 2:
            raise UsageError(
                f"at {latency.batched:.3g} ms a query, the model takes {duration(seconds)} for the inputs "
                f"of the smallest assessment; --minutes {math.ceil(seconds / 30)} is needed"
            )

    def _query_seconds(self, latency: Latency, *, smallest: bool = False) -> float:
        """Return the seconds of distinct queries in one process; every process asks for itself."""
        splits = self.victim.splits
        inputs = sum(len(getattr(splits, part).x) for part in ("calibration", "pool", "test"))
        return latency.batched * (inputs if smallest else inputs + 10_000) / 1000

    def _fitting(self, latency: Latency) -> str:
        """Return the matrix of the largest scope that fits the time, by what the first cells take."""
        known = set(plugins.attacks.names())
        exact = () if self.subject.labels_only else tuple(name for name in EXACT if name in known)
        self.say("measuring how long attacks on this model take on this machine …")
        self.subject = replace(self.subject, left_out=self._too_slow())
        whole = assessment.everything(self.subject, exact=exact)
        records = self._measured(whole)
        surrogates = self._by_fidelity(records, whole)
        durations = Durations.of(records)
        applicable = tuple(name for name in exact if _ran(records, name))
        left_out = {name: reason for name in exact if (reason := _reason(records, name))}
        spent = time.monotonic() - self.started
        room = 60 * self.request.minutes - spent

        def needed(scope: Scope) -> float:
            return self._seconds(scope, durations, records)

        minutes = {
            name: math.ceil((spent + needed(assessment.smallest(self.subject, name))) / 60) + 1
            for name in surrogates
        }
        scopes = (
            assessment.chosen(self.subject, name, applicable, lambda each: needed(each) <= room)
            for name in surrogates
        )
        scope = next((each for each in scopes if each is not None), None)
        if scope is None:
            raise UsageError(
                f"{self.request.minutes:g} minutes cannot hold even the smallest useful assessment of this "
                f"model; --minutes {min(minutes.values())} can"
            )
        about = f"{self.request.options.model} on {self.request.options.data}"
        about += f", chosen by moatbench assess for {self.request.minutes:g} minutes"
        if scope.surrogate != surrogates[0]:
            # A weaker attacker tells more than none, as long as the user is told.
            best = f"{surrogates[0]} makes the most faithful surrogates, but needs --minutes"
            best += f" {minutes[surrogates[0]]}: these attackers train {scope.surrogate}"
            self.say(f"  {best}, and get less")
            about += f"; {best}"
        self._announce(scope, whole, needed(scope), spent, left_out, records)
        return self._matrix(scope, about)

    def _too_slow(self) -> tuple[str, ...]:
        """Return the surrogates whose trainings would take too much of the time to measure anything else.

        Raises UsageError where all would.
        """
        splits, room = self.victim.splits, MOST_OF_TIME * 60 * self.request.minutes
        x = splits.pool.x[: self.subject.reference]
        bought = TransferSet(x, self.victim.probabilities(x).astype(np.float32))
        seconds = {
            name: seconds_of_trainings(
                name, bought, self.victim.classes, self.victim.inputs, assessment.REPEATS
            )
            for name in self.subject.surrogates
        }
        slow = {name: value for name, value in seconds.items() if value > room}
        if len(slow) == len(seconds):
            least = min(slow.values())
            raise UsageError(
                f"{assessment.REPEATS} repeats of one attack train for {duration(least)} on this machine; "
                f"--minutes {math.ceil(least / MOST_OF_TIME / 60)} is needed"
            )
        for name, value in slow.items():
            self.say(
                f"  surrogate {name} left out for lack of time: {assessment.REPEATS} repeats of one attack "
                f"train for about {duration(value)} (--minutes {math.ceil(value / MOST_OF_TIME / 60)})"
            )
        return tuple(slow)

    def _measured(self, whole: Scope) -> Sequence[Record]:
        """Run one cell of each kind, all repeats, at the reference budget; they count for the run as well."""
        session = self._session(read_matrix(self._matrix(whole), str(self.matrix_file), self.out))
        first = [task for task in session.tasks if self._is_first(task)]
        with Store(self.store, create=True) as store:
            run_tasks(first, store, session.settings, jobs=self.jobs, progress=self._in_time)
            records = store.records()
        for record in records:
            if record.status == "failed":
                raise UsageError(f"the first cells of the assessment fail: {record.error}")
        return records

    def _in_time(self, records: Iterable[Record], done: int, total: int) -> Iterator[Record]:
        """Yield the records; raises UsageError where measuring takes as long as the whole may."""
        for number, record in enumerate(records, done + 1):
            yield record
            spent, minutes = time.monotonic() - self.started, self.request.minutes
            if spent > 60 * minutes and number < total:
                whole = math.ceil(3 * spent / 60 * total / number)
                raise UsageError(
                    f"{minutes:g} minutes are over before it is known how long attacks on this model take; "
                    f"--minutes {whole} is likely to be enough"
                )

    def _is_first(self, task: Task) -> bool:
        """Return whether a task is one by which the time of all is estimated."""
        detector = canonical_defense(self.subject.detector)
        if not isinstance(task, Cell):
            return task.defense in ((), detector)
        if task.budget != self.subject.reference or task.threat.pool != "in-distribution":
            return False
        changed = () if self.subject.labels_only else canonical_defense(ROUNDED)
        against = {"auto": changed, "recover": changed, "evade": detector}
        against["average"] = canonical_defense(GAUSSIAN)
        name = parse_call(task.attack)[0]
        told = name == "labels" and not self.subject.labels_only  # it trains as copycat does
        return not told and task.defense == against.get(name, ())

    def _by_fidelity(self, records: Sequence[Record], whole: Scope) -> list[str]:
        """Return the surrogates, the one with which the same attack on no defense has the highest first."""
        metric = "extraction.balanced_fidelity" if self._is_imbalanced() else "extraction.fidelity"
        found: dict[str, list[float]] = {}
        for record in records:
            task = record.task
            if isinstance(task, Cell) and not task.defense and task.attack.startswith(("copycat", "labels")):
                value = record.metrics.get(metric)
                if record.status == "ok" and value is not None:
                    found.setdefault(task.threat.surrogate, []).append(value)
        means = {name: sum(values) / len(values) for name, values in found.items()}
        for name, value in means.items():
            seconds = Durations.of(records).estimate(
                [r.task for r in records if isinstance(r.task, Cell) and r.task.threat.surrogate == name][:1]
            )
            self.say(
                f"  surrogate {name}: fidelity {100 * value:.1f} % at {self.subject.reference:,} queries, "
                f"{seconds.seconds:.2g} s a training"
            )
        return sorted(means, key=lambda name: -means[name]) or [whole.surrogate]

    def _is_imbalanced(self) -> bool:
        labels = self.victim.probabilities(self.victim.splits.test.x).argmax(axis=1)
        return is_imbalanced(commonest_share(labels), self.victim.classes)

    def _seconds(self, scope: Scope, durations: Durations, records: Sequence[Record]) -> float:
        """Return the seconds that a scope takes from here, its confirmation and its report included."""
        matrix = read_matrix(self._matrix(scope), str(self.matrix_file), self.out)
        tasks = matrix.tasks()
        done = {record.task for record in records}
        work = durations.estimate(task for task in tasks if task not in done).seconds
        work += (
            self._confirmation(tasks, scope.surrogate, durations) * matrix.report.confirm / assessment.REPEATS
        )
        return UNEVEN * work / self.jobs + REPORT_SECONDS

    def _confirmation(self, tasks: Sequence[Task], main: str, durations: Durations) -> float:
        """Return the seconds of all repeats that a confirmation run takes at most, as often as those.

        It repeats what attackers with users' inputs do at the reference budget, with surrogate ``main``:
        without a defense, and with the best ones.
        """
        seconds: dict[tuple[str, ...], float] = defaultdict(float)
        for task in tasks:
            if isinstance(task, Cell) and task.budget == self.subject.reference:
                threat = task.threat
                if threat.pool == "in-distribution" and threat.surrogate == main:
                    seconds[task.defense] += durations.of_task(task) or 0
        undefended = seconds.pop((), 0)
        return undefended + sum(sorted(seconds.values(), reverse=True)[: MOST + 1])

    def _announce(
        self,
        scope: Scope,
        whole: Scope,
        seconds: float,
        spent: float,
        left_out: Mapping[str, str],
        records: Sequence[Record],
    ) -> None:
        """Say what will be run and how long it will take, and what is left out, with the reason."""
        matrix = read_matrix(self._matrix(scope), str(self.matrix_file), self.out)
        tasks = matrix.tasks()
        cells = [task for task in tasks if isinstance(task, Cell)]
        attacks = {task.attack.partition("(")[0] for task in cells}
        later = most_cells(matrix, tasks, matrix.report.confirm)
        others = f" and {', '.join(scope.others)}" if scope.others else ""
        self.say(f"attacks: {', '.join(sorted(attacks))}; they train {scope.surrogate}{others}")
        self.say(f"defenses: none, {', '.join(scope.defenses)}")
        self.say(
            f"{len(cells):,} cells: {', '.join(f'{n:,}' for n in scope.budgets)} queries, "
            f"{assessment.REPEATS} repeats; up to {later:,} more confirm the best defenses"
        )
        for name, reason in left_out.items():
            self.say(f"  not applicable: {name} ({reason})")
        if self.subject.reference < assessment.LEAST_ADAPTIVE:
            self.say(
                f"  below {assessment.LEAST_ADAPTIVE} queries the attack auto has too little to adapt by, so "
                "that no defense can be recommended; more inputs would help (--pool, --budget)"
            )
        if lacking := _lacking(scope, whole):
            self.say(f"  left out for lack of time: {', '.join(lacking)} (--minutes)")
        self.say(
            f"this takes at most about {duration(seconds)} in {self.jobs} process{'es' * (self.jobs != 1)}, "
            f"after {duration(spent)} to look and to measure (--minutes {self.request.minutes:g})"
        )


def start(request: Request, *, out: Path | None, jobs: int, say: Say | None = None) -> Assessment:
    """Return an assessment that has not begun; ``jobs``: processes, 0 for one per core."""
    return Assessment(
        request,
        out or Path("results") / request.name,
        jobs or available_cores(),
        say or partial(print, flush=True),
        time.monotonic(),
    )


def relative(options: VictimOptions, folder: Path) -> VictimOptions:
    """Return options whose paths, relative to the working folder, are relative to ``folder``."""

    def moved(text: str) -> str:
        return Path(os.path.relpath(Path(text).expanduser().resolve(), folder.resolve())).as_posix()

    module, _, name = options.model.rpartition(":")
    if module.endswith(".py"):
        model = f"{moved(module)}:{name}"
    else:
        model = options.model if module and name.isidentifier() else moved(options.model)
    paths = {
        key: moved(value)
        for key in ("data", "train", "pool", "public", "columns")
        if (value := getattr(options, key)) is not None
    }
    if options.label is not None and Path(options.label).suffix == ".npy":
        paths["label"] = moved(options.label)
    return options.model_copy(update={"model": model, **paths})


def _head(request: Request, again: str) -> str:
    return (
        f"An assessment of {request.options.model}, chosen to take {request.minutes:g} minutes.\n"
        f"Run it again, or what is left of it: {again}\n"
        "Add attacks, defenses and budgets as you like; moatbench list shows what there is. To keep it from\n"
        "getting worse: moatbench baseline STORE --out baseline.json, then moatbench gate."
    )


def _sealed(request: Request, text: str) -> str:
    return f"{FIRST}{request.text}\n{SEAL}{_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ran(records: Sequence[Record], attack: str) -> bool:
    return any(
        isinstance(r.task, Cell) and r.task.attack.partition("(")[0] == attack and r.status == "ok"
        for r in records
    )


def _reason(records: Sequence[Record], attack: str) -> str:
    """Return why an attack does not apply, or an empty string."""
    return next(
        (
            r.error or "no reason was given"
            for r in records
            if isinstance(r.task, Cell)
            and r.task.attack.partition("(")[0] == attack
            and r.status == "not_applicable"
        ),
        "",
    )


def _lacking(scope: Scope, whole: Scope) -> list[str]:
    """Return what the whole scope has beyond a scope, in words."""
    found = [each for each in whole.defenses if each not in scope.defenses]
    found += [f"{number:,} queries" for number in whole.budgets if number not in scope.budgets]
    found += [f"pool {name}" for name in whole.pools if name not in scope.pools]
    trained = {scope.surrogate, *scope.others}
    found += [f"surrogate {name}" for name in (whole.surrogate, *whole.others) if name not in trained]
    if scope.confirm < whole.confirm:
        found.append(f"{whole.confirm} instead of {scope.confirm} fresh repeats")
    return found

"""What ``moatbench assess`` runs: attackers, defenses, budgets and repeats that fit a model and a time.

Everything here is a pure function of what is known of the victim; :mod:`bench.cli.assessing` measures the
time and runs what is chosen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bench.inputs import Layout
from bench.models.victim_options import VictimOptions

Sells = Literal["labels", "ranking", "probabilities"]

LEAST_ADAPTIVE = 200
"""Queries below which the attack ``auto`` has too little to adapt by."""
REFERENCES = (1_000, 500, LEAST_ADAPTIVE)
"""Reference budgets; the largest is taken that is at most half of the attacker's pool."""
OWNED = 100
"""Inputs that an attacker against a detector has for themself; the pool must hold three times as many."""
REPEATS = 5
LEAST_CONFIRM, FEW_CONFIRM, CONFIRM = 5, 10, 20
"""Fresh repeats of the confirmation run: at the least, where time is short, and otherwise."""
FPR = 0.005
"""Share of benign queries that a detector may reject."""
ROUNDED, GAUSSIAN = "rounded(decimals=1)", "gaussian_noise(scale=0.05)"
SIGMOID = "reverse_sigmoid(beta=1.0, gamma=0.1)"
TOP_1 = "top_k(k=1)"
SURROGATES: Mapping[Layout, tuple[str, ...]] = {
    "table": ("mlp", "sklearn-boosting", "logistic"),
    "images": ("mlp", "cnn"),
    "sequences": ("mlp", "logistic"),
}
"""Surrogates by what an input is; the first is taken where time is short."""
POOLS: Mapping[Layout, tuple[str, ...]] = {
    "table": ("marginals", "noise"),
    "images": ("noise",),
    "sequences": ("marginals", "noise"),
}
"""What an attacker without data like the users' sends, by what an input is."""
SMALLEST_CNN = 8


@dataclass(frozen=True)
class Subject:
    """What is known of a victim. ``labelled``: whether its splits hold true labels.

    ``labels_only``: whether the model answers labels alone. ``public``, ``shifted``: whether it comes with
    these pools. ``pool``, ``calibration``: numbers of inputs. ``budgets``: those that the user asked for.
    ``left_out``: surrogates that take too long.
    """

    name: str
    layout: Layout
    shape: tuple[int, ...]
    classes: int
    pool: int
    calibration: int
    labelled: bool = True
    labels_only: bool = False
    public: bool = False
    shifted: bool = False
    sells: Sells = "probabilities"
    budgets: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def reference(self) -> int:
        """The budget at which defenses are compared."""
        if self.budgets:
            return sorted(self.budgets)[len(self.budgets) // 2]
        fitting = [budget for budget in REFERENCES if budget <= self.pool / 2]
        return fitting[0] if fitting else min(self.pool, LEAST_ADAPTIVE)

    @property
    def further_budgets(self) -> tuple[int, ...]:
        """The other budgets, the more telling first: a larger one, then a smaller one."""
        if self.budgets:
            return tuple(budget for budget in sorted(self.budgets, reverse=True) if budget != self.reference)
        larger = max((n for n in (2, 5, 10) if n * 400 <= self.pool), default=0) * 400
        found = [larger] if larger > self.reference else []
        return (*found, *([self.reference // 5] if self.reference >= 500 else [50]))

    @property
    def surrogates(self) -> tuple[str, ...]:
        """The surrogates that fit its inputs."""
        names = SURROGATES[self.layout]
        if self.layout == "images" and min(self.shape[1:]) < SMALLEST_CNN:
            names = ("mlp", "logistic")
        return tuple(name for name in names if name not in self.left_out)

    @property
    def detector(self) -> str:
        """The detector, at the smallest rate of false positives that the calibration split can hold."""
        fpr = max(FPR, round(2.5 / (self.calibration + 1) + 0.0005, 3))
        return f"mahalanobis(fpr={fpr:g}, action=refuse)"


@dataclass(frozen=True)
class Scope:
    """What is run: one choice of everything that can be left out for lack of time.

    ``surrogate``: the attackers' main one; ``others``: those that one attack is also run with. ``defenses``:
    without ``none``. ``exact``: attacks that solve for the model. ``pools``: of attackers without data like
    the users'.
    """

    surrogate: str
    budgets: tuple[int, ...]
    defenses: tuple[str, ...]
    others: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    confirm: int = LEAST_CONFIRM


def smallest(subject: Subject, surrogate: str = "") -> Scope:
    """Return the smallest scope that is worth running."""
    defenses: tuple[str, ...] = () if subject.labels_only else ("label_only", ROUNDED)
    if subject.labels_only and _detectable(subject):
        defenses = (subject.detector,)
    return Scope(surrogate or subject.surrogates[0], (subject.reference,), defenses)


def additions(subject: Subject, exact: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """Return what can be added to the smallest scope, as fields and values, the most telling first.

    ``exact``: attacks that solve for the model and apply to it.
    """
    wanted = [("budgets", number) for number in subject.further_budgets]
    defenses: tuple[str, ...] = () if subject.labels_only else (SIGMOID, subject.detector, GAUSSIAN)
    if not _detectable(subject):
        defenses = tuple(each for each in defenses if each != subject.detector)
    return [
        ("confirm", FEW_CONFIRM),
        *(wanted if subject.budgets else ()),
        *(("defenses", each) for each in defenses[:1]),
        *(("exact", each) for each in exact),
        *(("defenses", each) for each in defenses[1:]),
        *(("pools", "public") for _ in range(subject.public)),
        *(("pools", "shifted") for _ in range(subject.shifted)),
        ("confirm", CONFIRM),
        *(("defenses", TOP_1) for _ in range(subject.classes > 2 and not subject.labels_only)),
        *(() if subject.budgets else wanted),
        *(("pools", name) for name in POOLS[subject.layout]),
        *(("others", name) for name in subject.surrogates),
    ]


def added(scope: Scope, name: str, value: Any) -> Scope:
    """Return a scope with one more value of the field ``name``."""
    if name == "confirm":
        return replace(scope, confirm=value)
    if name == "others" and value == scope.surrogate:
        return scope
    values = (*getattr(scope, name), value)
    changed: dict[str, Any] = {name: tuple(sorted(values)) if name == "budgets" else values}
    return replace(scope, **changed)


def _detectable(subject: Subject) -> bool:
    """Return whether there are inputs for a detector and for an attacker who evades it."""
    return subject.pool >= 3 * OWNED and subject.calibration >= OWNED and subject.reference > OWNED


def chosen(
    subject: Subject, surrogate: str, exact: tuple[str, ...], fits: Callable[[Scope], bool]
) -> Scope | None:
    """Return the largest scope that fits, or None where not even the smallest does.

    ``fits``: whether a scope can be run in the time.
    """
    scope = smallest(subject, surrogate)
    if not fits(scope):
        return None
    for name, value in additions(subject, exact):
        larger = added(scope, name, value)
        if larger != scope and fits(larger):
            scope = larger
    return scope


def everything(subject: Subject, surrogate: str = "", exact: tuple[str, ...] = ()) -> Scope:
    """Return the scope with all additions."""
    scope = smallest(subject, surrogate)
    for name, value in additions(subject, exact):
        scope = added(scope, name, value)
    return scope


@dataclass(frozen=True)
class Text:
    """A block of the matrix, with a comment that says who the attacker is."""

    comment: str
    values: Mapping[str, Any]


def blocks(subject: Subject, scope: Scope) -> Iterator[Text]:
    """Yield the blocks of the matrix."""
    base: dict[str, Any] = {"victim": subject.name, "surrogate": scope.surrogate, "pool": "in-distribution"}
    all_defenses, budgets = ["none", *scope.defenses], list(scope.budgets)
    plain = ["labels"] if subject.labels_only else ["copycat(use_probability=true)", "labels"]
    own = ["own_labels"] if subject.labelled else []
    yield Text(
        "An attacker with inputs like your users', who does not know the defense.",
        {**base, "defense": all_defenses, "attack": [*plain, *own], "budget": budgets},
    )
    informed = ["auto"] if subject.labels_only else ["auto", "recover"]
    yield Text(
        "The same, told which defense stands there, with its parameters: attacks that adapt.",
        {**base, "knowledge": "full", "defense": all_defenses, "attack": informed, "budget": budgets},
    )
    full: dict[str, Any] = {**base, "knowledge": "full", "budget": budgets}
    if GAUSSIAN in scope.defenses:
        yield Text(
            "Answers that vary are asked for again and averaged.",
            {**full, "defense": ["none", GAUSSIAN], "attack": "average"},
        )
    if subject.detector in scope.defenses:
        probable = "false" if subject.labels_only else "true"
        yield Text(
            f"A detector is evaded, with {OWNED} inputs of the attacker's own.",
            {
                **full,
                "defense": ["none", subject.detector],
                "attack": f"evade(own={OWNED}, use_probability={probable}, blend=None, clients=None)",
                "budget": [budget for budget in budgets if budget > OWNED],
            },
        )
    if scope.exact:
        yield Text(
            "The model's own equations are solved: what exact answers give away.",
            {**base, "defense": all_defenses, "attack": list(scope.exact), "budget": budgets},
        )
    few = ["none", *[each for each in scope.defenses if each in ("label_only", ROUNDED, subject.detector)]]
    reference = [subject.reference]
    if scope.others:
        yield Text(
            "Attackers who train other models.",
            {**base, "surrogate": list(scope.others), "defense": few, "attack": plain, "budget": reference},
        )
    if scope.pools:
        yield Text(
            "Attackers who have no inputs like your users'.",
            {**base, "pool": list(scope.pools), "defense": few, "attack": plain, "budget": reference},
        )


def matrix_text(
    subject: Subject, scope: Scope, options: VictimOptions, *, head: str = "", description: str = ""
) -> str:
    """Return the matrix of a scope as a commented TOML file.

    ``options``: where model and data are, relative to the matrix file. ``head``: lines of comment.
    """
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    lines += [
        f"name = {_toml(subject.name)}",
        f"description = {_toml(description)}",
        f"repeats = {REPEATS}",
        'detect = ["noise"]                  # made-up inputs, on which detectors are measured',
        'sentinels = ["labels"]              # what moatbench gate compares besides the best attack',
        f"reference_budget = {{ {_key(subject.name)} = {subject.reference} }}",
        "",
        f"[victims.{_key(subject.name)}]    # paths are relative to this file",
        *(f"{name} = {_toml(value)}" for name, value in _changed(options).items()),
        "",
        "[report]                            # the recommendation; see README",
        f"sells = {_toml(subject.sells)}",
        f"confirm = {scope.confirm}                        # fresh repeats that confirm the best defenses",
    ]
    if options.threshold is not None:
        lines.append(f"thresholds = {_toml(sorted({options.threshold, 0.9}))}")
    for block in blocks(subject, scope):
        lines += ["", f"# {block.comment}", "[[block]]"]
        lines += [f"{name} = {_toml(value)}" for name, value in block.values.items()]
    return "\n".join(lines) + "\n"


def _changed(options: VictimOptions) -> dict[str, object]:
    """Return the options that differ from their defaults."""
    defaults = {name: field.default for name, field in VictimOptions.model_fields.items()}
    return {name: value for name, value in options.model_dump().items() if value != defaults[name]}


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else json.dumps(name)


def _toml(value: object) -> str:
    """Return a text, a number, a list or a table of texts as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        entries = [_toml(each) for each in value]
        line = f"[{', '.join(entries)}]"
        return line if len(line) <= 90 else "[\n    " + ",\n    ".join(entries) + ",\n]"
    return json.dumps(value, ensure_ascii=False)

"""Matrix files: blocks of axes, read, checked and expanded to cells and audits."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from bench import plugins as registry
from bench.calls import parse_call
from bench.data import datasets, query_pools
from bench.errors import MissingDataError, UsageError, nearest
from bench.models import training_config
from bench.models.sklearn_surrogates import ESTIMATORS
from bench.plan.study import Headline, PublishedValue, Study, Table, Where
from bench.tasks import Cell, DefenseEvaluation, Task, ThreatModel, VictimSpec

ARCHITECTURES = ("mlp", "mlp128", "lenet", "cnn", "resnet18", "logistic")
"""Networks that victims and surrogates can be."""
SURROGATES = (*ARCHITECTURES, *ESTIMATORS)
"""What a surrogate can be."""
VICTIMS = (*ARCHITECTURES, "tree")
"""What a victim of ours can be; ``logistic`` and ``tree`` are scikit-learn's."""
AXES = (
    *("data", "victim", "splits", "defense", "attack", "pool", "knowledge", "surrogate", "shows"),
    *("training", "budget", "repeat"),
)
"""The axes of a matrix, by the names that ``--only`` takes."""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Listed = pydantic.BeforeValidator(_listed)
Texts = Annotated[list[str], Listed, pydantic.Field(min_length=1)]


class Block(pydantic.BaseModel):
    """A product of axes. Every axis takes one value or a list; a stacked defense is a list itself."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    data: Texts = ["digits"]
    victim: Texts = ["mlp"]
    splits: Annotated[list[Literal["disjoint", "official"]], Listed, pydantic.Field(min_length=1)] = [
        "disjoint"
    ]
    defense: Annotated[list[str | list[str]], Listed, pydantic.Field(min_length=1)] = ["none"]
    attack: Texts
    pool: Texts = ["in-distribution"]
    """Where queries come from; "NAME?" only where its data is."""
    knowledge: Annotated[list[Literal["none", "family", "full"]], Listed, pydantic.Field(min_length=1)] = [
        "none"
    ]
    surrogate: Texts = ["mlp"]
    shows: Annotated[list[Literal["probabilities", "labels"]], Listed, pydantic.Field(min_length=1)] = [
        "probabilities"
    ]
    training: Texts = ["rule"]
    budget: Annotated[list[Annotated[int, pydantic.Field(ge=1)]], Listed, pydantic.Field(min_length=1)]
    repeats: Annotated[int, pydantic.Field(ge=1)] | None = None


class Matrix(pydantic.BaseModel):
    """A matrix file: blocks, and what holds for all of them."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    name: str
    description: str = ""
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    repeats: Annotated[int, pydantic.Field(ge=1)] = 5
    plugins: list[str] = []
    """Python files with attacks or defenses, relative to the matrix file."""
    detect: list[str] = []
    """Pools on which detectors are measured, beside the test split; "NAME?" only where its data is."""
    sentinels: list[str] = []
    """Attacks that a comparison of runs looks at on their own; parameters left out are left open."""
    reference_budget: dict[str, Annotated[int, pydantic.Field(ge=1)]] = {}
    """Per data set, the budget whose undefended fidelity the query multiplier asks for."""
    study: Study | None = None
    """What was published, and which cells stand beside it."""
    block: Annotated[list[Block], pydantic.Field(min_length=1)]

    _text: str = pydantic.PrivateAttr("")
    _folder: Path = pydantic.PrivateAttr(Path())

    @property
    def text(self) -> str:
        """The file as it was read."""
        return self._text

    def remember(self, text: str, folder: Path) -> None:
        """Keep what the file said and where it lay."""
        self._text, self._folder = text, folder

    @property
    def plugin_files(self) -> list[Path]:
        """The files of ``plugins``, resolved."""
        return [(self._folder / name).resolve() for name in self.plugins]

    def tasks(
        self, victim: str | None = None, repeats: int | None = None, data_root: Path | None = None
    ) -> list[Task]:
        """Return audits, then cells; equal ones merged, in an order that keeps like trainings apart.

        ``victim``: a reference that takes the place of every victim. ``repeats``: instead of the
        file's. ``data_root``: where optional pools are looked for. Raises UsageError for any name or
        value that is not known.
        """
        for text in self.sentinels:
            registry.attacks.build(text)
        cells: dict[Cell, None] = {}
        for block in self.block:
            number = repeats or block.repeats or self.repeats
            cells.update(dict.fromkeys(self._cells(block, victim, number, data_root)))
        order = sorted(cells, key=_order)
        evaluations: dict[tuple[VictimSpec, tuple[str, ...]], DefenseEvaluation] = {}
        for cell in order:
            place = (cell.victim, cell.defense)
            if place not in evaluations:
                several = repeats or self.repeats
                evaluations[place] = DefenseEvaluation(
                    *place, self._detect(cell.victim, data_root), several, self.seed
                )
        return [*evaluations.values(), *order]

    def _detect(self, victim: VictimSpec, root: Path | None) -> tuple[str, ...]:
        own = () if victim.is_reference else (victim.data,)
        return tuple(name for name in _present(self.detect, root) if name not in own)

    def _cells(self, block: Block, reference: str | None, repeats: int, root: Path | None) -> Iterator[Cell]:
        if reference:
            victims = [VictimSpec(reference, "", self.seed)]
        else:
            victims = [
                VictimSpec(datasets.info(data).name, _known("victim", victim, VICTIMS), self.seed, splits)
                for data, victim, splits in itertools.product(block.data, block.victim, block.splits)
            ]
        stacks = [canonical_defense(entry) for entry in block.defense]
        attacks = [(registry.attacks.canonical(text), registry.attacks.build(text)) for text in block.attack]
        trainings = [repr(training_config.rule(text)) for text in block.training]
        library = [name for name in block.surrogate if name not in ARCHITECTURES]
        if library and trainings != ["rule"]:
            raise UsageError(f"surrogate {library[0]!r} trains as its library does: training must be 'rule'")
        threats = itertools.product(_present(block.pool, root), block.knowledge, block.surrogate, block.shows)
        for victim, (pool, knowledge, surrogate, shows) in itertools.product(victims, list(threats)):
            threat = ThreatModel(
                check_pool(pool),
                query_pools.access(pool, victim.data),
                knowledge,
                _known("surrogate", surrogate, SURROGATES),
                shows,
            )
            for (text, attack), stack in itertools.product(attacks, stacks):
                if knowledge not in attack.knowledge:
                    raise UsageError(
                        f"attack {attack.name!r} cannot use knowledge={knowledge!r}; "
                        f"it supports {', '.join(attack.knowledge)}"
                    )
                # A thief who asks nothing never meets the defense: one row, at budget 0.
                budgets = attack.budgets(block.budget)
                defense = stack if attack.queries else ()
                for how, budget, repeat in itertools.product(trainings, budgets, range(repeats)):
                    yield Cell(victim, defense, threat, text, budget, repeat, repeats, self.seed, how)


def _order(cell: Cell) -> tuple[Any, ...]:
    # Cells that learn the same transfer set differ in the defense; with the defense outermost they
    # are far apart, so that the first has finished when a second worker asks for its training.
    threat = cell.threat
    return (
        str(cell.victim),
        cell.defense,
        threat.pool,
        threat.surrogate,
        threat.shows,
        threat.knowledge,
        cell.attack,
        cell.training,
        -cell.budget,
        cell.repeat,
    )


def _known(axis: str, value: str, allowed: Iterable[str]) -> str:
    if value not in allowed:
        raise UsageError(f"unknown {axis} {value!r}; {nearest(value, allowed)}")
    return value


def _present(entries: Iterable[str], root: Path | None) -> list[str]:
    """Return the pools' names; those that end in "?" only where their data is."""
    names = {entry: check_pool(entry.removesuffix("?")) for entry in entries}
    return [name for entry, name in names.items() if name == entry or _here(name, root)]


def _here(pool: str, root: Path | None) -> bool:
    try:
        query_pools.require(pool, datasets.data_root(root))
    except MissingDataError:
        return False
    return True


def check_pool(name: str) -> str:
    """Return the pool's name if there is such a pool; raises UsageError with the nearest names."""
    query_pools.access(name, "digits")
    return name


def canonical_defense(entry: str | list[str]) -> tuple[str, ...]:
    """Return a stack of defenses, spelled out; ``none`` disappears, so that no defense is ()."""
    texts = [entry] if isinstance(entry, str) else entry
    spelled = (registry.defenses.canonical(text) for text in texts)
    return tuple(text for text in spelled if text != "none")


def select(cells: Iterable[Task], only: Iterable[str]) -> list[Task]:
    """Keep what every ``axis=value`` of ``only`` admits; an axis given twice admits both values.

    A defense or attack is named by its full text or by its plugin's name alone. Audits follow the
    cells that are left. Raises UsageError for an unknown axis or a value that nothing has.
    """
    wanted: dict[str, set[str]] = {}
    for text in only:
        axis, equals, value = text.partition("=")
        if not equals or axis not in AXES:
            raise UsageError(f"--only {text!r}: write axis=value; {nearest(axis, AXES)}")
        wanted.setdefault(axis, set()).add(value)
    tasks = list(cells)
    kept = [task for task in tasks if isinstance(task, Cell)]
    everything = list(kept)
    for axis, values in wanted.items():
        known = sorted({name for task in everything for name in _names(task, axis)})
        for value in values:
            if value not in known:
                raise UsageError(
                    f"--only {axis}={value}: nothing in this matrix has it; {nearest(value, known)}"
                )
        kept = [task for task in kept if values & _names(task, axis)]
    if not kept:
        raise UsageError("the matrix has no cells left after --only; loosen it")
    defended = {(task.victim, task.defense) for task in kept}
    evaluations = [t for t in tasks if isinstance(t, DefenseEvaluation) and (t.victim, t.defense) in defended]
    return [*evaluations, *kept]


def _names(task: Task, axis: str) -> set[str]:
    value = {**task.spec(), "victim": task.victim.architecture or str(task.victim)}.get(axis)
    if axis == "defense":
        texts = list(task.defense) or ["none"]
        return {
            " + ".join(texts),
            " + ".join(parse_call(text)[0] for text in texts),
            *([texts[0]] if len(texts) == 1 else []),
        }
    if axis == "attack":
        return {str(value), parse_call(str(value))[0]}
    return {str(value)}


def shipped() -> dict[str, Any]:
    """Return the matrices that come with moatbench, by name (``studies/NAME`` for studies)."""
    folder = resources.files("bench") / "matrices"
    found = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = entry
        elif entry.is_dir():
            for inner in entry.iterdir():
                if inner.name.endswith(".toml"):
                    found[f"{entry.name}/{inner.name.removesuffix('.toml')}"] = inner
    return dict(sorted(found.items()))


def load_matrix(name: str) -> Matrix:
    """Read a matrix: the name of a shipped one, or the path of a TOML file.

    Raises UsageError that names file, key, value and what is allowed.
    """
    path = Path(name)
    known = shipped()
    if name in known:
        text, folder = known[name].read_text(encoding="utf-8"), Path.cwd()
    elif path.suffix == ".toml":
        if not path.is_file():
            raise UsageError(f"no matrix file {name}")
        text, folder = path.read_text(encoding="utf-8"), path.parent
    else:
        raise UsageError(f"unknown matrix {name!r}; {nearest(name, known)}; or give the path of a .toml file")
    try:
        matrix = Matrix.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: not TOML: {error}") from error
    except pydantic.ValidationError as error:
        raise UsageError(f"{name}: {_complaint(error)}") from error
    matrix.remember(text, folder)
    for path in matrix.plugin_files:
        registry.attacks.add_file(path)
        registry.defenses.add_file(path)
    return matrix


def _complaint(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    key = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {nearest(key, _model_at(first['loc']).model_fields)}"
    if first["type"] == "missing":
        return f"key {where!r} is missing"
    return f"{where} = {first['input']!r}: {first['msg'].lower()}"


def _model_at(place: Sequence[int | str]) -> type[pydantic.BaseModel]:
    """Return what holds the key at ``place``, by the keys above it: the nearest one that has a model."""
    models: dict[str, type[pydantic.BaseModel]] = {
        "block": Block,
        "study": Study,
        "headline": Headline,
        "table": Table,
        "row": PublishedValue,
        "where": Where,
    }
    found: type[pydantic.BaseModel] = Matrix
    for part in place[:-1]:
        found = models.get(str(part), found)
    return found

"""Matrix files: reads and checks blocks of axes, and expands them to cells and defense evaluations."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from bench import plugins
from bench.data import data_files, datasets, query_pools
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
"""What a built-in victim can be; ``logistic`` and ``tree`` are scikit-learn's."""


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
    """Where queries come from; "NAME?" only if its data is present."""
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
    """A matrix file: blocks, and settings that hold for all of them."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    name: str
    description: str = ""
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    repeats: Annotated[int, pydantic.Field(ge=1)] = 5
    plugins: list[str] = []
    """Python files with attacks or defenses, relative to the matrix file."""
    detect: list[str] = []
    """Pools on which detectors are measured, besides the test split; "NAME?" only if its data is present."""
    sentinels: list[str] = []
    """Tracked attacks: the regression gate compares each alone. Omitted parameters may have any value."""
    reference_budget: dict[str, Annotated[int, pydantic.Field(ge=1)]] = {}
    """Per data set, the budget whose undefended fidelity the query multiplier asks for."""
    study: Study | None = None
    """The replication: what was published, and which cells are compared with it."""
    block: Annotated[list[Block], pydantic.Field(min_length=1)]

    _text: str = pydantic.PrivateAttr("")
    _folder: Path = pydantic.PrivateAttr(Path())

    @property
    def text(self) -> str:
        """The file as it was read."""
        return self._text

    def remember(self, text: str, folder: Path) -> None:
        """Store the text of the file and its folder."""
        self._text, self._folder = text, folder

    @property
    def plugin_files(self) -> list[Path]:
        """The files of ``plugins``, resolved."""
        return [(self._folder / name).resolve() for name in self.plugins]

    def tasks(
        self, victim: str | None = None, repeats: int | None = None, data_root: Path | None = None
    ) -> list[Task]:
        """Return the defense evaluations, then the cells, each once; cells with one training are far apart.

        ``victim``: a reference that replaces every victim. ``repeats``: replaces the file's number.
        ``data_root``: where optional pools are looked for. Raises UsageError for an unknown name or value.
        """
        for text in self.sentinels:
            plugins.attacks.build(text)
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
        attacks = [(plugins.attacks.canonical(text), plugins.attacks.build(text)) for text in block.attack]
        trainings = [repr(training_config.parse_training(text)) for text in block.training]
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
                # An attack without queries does not depend on the defense: one cell, at budget 0.
                budgets = attack.budgets(block.budget)
                defense = stack if attack.queries else ()
                for how, budget, repeat in itertools.product(trainings, budgets, range(repeats)):
                    yield Cell(victim, defense, threat, text, budget, repeat, repeats, self.seed, how)


def _order(cell: Cell) -> tuple[Any, ...]:
    # Cells with the same transfer set differ only in the defense. With the defense outermost they are far
    # apart, so the first has finished before a second worker needs its training.
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
    """Return the names of the pools; those that end in "?" only if their data is present."""
    names = {entry: check_pool(entry.removesuffix("?")) for entry in entries}
    return [name for entry, name in names.items() if name == entry or _here(name, root)]


def _here(pool: str, root: Path | None) -> bool:
    try:
        query_pools.require(pool, data_files.data_root(root))
    except MissingDataError:
        return False
    return True


def check_pool(name: str) -> str:
    """Return ``name`` if it is a pool; raises UsageError with the nearest names."""
    query_pools.access(name, "digits")
    return name


def canonical_defense(entry: str | list[str]) -> tuple[str, ...]:
    """Return a stack of defenses with all parameters; ``none`` is left out, so no defense is ()."""
    texts = [entry] if isinstance(entry, str) else entry
    spelled = (plugins.defenses.canonical(text) for text in texts)
    return tuple(text for text in spelled if text != "none")


def shipped() -> dict[str, Any]:
    """Return the matrices that come with moatbench, by name (``studies/NAME`` for replications)."""
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
        plugins.attacks.add_file(path)
        plugins.defenses.add_file(path)
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
    """Return the model that the key at ``place`` belongs to: that of the nearest key above."""
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

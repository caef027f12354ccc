"""Matrix files: reads and checks blocks of axes, and expands them to cells and defense evaluations."""

from __future__ import annotations

import itertools
import logging
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from bench import plugins
from bench.calls import INTEGERS
from bench.data import data_files, datasets, query_pools
from bench.errors import MissingDataError, UsageError, nearest, shown
from bench.files import user_file, user_text
from bench.models import training_config
from bench.models.plugin_guard import guarded_import
from bench.models.sklearn_surrogates import ESTIMATORS
from bench.models.user_victims import check_reference
from bench.models.victim_options import VictimOptions
from bench.plan import feasibility
from bench.plan.feasibility import MOST_QUERIES
from bench.plan.shipped_matrices import shipped
from bench.plan.study import Headline, PublishedValue, Study, Table, Where, matching_calls
from bench.run_facts import ReportOptions
from bench.tasks import DECIDED_AT, OWN, Cell, DefenseEvaluation, Task, ThreatModel, VictimSpec

ARCHITECTURES = ("mlp", "mlp128", "lenet", "cnn", "resnet18", "logistic")
"""Networks that victims and surrogates can be."""
SURROGATES = (*ARCHITECTURES, *ESTIMATORS)
"""What a surrogate can be."""
VICTIMS = (*ARCHITECTURES, "tree", "forest", "boosting")
"""What a built-in victim can be; ``logistic`` and those that no surrogate can be are scikit-learn's."""
MOST_CELLS = 100_000
"""Largest number of cells of a matrix."""
MOST_BYTES = 128 * 1024
"""Largest size of a matrix file; the parser's time grows with the square of a line's length."""
DEEPEST = 12
"""Largest number of tables and lists inside one another; lists in a replication's rows are the deepest."""
log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*\.")


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _folder_name(value: str) -> str:
    """Return ``value`` if every system can have a folder of that name."""
    if not _NAME.fullmatch(value) or _RESERVED.fullmatch(value):
        raise ValueError(
            "1 to 100 letters from a to z, digits, '.', '_' and '-' are allowed, the first a letter or a "
            "digit, the last no '.', and no name that Windows reserves (con, nul, …)"
        )
    return value


Listed = pydantic.BeforeValidator(_listed)
Texts = Annotated[list[str], Listed, pydantic.Field(min_length=1)]


class Block(pydantic.BaseModel):
    """A product of axes. Every axis takes one value or a list; a stacked defense is a list itself."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    data: Texts = ["digits"]
    victim: Texts = ["mlp"]
    splits: Texts = ["disjoint"]
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
    budget: Annotated[
        list[Annotated[int, pydantic.Field(ge=1, le=MOST_QUERIES)]], Listed, pydantic.Field(min_length=1)
    ]
    repeats: Annotated[int, pydantic.Field(ge=1)] | None = None


class Report(ReportOptions):
    """The table ``[report]``: the options of a recommendation, checked strictly."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    thresholds: Annotated[
        tuple[Annotated[float, pydantic.Field(gt=0, le=1)], ...],
        pydantic.BeforeValidator(lambda value: tuple(_listed(value))),
        pydantic.Field(min_length=1, max_length=10),
    ] = DECIDED_AT


class Matrix(pydantic.BaseModel):
    """A matrix file: blocks, and settings that hold for all of them."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, pydantic.AfterValidator(_folder_name)]
    description: str = ""
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    repeats: Annotated[int, pydantic.Field(ge=1)] = 5
    retrainings: Annotated[int, pydantic.Field(ge=0, le=100)] = 0
    """Times that a shipped victim is trained anew with other rounding errors, for defense evaluations."""
    plugins: list[str] = []
    """Python files with attacks or defenses, relative to the matrix file."""
    detect: list[str] = []
    """Pools on which detectors are measured, besides the test split; "NAME?" only if its data is present."""
    sentinels: list[str] = []
    """Tracked attacks: the regression gate compares each alone. Omitted parameters may have any value."""
    reference_budget: dict[str, Annotated[int, pydantic.Field(ge=1)]] = {}
    """Per data set, the budget whose undefended fidelity the query multiplier asks for."""
    report: Report = Report()
    """Options of the recommendation, and how often it is confirmed."""
    study: Study | None = None
    """The replication: what was published, and which cells are compared with it."""
    victims: dict[str, VictimOptions] = {}
    """Victims of the user's own, by the name that blocks call them: models and data in files."""
    block: Annotated[list[Block], pydantic.Field(min_length=1)]

    _text: str = pydantic.PrivateAttr("")
    _folder: Path = pydantic.PrivateAttr(Path())
    _file: str = pydantic.PrivateAttr("")

    @property
    def text(self) -> str:
        """The file as it was read."""
        return self._text

    def remember(self, text: str, folder: Path, file: str) -> None:
        """Store the text of the file, its folder, and its name in messages."""
        self._text, self._folder, self._file = text, folder, file

    @property
    def folder(self) -> Path:
        """The folder of the file, to which paths in it are relative."""
        return self._folder

    @property
    def budgets_by_data(self) -> dict[str, int]:
        """``reference_budget`` by the data of victims: a user's own are named as cells name them."""
        return {OWN + key if key in self.victims else key: n for key, n in self.reference_budget.items()}

    @property
    def plugin_files(self) -> list[Path]:
        """The files of ``plugins``, resolved."""
        return [(self._folder / name).resolve() for name in self.plugins]

    def tasks(
        self, victim: str | None = None, repeats: int | None = None, data_root: Path | None = None
    ) -> list[Task]:
        """Return the defense evaluations, then the cells, each once; cells with one training are far apart.

        ``victim``: a reference that replaces every victim. ``repeats``: replaces the file's number.
        ``data_root``: where optional pools are looked for. Raises UsageError, with file, key, value and what
        is allowed, for an unknown name and for whatever the sizes of the data rule out.
        """
        if victim is not None:
            check_reference(victim)
        self._check_victims()
        self._check_number(victim, repeats)
        self._check_sentinels()
        self._check_reference_budgets()
        cells: dict[Cell, None] = {}
        for place, block in enumerate(self.block):
            number = repeats or block.repeats or self.repeats
            cells.update(dict.fromkeys(self._cells(f"block.{place}.", block, victim, number, data_root)))
        if not cells:
            raise UsageError(f"{self._file}: no cell is left, since the data of no optional pool is here")
        order = sorted(cells, key=_order)
        victims = dict.fromkeys(cell.victim for cell in order)
        detected = {spec: self._detect(spec, data_root) for spec in victims}
        evaluations = [
            DefenseEvaluation(
                victim,
                defense,
                detected[victim],
                repeats or self.repeats,
                self.seed,
                0 if victim.is_reference else self.retrainings,
                tuple(sorted(set(self.report.thresholds))),
            )
            for victim, defense in dict.fromkeys((cell.victim, cell.defense) for cell in order)
        ]
        return [*evaluations, *order]

    @contextmanager
    def complaints(self, key: str = "") -> Iterator[None]:
        """Put the file and ``key`` before the messages of the UsageErrors that the block raises."""
        try:
            yield
        except UsageError as error:
            raise UsageError(f"{self._file}: {key}{error}") from error

    def _check_number(self, victim: str | None, repeats: int | None) -> None:
        """Check the number of cells before any is made."""
        total = 0
        for place, block in enumerate(self.block):
            number = repeats or block.repeats or self.repeats
            fixed = {"repeats", *(("data", "victim", "splits") if victim else ())}
            lengths = [len(getattr(block, axis)) for axis in Block.model_fields if axis not in fixed]
            total += number * math.prod(lengths)
            if total > MOST_CELLS:
                product = " × ".join(str(length) for length in lengths if length > 1) or "1"
                raise UsageError(
                    f"{self._file}: block.{place}: repeats = {number} makes {shown(total)} cells up to here "
                    f"(this block: {product} × repeats); at most {MOST_CELLS:,} in a matrix are allowed"
                )

    def _check_victims(self) -> None:
        """Check the names of the user's own victims, and that blocks name no other."""
        for name in self.victims:
            with self.complaints(f"victims.{name}: "):
                if name in VICTIMS:
                    raise UsageError(f"{name!r} is a shipped victim; give it another name")
                try:
                    _folder_name(name)
                except ValueError as error:
                    raise UsageError(str(error)) from error
        for place, block in enumerate(self.block):
            own = [name for name in block.victim if self._is_own(name)]
            if own and len(own) == len(block.victim) and "data" in block.model_fields_set:
                whose = f"{own[0]} brings its own" if len(own) == 1 else f"{', '.join(own)} bring their own"
                log.warning("%s: block.%d.data is ignored: %s", self._file, place, whose)

    def _is_own(self, name: str) -> bool:
        return ":" in name or name in self.victims

    def _check_sentinels(self) -> None:
        """Check that every tracked attack is one of the matrix."""
        known = {text for block in self.block for text in block.attack} if self.sentinels else set()
        with self.complaints("block.attack: "):
            known = {plugins.attacks.canonical(text) for text in known}
        for place, text in enumerate(self.sentinels):
            with self.complaints(f"sentinels.{place}: "):
                plugins.attacks.build(text)
                if not matching_calls(text, known):
                    raise UsageError(f"no attack of this matrix is {shown(text)}; {nearest(text, known)}")

    def _check_reference_budgets(self) -> None:
        """Check that every reference budget is one of the budgets on its data set."""
        for data, number in self.reference_budget.items():
            with self.complaints(f"reference_budget.{data} = {number}: "):
                if not self._is_own(data):
                    datasets.info(data)
                known = sorted({each for block in self.block if data in block.data for each in block.budget})
                if known and number not in known:
                    raise UsageError(f"no block has this budget; one of {shown(known)} is allowed")

    def _detect(self, victim: VictimSpec, root: Path | None) -> tuple[str, ...]:
        own = () if victim.is_reference else (victim.data,)
        with self.complaints("detect: "):
            if "none" in self.detect:
                raise UsageError("pool 'none' has no inputs to measure a detector on; leave it out")
            present = _present(self.detect, root)
        return tuple(name for name in present if name not in own)

    def _cells(
        self, key: str, block: Block, reference: str | None, repeats: int, root: Path | None
    ) -> Iterator[Cell]:
        """Yield the cells of a block; ``key`` is where it stands in the file."""
        if reference:
            victims = [VictimSpec(reference, "", self.seed)]
        else:
            shipped_ones = [victim for victim in block.victim if not self._is_own(victim)]
            with self.complaints(f"{key}data: "):
                sets = [datasets.info(data).name for data in block.data] if shipped_ones else []
            with self.complaints(f"{key}victim: "):
                allowed = (*VICTIMS, *self.victims)
                architectures = [_known("victim", victim, allowed) for victim in shipped_ones]
                own = [self._own_spec(victim) for victim in block.victim if self._is_own(victim)]
            with self.complaints(f"{key}splits: "):
                for data, splits in itertools.product(sets, block.splits):
                    datasets.split_sizes(data, splits)
            victims = [
                VictimSpec(data, victim, self.seed, splits)
                for data, victim, splits in itertools.product(sets, architectures, block.splits)
            ] + own
        with self.complaints(f"{key}defense: "):
            stacks = [canonical_defense(entry) for entry in block.defense]
        with self.complaints(f"{key}attack: "):
            spelled = [plugins.attacks.canonical(text) for text in block.attack]
            attacks = [(text, plugins.attacks.build(text)) for text in spelled]
        with self.complaints(f"{key}training: "):
            trainings = [repr(training_config.parse_training(text)) for text in block.training]
        with self.complaints(f"{key}surrogate: "):
            for name in block.surrogate:
                _known("surrogate", name, SURROGATES)
            library = [name for name in block.surrogate if name not in ARCHITECTURES]
            if library and trainings != ["rule"]:
                raise UsageError(
                    f"surrogate {library[0]!r} trains as its library does: training must be 'rule'"
                )
        with self.complaints(f"{key}pool: "):
            pools = _present(block.pool, root)
        with self.complaints(key):
            for text, attack in attacks:
                feasibility.check_training(attack, text, trainings)
            planned = list(self._planned(block, victims, attacks, pools))
            _check_auxiliary(planned, stacks)
        for victim, threat, text, budget, queries in planned:
            # An attack without queries does not depend on the defense: one cell, at budget 0.
            for stack, how, repeat in itertools.product(stacks, trainings, range(repeats)):
                defense = stack if queries else ()
                yield Cell(victim, defense, threat, text, budget, repeat, repeats, self.seed, how)

    def _own_spec(self, name: str) -> VictimSpec:
        if ":" not in name:
            return VictimSpec(OWN + name, "", self.seed)
        check_reference(name, "a victim")
        return VictimSpec(name, "", self.seed)

    def _planned(
        self,
        block: Block,
        victims: Sequence[VictimSpec],
        attacks: Sequence[tuple[str, Any]],
        pools: Sequence[str],
    ) -> Iterator[tuple[VictimSpec, ThreatModel, str, int, bool]]:
        """Yield victim, threat model, attack, budget and whether it queries, checked by what is known."""
        facts = {spec: None if spec.is_reference else feasibility.built_in(spec) for spec in victims}
        for spec, known in facts.items():
            if known:
                feasibility.check_victim(spec, known)
        for text, attack in attacks:
            budgets, reasons = feasibility.budgets(attack, text, block.budget), []
            threats = itertools.product(victims, pools, block.knowledge, block.surrogate, block.shows)
            for victim, pool, knowledge, surrogate, shows in threats:
                if knowledge not in attack.knowledge:
                    raise UsageError(
                        f"knowledge: attack {attack.name!r} cannot use knowledge={knowledge!r}; "
                        f"it supports {', '.join(attack.knowledge)}"
                    )
                access = query_pools.access(pool, victim.data)
                threat = ThreatModel(pool, access, knowledge, surrogate, shows)
                for budget in budgets:
                    if known := facts[victim]:
                        cell = Cell(victim, (), threat, text, budget, 0, 1, self.seed)
                        feasibility.check_cell(cell, attack, known)
                        reasons.append(feasibility.not_applicable(cell, attack, known))
                    yield victim, threat, text, budget, attack.queries
            if reasons and all(reasons):
                raise UsageError(f"attack = {shown(text)}: it can run nowhere in this block: {reasons[0]}")


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


def _check_auxiliary(
    planned: Iterable[tuple[VictimSpec, ThreatModel, str, int, bool]], stacks: Sequence[tuple[str, ...]]
) -> None:
    """Raise UsageError where an attacker queries with the auxiliary data of a defense, as far as is known."""
    met = dict.fromkeys((victim, threat.pool) for victim, threat, _, _, queries in planned if queries)
    for (victim, pool), stack in itertools.product(met, stacks):
        if not victim.is_reference:
            layout = feasibility.built_in(victim).layout
            feasibility.check_auxiliary(stack, pool, victim.data, layout)


def _known(axis: str, value: str, allowed: Iterable[str]) -> str:
    if value not in allowed:
        raise UsageError(f"unknown {axis} {shown(value)}; {nearest(value, allowed)}")
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


def load_matrix(name: str) -> Matrix:
    """Read a matrix, the name of a shipped one or the path of a TOML file, and register its plugins.

    Raises UsageError that names file, key, value and what is allowed.
    """
    known = shipped()
    if name in known:
        text, folder = known[name].read_text(encoding="utf-8"), Path.cwd()
    elif name.endswith(".toml"):
        path = user_file(name, "matrix file")
        text, folder = user_text(path, MOST_BYTES), path.parent
    else:
        raise UsageError(f"unknown matrix {shown(name)}, and no path of a .toml file; {nearest(name, known)}")
    return read_matrix(text, name, folder)


def read_matrix(text: str, name: str, folder: Path) -> Matrix:
    """Return the matrix that a TOML text describes, and register its plugins.

    ``name``: that of its file, for messages. ``folder``: what its paths are relative to. Raises UsageError
    that names key, value and what is allowed.
    """
    matrix = _parsed(text, name)
    matrix.remember(text, folder, name)
    with matrix.complaints("plugins: "):
        _register(matrix.plugin_files)
    return matrix


def _parsed(text: str, name: str) -> Matrix:
    try:
        return Matrix.model_validate(_values(tomllib.loads(text)))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    except pydantic.ValidationError as error:
        raise UsageError(f"{name}: {_complaint(error)}") from error
    except RecursionError as error:
        raise UsageError(f"{name}: brackets are nested too deeply; at most {DEEPEST} are allowed") from error
    except ValueError as error:  # among them tomllib's own, and Python's for numbers of 4,300 digits
        raise UsageError(f"{name}: not TOML: {' '.join(str(error).split())}") from error


def _register(files: Iterable[Path]) -> None:
    """Register the plugins of the files; raises UsageError for a file without, and for a name used twice."""
    owners: dict[str, Path] = {}
    with guarded_import("an installed plugin"):
        plugins.attacks.names(), plugins.defenses.names()
    for path in files:
        with guarded_import(f"plugin file {path}"):
            names = [*plugins.attacks.add_file(path), *plugins.defenses.add_file(path)]
        if not names:
            raise UsageError(f"{path} defines no attack and no defense")
        for each in names:
            if owners.setdefault(each, path) != path:
                raise UsageError(f"{owners[each]} and {path} both define {each!r}; give one another name")


def _values(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document if all its numbers and texts can be stored and written to a report.

    Raises UsageError, naming the key, for integers of more than 64 bits, infinity and NaN, control
    characters, and tables nested too deeply.
    """
    left: list[tuple[tuple[str, ...], Any]] = [((), document)]
    while left:
        place, value = left.pop()
        if len(place) > DEEPEST:
            raise UsageError(f"{_key(place)}: tables are nested too deeply; at most {DEEPEST} are allowed")
        if isinstance(value, dict):
            left += [((*place, key), inner) for key, inner in value.items()]
            if any(not key.isprintable() for key in value):
                raise UsageError(f"{_key(place) or 'top level'}: a key has control characters")
        elif isinstance(value, list):
            left += [((*place, str(number)), inner) for number, inner in enumerate(value)]
        elif isinstance(value, int) and value not in INTEGERS:
            raise UsageError(f"{_key(place)} = {shown(value)}: integers of 64 bits are allowed")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{_key(place)} = {value}: finite numbers are allowed")
        elif isinstance(value, str) and not all(map(_is_text, value)):
            raise UsageError(f"{_key(place)} = {shown(value)}: it has control characters")
    return document


def _is_text(character: str) -> bool:
    return (character >= " " and character != "\x7f") or character in "\n\t"


def _key(place: Sequence[int | str]) -> str:
    text = ".".join(map(str, place))
    return text if len(text) <= 200 and text.isprintable() else shown(text)


def _complaint(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = _key(first["loc"])
    key = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}; {nearest(key, _model_at(first['loc']).model_fields)}"
    if first["type"] == "missing":
        return f"key {where!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where} = {shown(first['input'])}: {message[:1].lower()}{message[1:]}"


def _model_at(place: Sequence[int | str]) -> type[pydantic.BaseModel]:
    """Return the model that the key at ``place`` belongs to: that of the nearest key above."""
    models: dict[str, type[pydantic.BaseModel]] = {
        "block": Block,
        "victims": VictimOptions,
        "report": Report,
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

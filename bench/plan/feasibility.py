"""What cannot be run, as far as the matrix and the sizes of the data tell; nothing is loaded for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attacks.base import FAMILIES
from bench import plugins
from bench.data import auxiliary, datasets, query_pools
from bench.errors import UsageError, nearest, shown, user_code
from bench.inputs import LAYOUTS, Layout
from bench.models.training_config import OF_IMAGES, parse_training
from bench.tasks import Cell, VictimSpec

SMALLEST = {"lenet": 20, "cnn": 4}
"""Smallest height and width of inputs, by architecture, where there is one."""
MOST_QUERIES = 1_000_000_000
"""Largest budget of a cell."""
KNOWLEDGE = ("none", "family", "full")
"""What an attacker can know of a defense."""
MIN_RECORDS = 20
"""Fewest members, and non-members, on which a membership attack is trained and evaluated."""
_OWN_SPLIT = "in-distribution"


@dataclass(frozen=True)
class PlannedVictim:
    """What a plan has to know of a victim.

    ``shape``: that of one input. ``sizes``: inputs of the splits "train", "calibration", "pool" and "test",
    and of "shifted" and "public" where it brings them.
    """

    shape: tuple[int, ...]
    sizes: Mapping[str, int]

    @property
    def layout(self) -> Layout:
        """What an input is: "images", "sequences" or "table"."""
        return LAYOUTS[len(self.shape)]


def built_in(spec: VictimSpec) -> PlannedVictim:
    """Return what is known of a built-in victim without its data.

    Raises UsageError for splits that the data set does not have.
    """
    dataset, sizes = datasets.info(spec.data), datasets.split_sizes(spec.data, spec.splits)
    if dataset.shifted is not None and spec.splits != datasets.OFFICIAL:
        sizes["shifted"] = dataset.official[0][1] - dataset.usable[0]
    return PlannedVictim(dataset.shape, sizes)


def check_victim(spec: VictimSpec, facts: PlannedVictim) -> None:
    """Raise UsageError for a victim whose network cannot take inputs of its data's shape."""
    _check_shape("victim", spec.architecture, spec, facts)


def budgets(attack: Any, text: str, listed: Sequence[int]) -> list[int]:
    """Return the budgets to run of the attack that ``text`` builds, of those that a matrix lists.

    Raises UsageError, with file and line for an error in the plugin, if what it declares is not usable.
    """
    origin = f"attack = {shown(text)}"
    with user_code(origin):
        family, knowledge = getattr(attack, "family", None), attack.knowledge
        found = list(attack.budgets(listed))
    if family not in FAMILIES:
        raise UsageError(f"{origin}: its family is {shown(family)}; {nearest(str(family), FAMILIES)}")
    if isinstance(knowledge, str) or not all(each in KNOWLEDGE for each in knowledge):
        raise UsageError(f"{origin}: knowledge = {shown(knowledge)}; a tuple of {KNOWLEDGE} is allowed")
    for budget in found:
        if not isinstance(budget, int) or not 0 <= budget <= MOST_QUERIES:
            sends = f"{budget:,}" if isinstance(budget, int) else shown(budget)
            raise UsageError(f"{origin}: it sends {sends} queries; [0, {MOST_QUERIES:,}] is allowed")
    return found


def check_training(attack: Any, text: str, trainings: Sequence[str]) -> None:
    """Raise UsageError where a membership attack would train on unqueried inputs, which it has none of."""
    if attack.family != "membership":
        return
    for each in trainings:
        if parse_training(each).semi_supervised:
            raise UsageError(
                f"training = {shown(each)}: {shown(text)} extracts its surrogate without unqueried inputs; "
                "give membership attacks a block with unlabelled=unused"
            )


def check_cell(cell: Cell, attack: Any, facts: PlannedVictim) -> None:
    """Raise UsageError, "KEY = VALUE: what is allowed", for a cell that would fail whatever its data hold.

    ``attack``: the built attack of the cell. It does not depend on the defense, the training or the repeat.
    """
    extracts = attack.family == "extraction" or getattr(attack, "target", "") == "surrogate"
    if extracts:
        _check_shape("surrogate", cell.threat.surrogate, cell.victim, facts)
    if not extracts or not attack.queries:
        return
    # A surrogate for membership inference is extracted from the victim's own distribution.
    pool = cell.threat.pool if attack.family == "extraction" else _OWN_SPLIT
    if reason := query_pools.unavailable(pool, cell.victim.data, facts.layout, facts.sizes):
        raise UsageError(f"pool = {pool!r}: {reason}")
    size = query_pools.size(pool, cell.victim.data, facts.sizes)
    if not size:
        raise UsageError(f"pool = {pool!r}: it has no inputs that {shown(cell.attack)} could send")
    with user_code(f"attack = {shown(cell.attack)}"):
        supply = attack.supply(size) if attack.family == "extraction" else size
        short = supply is not None and cell.budget > supply
    if short:
        raise UsageError(
            f"budget = {cell.budget}: it is larger than what pool {pool!r} supplies to {shown(cell.attack)} "
            f"({supply} inputs); [1, {supply}] is allowed"
        )


SHARE_IMAGES = ({"mnist", "emnist-digits"},)
"""Data sets that hold some of the same images."""


def auxiliary_names(defense: Sequence[str]) -> dict[str, str]:
    """Return the auxiliary data that each member of a stack asks for, as it calls them; often none.

    Raises UsageError, with file and line for an error in the plugin, if what it asks for is no name.
    """
    names = {}
    for text in defense:
        origin = f"defense = {shown(text)}"
        with user_code(origin):
            built = plugins.defenses.build(text)
            names[text] = built.auxiliary_data
        if getattr(built, "auxiliary", None) == "":
            raise UsageError(f"{origin}: auxiliary = '': a name is needed")
        if not isinstance(names[text], str):
            raise UsageError(f"{origin}: auxiliary_data = {shown(names[text])}; a name is needed")
    return {text: name for text, name in names.items() if name}


def auxiliary_sets(defense: Sequence[str], victim_data: str, layout: Layout) -> dict[str, str]:
    """Return the kind of auxiliary data that each member of a stack trains on, where it asks for any.

    Raises UsageError for a kind that there is not, or that this victim cannot have.
    """
    found = {}
    for text, name in auxiliary_names(defense).items():
        try:
            found[text] = auxiliary.resolved(name, layout)
            reason = auxiliary.unavailable(name, victim_data, layout)
        except UsageError as error:
            raise UsageError(f"defense = {shown(text)}: {error}") from error
        if reason:
            raise UsageError(f"defense = {shown(text)}: auxiliary data {found[text]!r}: {reason}")
    return found


def check_auxiliary(defense: Sequence[str], pool: str, victim_data: str, layout: Layout) -> None:
    """Raise UsageError where an attacker's pool is auxiliary data that a defense of the stack trains on."""
    for text, kind in auxiliary_sets(defense, victim_data, layout).items():
        held = victim_data if pool in ("in-distribution", "test") else query_pools.data_set(pool)
        if auxiliary.shared_with(kind, pool, layout) or {kind, held} in SHARE_IMAGES:
            raise UsageError(
                f"pool = {pool!r}: {shown(text)} trains on auxiliary data {kind!r}, and no attacker may "
                "query with what a defense was trained on; give the defense other auxiliary data, or both a "
                "block of their own"
            )


def not_applicable(cell: Cell, attack: Any, facts: PlannedVictim) -> str:
    """Return why a membership cell has too few records to run on, or an empty string."""
    if attack.family != "membership":
        return ""
    pool, sizes = cell.threat.pool, facts.sizes
    if pool == "train":
        others = 0  # each of its inputs is a member
    elif pool == _OWN_SPLIT:
        others = sizes["test"]
    elif cell.threat.access == _OWN_SPLIT and pool != "test" and attack.target == "surrogate":
        others = sizes["calibration"]
    else:
        others = query_pools.size(pool, cell.victim.data, sizes)
    if min(attack.members, sizes["train"], others) >= MIN_RECORDS:
        return ""
    return (
        f"there are {sizes['train']} training records and {others} in pool {pool!r} that are none of them; "
        f"[{MIN_RECORDS}, inf] are needed of each"
    )


def _check_shape(key: str, architecture: str, victim: VictimSpec, facts: PlannedVictim) -> None:
    if architecture in OF_IMAGES and facts.layout != "images":
        raise UsageError(
            f"{key} = {architecture!r}: it needs images, and the inputs of {victim.data} are "
            f"{'rows of a table' if facts.layout == 'table' else facts.layout}; mlp and logistic take any"
        )
    smallest = SMALLEST.get(architecture, 1)
    if facts.layout == "images" and min(facts.shape[-2:]) < smallest:
        height, width = facts.shape[-2:]
        raise UsageError(
            f"{key} = {architecture!r}: it needs inputs of {smallest}×{smallest} or more, and those of "
            f"{victim.data} are {height}×{width}; mlp and logistic take any"
        )

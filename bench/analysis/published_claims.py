"""What publications claim of the shipped defenses: the types of ``published_claims.toml``, and its reader.

A number stands there only if its source was read. :mod:`bench.analysis.claim_table` joins it with results.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Annotated, Literal, Self

import pydantic

from bench.plan.study import Name, Where

Percent = Annotated[float, pydantic.Field(ge=0, le=100)]
Quantity = Literal["accuracy", "fidelity"]
Read = Literal["text", "abstract", "authors' data", "not read"]
"""What was read of a source; "authors' data": numbers in files that its authors publish."""
_AXES = ("data", "victim", "splits", "defense", "attack", "pool", "surrogate", "training", "budget")
"""What ``where`` has to name, so that it selects one group of repeats in any run."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Control(_Strict):
    """The same recipe with one thing changed, whose result may explain a claim that is not reproduced.

    ``label``: what was changed, a clause: "trained for 2,500 steps". Alternatives that the claim's own
    ``where`` lists too (of pools, of budgets) stand for the one that the recipe was run with.
    """

    label: str
    where: Where

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Self:
        _require_axes(self.where)
        return self


class Claim(_Strict):
    """One published result: what the defense takes from a surrogate.

    ``quantity``: of the surrogate, on test inputs. ``undefended``, ``defended``, ``victim_accuracy``: in
    percent; ``loss``: the first minus the second, in percentage points, where only that is published.
    ``at_most``: the loss is the largest of several ("up to"). ``data``, ``victim``, ``surrogate``, ``pool``:
    by the names of a matrix where these are the same, else by their own; empty where not stated in what was
    read, as are ``budget`` and ``seeds``. ``limit``: what users were allowed to lose. ``place``: table and
    page. ``where``: the cells of the same recipe with the defense; None without one. ``without``: those
    without it, where more differs than the defense. Both mean attackers of the claim's ``knowledge``, where
    they name none. ``guessed``: parts of the recipe that were not stated in what was read and were chosen, so
    that the numbers cannot be compared. ``notes``: what a reader should know, a sentence.
    """

    id: Name
    quantity: Quantity
    data: str = ""
    victim: str = ""
    surrogate: str = ""
    pool: str = ""
    attack: str = ""
    budget: Annotated[int, pydantic.Field(ge=1)] | None = None
    knowledge: Literal["none", "family", "full"] = "none"
    limit: str = ""
    seeds: Annotated[int, pydantic.Field(ge=1)] | None = None
    victim_accuracy: Percent | None = None
    undefended: Percent | None = None
    defended: Percent | None = None
    loss: Annotated[float, pydantic.Field(ge=-100, le=100)] | None = None
    at_most: bool = False
    place: str
    read: Read
    where: Where | None = None
    without: Where | None = None
    control: list[Control] = []
    guessed: list[str] = []
    notes: str = ""

    @property
    def published_loss(self) -> float | None:
        """The published loss, as a fraction; None where no number was read."""
        if self.loss is not None:
            return self.loss / 100
        if self.undefended is None or self.defended is None:
            return None
        return (self.undefended - self.defended) / 100

    @property
    def unread(self) -> bool:
        """Whether there is nothing to compare: no number was read, and no recipe is known."""
        return self.published_loss is None and self.where is None

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        numbers = (self.victim_accuracy, self.undefended, self.defended, self.loss)
        if self.read == "not read" and any(number is not None for number in numbers):
            raise ValueError("a number whose source was not read may not be quoted; leave it out")
        if self.loss is not None and (self.undefended is not None or self.defended is not None):
            raise ValueError("give undefended and defended, or loss, not both")
        if (self.undefended is None) != (self.defended is None):
            raise ValueError("a claim compares two levels: give undefended and defended")
        if self.without is not None and self.where is None:
            raise ValueError("without needs where")
        for where in (self.where, self.without):
            if where is not None:
                _require_axes(where)
        return self


class PublishedDefense(_Strict):
    """A shipped defense and what is claimed of it.

    ``name``: of the plugin. ``paper``: authors, year, title, where; empty where none proposed it.
    ``default``: the defense at the strength that the paper uses (ours: the plugin's), as a matrix writes it.
    """

    name: str
    paper: str = ""
    default: str
    claim: list[Claim] = []

    @pydantic.model_validator(mode="after")
    def _sourced(self) -> Self:
        if self.claim and not self.paper:
            raise ValueError(f"defense {self.name}: a claim needs a paper")
        return self


class PublishedClaims(_Strict):
    """All defenses in the order of the page."""

    version: Literal[1]
    defense: Annotated[list[PublishedDefense], pydantic.Field(min_length=1)]

    def claims(self) -> Iterator[tuple[PublishedDefense, Claim]]:
        """Yield every claim with its defense."""
        for defense in self.defense:
            for claim in defense.claim:
                yield defense, claim

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Self:
        for names in ([each.name for each in self.defense], [claim.id for _, claim in self.claims()]):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{twice[0]} is there twice")
        return self


def published_claims() -> PublishedClaims:
    """Return the claims that come with moatbench."""
    text = (resources.files("bench.analysis") / "published_claims.toml").read_text(encoding="utf-8")
    return PublishedClaims.model_validate(tomllib.loads(text))


def _require_axes(where: Where) -> None:
    missing = [axis for axis in _AXES if getattr(where, axis) is None]
    if missing:
        raise ValueError(f"where has to name {', '.join(missing)}")

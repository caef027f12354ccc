"""What ``moatbench guard`` does: describes the server behind it, and serves in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from bench.cli import serving
from bench.cli.model_options import parsed_range
from bench.errors import UsageError, shown
from bench.exit_codes import ExitCode
from bench.remote.secrets import Secrets
from bench.remote.target import Account, Target
from bench.serve.noise_seed import noise_seed
from bench.serve.predictor import Predictor
from bench.serve.state import State

if TYPE_CHECKING:
    from bench.models.benign_inputs import BenignInputs
    from defenses.base import DefenseStack

MOST_CLASSES = 100_000
_OPTIONS = {
    "url": "upstream",
    "answers": "upstream-shows",
    "version": "upstream-version",
    "key_env": "key-env",
}
"""How options are called that set a field of another name."""


@dataclass(frozen=True)
class BenignFile:
    """A file of inputs like those of benign users; see ``moatbench guard --help`` for its options."""

    path: str
    label: str | None = None
    columns: str | None = None
    channels: Literal["first", "last"] | None = None
    range: str | None = None

    def inputs(self, shape: tuple[int, ...], columns: tuple[str, ...]) -> BenignInputs:
        """Return the inputs, see :meth:`bench.models.benign_inputs.BenignInputs.of`; raises UsageError."""
        from bench.data.user_data import Layout, load_data
        from bench.models.benign_inputs import BenignInputs

        span = None if self.range is None else parsed_range(self.range)
        data = load_data(
            self.path, label=self.label, columns=self.columns, layout=Layout(self.channels, span)
        )
        return BenignInputs.of(data, shape=shape, columns=columns, file=self.path)


@dataclass(frozen=True)
class GuardPredictor:
    """Opens the connections to a server, and builds the defenses before it."""

    target: Target
    defense: tuple[str, ...]
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    name: str
    version: str
    shows: Literal["probabilities", "labels"]
    benign: BenignFile | None = None

    def __call__(self, state: State) -> Predictor:
        """Return the predictor; raises MoatbenchError."""
        from bench.serve.upstream import Upstream

        inner = Upstream(
            self.target,
            name=self.name,
            version=self.version,
            shape=self.shape,
            columns=self.columns,
            shows="probabilities" if self.defense else self.shows,
        )
        if not self.defense:
            return inner
        from bench.models.defended_predictor import DefendedPredictor

        return DefendedPredictor(
            inner, _stack(self.defense), seed=noise_seed(state), shows=self.shows, benign=self.benign_inputs()
        )

    def benign_inputs(self) -> BenignInputs | None:
        """Return the inputs of benign users, None where no file of them is named; raises UsageError."""
        return None if self.benign is None else self.benign.inputs(self.shape, self.columns)

    def flagged_share(self) -> float | None:
        """Return the share of benign inputs that detectors flag; None without one. Raises UsageError."""
        if not self.defense and self.benign is None:
            return None
        from bench.models.benign_inputs import fit_to_inputs

        return fit_to_inputs(_stack(self.defense), self.benign_inputs(), len(self.target.classes))


def _stack(defense: tuple[str, ...]) -> DefenseStack:
    from bench import plugins
    from bench.models.plugin_guard import build
    from defenses.base import DefenseStack

    return DefenseStack(tuple(build(plugins.defenses, text) for text in defense))


def serve_guard(
    upstream: Mapping[str, Any], request: serving.Request, benign: BenignFile | None = None
) -> ExitCode:
    """Serve in front of another server until a signal; raises MoatbenchError and StoppedError.

    ``upstream``: the options that describe it, by their names. ``benign``: what detectors are fitted on.
    """
    import os

    defense: tuple[str, ...] = ()
    if request.defense:
        from bench.plan.matrix import canonical_defense

        defense = canonical_defense(list(request.defense))
    values = dict(upstream)
    shape, columns = _inputs(values.pop("shape", None), values.pop("columns", None))
    name = serving.checked_name(request.name or _of_url(values.get("model")))
    target = _target(values)
    Secrets(target, os.environ)
    predictor = GuardPredictor(
        target,
        defense,
        shape,
        columns,
        name,
        serving.checked_name(request.version, "--version"),
        request.shows,
        benign,
    )
    share = predictor.flagged_share()  # before anything listens; each worker fits its own
    more = () if share is None else (detector_line(share, serving.controls_of(request).suspension.after),)
    return serving.served(request, predictor, "a guard", name, more)


def detector_line(share: float, after: int | None) -> str:
    """Return what a detector does to benign users, of whose inputs it flags ``share``.

    ``after``: flagged inputs at which an account is suspended; None: none is.
    """
    line = f"detector: {share:.1%} of the benign inputs on which the threshold was set are flagged"
    if after is None or not share:
        return line
    return f"{line}; so a benign account is suspended after about {after / share:,.0f} inputs"


def _of_url(model: str | None) -> str:
    return "".join(each if each.isalnum() and each.isascii() else "-" for each in model or "model").strip("-")


def _inputs(shape: str | None, columns: str | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the shape of one input and the names of a table's columns."""
    if columns is not None:
        names = tuple(each.strip() for each in columns.split(","))
        if not all(names) or len(set(names)) < len(names) or shape is not None:
            raise UsageError("--columns are names with commas between, each once, and without --shape")
        return (len(names),), names
    try:
        axes = tuple(int(each) for each in (shape or "").split(","))
    except ValueError:
        axes = ()
    if not axes or min(axes) < 1 or len(axes) > 6:
        raise UsageError("--shape has to be the axes of one input, as 64 or 1,28,28; a table has --columns")
    return axes, ()


def _classes(text: str) -> tuple[str, ...]:
    if "," not in text:
        if not text.isascii() or not text.isdigit() or not 2 <= int(text[:9]) <= MOST_CLASSES:
            raise UsageError(f"--classes {shown(text)}: names with commas between, or a number from 2")
        return tuple(str(number) for number in range(int(text)))
    return tuple(each.strip() for each in text.split(","))


def _target(values: dict[str, Any]) -> Target:
    """Return the description of the server; raises UsageError that names the option."""
    key = values.pop("key_env", None)
    named = {field: option.replace("-", "_") for field, option in _OPTIONS.items()}
    fields = {field: values.pop(option, None) for field, option in named.items() if field != "key_env"}
    fields |= values
    fields["classes"] = _classes(fields.pop("classes"))
    try:
        accounts = () if key is None else (Account(name="upstream", key_env=key),)
        given = {name: value for name, value in fields.items() if value is not None}
        return Target(accounts=accounts, retries=0, retry_unknown=0, **given)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        option = f"--{_OPTIONS.get(field, field.replace('_', '-'))}: " if field else ""
        raise UsageError(f"{option}{first['msg'].removeprefix('Value error, ')}") from None

"""The file that describes a live target: where it is, how it answers, what may be spent on it."""

from __future__ import annotations

import datetime
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from bench.errors import UsageError, one_line

PER = {"second": 3600.0, "minute": 60.0, "hour": 1.0, "day": 1 / 24}
"""How many of each are in an hour."""
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")

Strict = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


def _texts(value: Any) -> Any:
    """Return a list, as TOML has it, as a tuple."""
    return tuple(value) if isinstance(value, list) else value


class Account(pydantic.BaseModel):
    """A client of the target. ``key_env``: the environment variable that holds its key; None: no key."""

    model_config = Strict

    name: str
    key_env: str | None = None


class Permission(pydantic.BaseModel):
    """Who allows to test a target that is not on this machine, until when, and where that is written."""

    model_config = Strict

    who: str
    until: datetime.date
    reference: str


class Target(pydantic.BaseModel):
    """A live target, as its TOML file describes it.

    ``protocol``: "oip" (Open Inference Protocol v2), "tfserving" (TF-Serving and KServe v1), "mlflow"
    (``/invocations``), "json" (``request`` is a template, ``output`` a JMESPath), "python" (``url`` is
    ``file.py:NAME`` or ``package.module:NAME``, a function from inputs to answers). ``model``, ``version``:
    as the protocol names them. ``output``: the tensor of the answer (oip), the field of it (tfserving), or the
    JMESPath (json). ``input``: the tensor of the inputs, ``datatype`` its type (oip). ``answers``: what comes
    back. ``classes``: their names in the order of the answers; with labels, all labels that can come.
    ``scale``: what numbers are. ``partial``: whether answers name only the likeliest classes; the rest is
    spread evenly over the others. ``batch``: inputs a request. ``connections``: requests at a time.
    ``headers``: further ones, none of them secret; ``key_header``: where an account's key goes, with "Bearer "
    before it where it is "Authorization".

    ``budget``: most inputs that may ever be sent; ``money_cap``: most money that may ever be spent, in the
    currency of ``price_per_1000``; ``units_per_input`` and ``free_units``: what is billed of an input, and what
    is free. ``rate``: inputs that may be sent, as "600/minute". ``quota``: inputs an account;
    ``detected_after``: the input of an account at which it is found out; ``account_price``: of one account.

    ``timeout``: seconds until an answer. ``retries``: tries after the first that was certainly not billed;
    ``retry_unknown``: after one that may have been. ``patience``: most seconds to wait because the target asks
    for it. ``bills_rejected``: whether 429 and 503 are billed. ``idempotency_header``: where the target
    documents one.
    """

    model_config = Strict

    url: str
    protocol: Literal["oip", "tfserving", "mlflow", "json", "python"]
    model: str | None = None
    version: str | None = None
    input: str | None = None
    datatype: str = "FP32"
    output: str | None = None
    request: str | None = None
    answers: Literal["probabilities", "labels"] = "probabilities"
    classes: Annotated[tuple[str, ...], pydantic.BeforeValidator(_texts)]
    scale: Literal["probability", "percent", "log"] = "probability"
    partial: bool = False
    batch: Annotated[int, pydantic.Field(ge=1, le=100_000)] = 64
    connections: Annotated[int, pydantic.Field(ge=1, le=64)] = 4
    headers: dict[str, str] = {}
    key_header: str = "Authorization"
    budget: Annotated[int | None, pydantic.Field(ge=1)] = None
    money_cap: Annotated[float | None, pydantic.Field(gt=0)] = None
    price_per_1000: Annotated[float, pydantic.Field(gt=0)] = 1.50
    units_per_input: Annotated[float, pydantic.Field(gt=0)] = 1.0
    free_units: Annotated[float, pydantic.Field(ge=0)] = 0.0
    rate: str | None = None
    quota: Annotated[int | None, pydantic.Field(ge=1)] = None
    detected_after: Annotated[int | None, pydantic.Field(ge=2)] = None
    account_price: Annotated[float, pydantic.Field(ge=0)] = 0.0
    timeout: Annotated[float, pydantic.Field(gt=0, le=600)] = 60.0
    retries: Annotated[int, pydantic.Field(ge=0, le=20)] = 5
    retry_unknown: Annotated[int, pydantic.Field(ge=0, le=20)] = 1
    patience: Annotated[float, pydantic.Field(ge=0)] = 600.0
    bills_rejected: bool = False
    idempotency_header: str | None = None
    accounts: Annotated[tuple[Account, ...], pydantic.BeforeValidator(_texts)] = ()
    permission: Permission | None = None

    @property
    def rate_per_hour(self) -> float | None:
        """Inputs an hour that may be sent; None without a limit."""
        if self.rate is None:
            return None
        found = _RATE.fullmatch(self.rate)
        return int(found[1]) * PER[found[2]] if found else None


def load_target(path: Path) -> Target:
    """Return the target that the TOML file ``path`` describes; raises UsageError, one sentence."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return Target.model_validate(values)
    except (OSError, UnicodeError, tomllib.TOMLDecodeError, pydantic.ValidationError) as error:
        raise UsageError(f"{path}: {one_line(error)}") from error

"""The file that describes a live target: where it is, how it answers, what may be spent on it."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from bench.remote import target_faults

PER = {"second": 3600.0, "minute": 60.0, "hour": 1.0, "day": 1 / 24}
"""How many of each are in an hour."""
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")

Strict = pydantic.ConfigDict(
    extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
)


def _texts(value: Any) -> Any:
    """Return a list, as TOML has it, as a tuple."""
    return tuple(value) if isinstance(value, list) else value


Axis = Annotated[int, pydantic.Field(ge=1)]


class Account(pydantic.BaseModel):
    """A client of the target. ``key_env``: the environment variable that holds its key; None: no key."""

    model_config = Strict

    name: Annotated[str, pydantic.AfterValidator(target_faults.line)]
    key_env: Annotated[str | None, pydantic.AfterValidator(target_faults.variable)] = None


class Permission(pydantic.BaseModel):
    """Who allows to test a target that is not on this machine, until when, and where that is written."""

    model_config = Strict

    who: Annotated[str, pydantic.AfterValidator(target_faults.line)]
    until: dt.date
    reference: Annotated[str, pydantic.AfterValidator(target_faults.line)]


class SecondFactor(pydantic.BaseModel):
    """Where a target asks for a one-time code beside a key; for probes of controls.

    ``url``: on the target's host, perhaps on another port. The code goes into ``header``, or into ``body``, a
    JSON text in which ``$code`` stands for it. ``secret_env``: the environment variable with the secret of
    the codes, in base32. ``account``: whose key is sent; None: the first account's.
    """

    model_config = Strict

    url: str
    secret_env: Annotated[str, pydantic.AfterValidator(target_faults.variable)]
    method: Literal["GET", "POST"] = "POST"
    header: Annotated[str | None, pydantic.AfterValidator(target_faults.header)] = None
    body: str | None = None
    account: str | None = None


class Target(pydantic.BaseModel):
    """A live target, as its TOML file describes it.

    ``protocol``: "oip" (Open Inference Protocol v2), "tfserving" (TF-Serving and KServe v1), "mlflow"
    (``/invocations``), "json" (``request`` is a template, ``output`` a JMESPath), "python" (``url`` is
    ``file.py:NAME`` or ``package.module:NAME``, a function from inputs to answers). ``url``: for "json" the
    whole address that is posted to; for "oip", "tfserving" and "mlflow" the address of the server, without
    the path that the protocol adds. ``host``: the host that a function ("python") sends to, "localhost" if it
    computes the answers itself. ``model``, ``version``: as the protocol names them. ``signature``: that of a
    TF-Serving model. ``form``: whether it gets inputs as "rows" or as "columns". ``request``: a JSON text in
    which ``"$inputs"`` stands for the rows, ``"$input"`` for the only row where ``batch`` is 1, and
    ``"$columns"`` for the names of columns (json). ``output``: the tensor of the answer (oip), the field of
    it (tfserving, mlflow), or the JMESPath of n answers (json). ``identity``: a JMESPath of what the target
    says of its model (json). ``input``: the tensor of the inputs, ``datatype`` its type (oip). ``shape``: the
    axes of one input, where the target wants others than the file has, as [64] for images of [8, 8].

    ``answers``: what comes back. ``classes``: their names in the order of the answers; with labels, all
    labels that can come. ``positive``: the class whose probability comes where only one of two does.
    ``scale``: what numbers are. ``partial``: whether answers name only the likeliest classes, as ``{"name":
    number}`` or as ``[["name", number]]``; the rest is spread evenly over the others. ``rejected``: "null"
    where the target answers null to an input that it rejects; without it, null is an error. ``batch``: inputs
    a request. ``connections``: requests at a time. ``headers``: further ones, none of them secret;
    ``key_header``: where an account's key goes, with "Bearer " before it where it is "Authorization".
    ``ca_file``: certificates (PEM) that the server's must be signed by, instead of those of this machine;
    relative to the target file.

    ``budget``: most inputs that may ever be sent; ``money_cap``: most money that may ever be spent, in the
    currency of ``price_per_1000``; ``units_per_input`` and ``free_units``: what is billed of an input, and
    what is free. ``rate``: inputs that may be sent, as "600/minute"; ``stated_rate``: inputs an account that
    the target says it lets pass, which probes of controls go past. ``quota``: inputs an account;
    ``detected_after``: the input of an account at which it is found out; ``account_price``: of one account.
    ``token_key_env``: the environment variable with the key that signs tokens (HMAC-SHA256), of which probes
    make tokens that are not valid; ``second_factor``: where a one-time code is asked for.

    ``timeout``: seconds until a whole answer. ``retries``: tries after the first that was certainly not
    billed; ``retry_unknown``: after one that may have been. ``patience``: most seconds to wait because the
    target asks for it. ``bills_rejected``: whether 429 and 503 are billed. ``idempotency_header``: where the
    target documents one.
    """

    model_config = Strict

    url: str
    protocol: Literal["oip", "tfserving", "mlflow", "json", "python"]
    host: str | None = None
    model: str | None = None
    version: str | None = None
    signature: str | None = None
    form: Literal["rows", "columns"] = "rows"
    input: str | None = None
    datatype: Literal[
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
    ] = "FP32"
    shape: Annotated[tuple[Axis, ...] | None, pydantic.BeforeValidator(_texts)] = None
    request: str | None = None
    output: str | None = None
    identity: str | None = None
    answers: Literal["probabilities", "labels"] = "probabilities"
    classes: Annotated[tuple[str, ...], pydantic.BeforeValidator(_texts)]
    positive: str | None = None
    scale: Literal["probability", "percent", "log"] = "probability"
    partial: bool = False
    rejected: Literal["null"] | None = None
    batch: Annotated[int, pydantic.Field(ge=1, le=100_000)] = 64
    connections: Annotated[int, pydantic.Field(ge=1, le=64)] = 4
    headers: dict[str, str] = {}
    key_header: Annotated[str, pydantic.AfterValidator(target_faults.header)] = "Authorization"
    ca_file: str | None = None
    budget: Annotated[int | None, pydantic.Field(ge=1)] = None
    money_cap: Annotated[float | None, pydantic.Field(gt=0)] = None
    price_per_1000: Annotated[float, pydantic.Field(gt=0)] = 1.50
    units_per_input: Annotated[float, pydantic.Field(gt=0)] = 1.0
    free_units: Annotated[float, pydantic.Field(ge=0)] = 0.0
    rate: str | None = None
    stated_rate: str | None = None
    quota: Annotated[int | None, pydantic.Field(ge=1)] = None
    detected_after: Annotated[int | None, pydantic.Field(ge=2)] = None
    account_price: Annotated[float, pydantic.Field(ge=0)] = 0.0
    timeout: Annotated[float, pydantic.Field(gt=0, le=600)] = 60.0
    retries: Annotated[int, pydantic.Field(ge=0, le=20)] = 5
    retry_unknown: Annotated[int, pydantic.Field(ge=0, le=20)] = 1
    patience: Annotated[float, pydantic.Field(ge=0)] = 600.0
    bills_rejected: bool = False
    idempotency_header: Annotated[str | None, pydantic.AfterValidator(target_faults.header)] = None
    token_key_env: Annotated[str | None, pydantic.AfterValidator(target_faults.variable)] = None
    second_factor: SecondFactor | None = None
    accounts: Annotated[tuple[Account, ...], pydantic.BeforeValidator(_texts)] = ()
    permission: Permission | None = None

    @property
    def rate_per_hour(self) -> float | None:
        """Inputs an hour that may be sent; None without a limit."""
        if self.rate is None:
            return None
        found = _RATE.fullmatch(self.rate)
        return int(found[1]) * PER[found[2]] if found else None

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("rate", "stated_rate"):
            value = getattr(self, name)
            if value is not None and not _RATE.fullmatch(value):
                raise ValueError(
                    f"{name} has to be a number and a time, as '600/minute'; second, hour and day too"
                )
        target_faults.check(self)
        return self


def load_target(path: Path) -> Target:
    """Return the target that the TOML file ``path`` describes; raises UsageError, one sentence."""
    return target_faults.load(
        path, Target, {"accounts": Account, "permission": Permission, "second_factor": SecondFactor}
    )

"""The file that says which controls a server enforces, and how strictly: ``controls.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import pydantic

from bench.remote import target_faults
from bench.serve.access_controls import Admin, Jwt, Keys, Quota, Suspension
from bench.serve.evidence_controls import Audit, PinnedModel

Strict = pydantic.ConfigDict(
    extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
)


class Size(pydantic.BaseModel):
    """Limits of one request.

    ``body_bytes``, ``header_bytes``: most bytes of each. ``inputs``: most inputs of a request.
    ``connections``: most open ones, of a worker; ``address_connections``: of these, from one address, or one
    network of IPv6: all clients behind a proxy have one. ``seconds``: until the headers, and then until
    the body are whole; ``answer_seconds``: until the answer is.
    """

    model_config = Strict

    body_bytes: Annotated[int, pydantic.Field(ge=1_000)] = 4_000_000
    inputs: Annotated[int, pydantic.Field(ge=1)] = 1_000
    header_bytes: Annotated[int, pydantic.Field(ge=1_000)] = 16_384
    connections: Annotated[int, pydantic.Field(ge=1)] = 2_000
    address_connections: Annotated[int, pydantic.Field(ge=1)] = 500
    seconds: Annotated[float, pydantic.Field(gt=0)] = 10.0
    answer_seconds: Annotated[float, pydantic.Field(gt=0)] = 60.0


class TermsOfUse(pydantic.BaseModel):
    """Terms that an account has to accept before its first answer: a text ``file``, and its ``version``."""

    model_config = Strict

    file: str
    version: Annotated[str, pydantic.Field(min_length=1, max_length=100)]


class Controls(pydantic.BaseModel):
    """Controls of a server; the defaults hold where there is no file: keys, quotas and size limits."""

    model_config = Strict

    size: Size = Size()
    keys: Keys = Keys()
    jwt: Jwt | None = None
    quota: Quota = Quota()
    suspension: Suspension = Suspension()
    admin: Admin | None = None
    audit: Audit | None = None
    terms: TermsOfUse | None = None
    model: PinnedModel | None = None

    @pydantic.model_validator(mode="after")
    def _tokens_need_keys(self) -> Self:
        if self.jwt is not None and not self.keys.on:
            raise ValueError("[jwt] needs keys: without them anybody may ask; leave on = false out of [keys]")
        return self


PARTS: Mapping[str, type[pydantic.BaseModel]] = {
    "size": Size,
    "keys": Keys,
    "jwt": Jwt,
    "quota": Quota,
    "suspension": Suspension,
    "admin": Admin,
    "audit": Audit,
    "terms": TermsOfUse,
    "model": PinnedModel,
}
"""The models of the file's tables."""


def load_controls(path: Path) -> Controls:
    """Return the controls that the TOML file ``path`` states; raises UsageError, one sentence."""
    return target_faults.load(path, Controls, PARTS, what="controls file")

"""Tables of ``controls.toml`` on access and counting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import pydantic

from bench.errors import UsageError
from bench.remote.target_faults import variable
from bench.serve.counting import Rate, parsed_rate
from bench.serve.secret_values import Secret, read_secret
from bench.serve.tokens import Algorithm

Strict = pydantic.ConfigDict(
    extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
)
UNLIMITED = "unlimited"
PEPPER_FILE = "pepper"
"""The file of the pepper in a server's folder, unless the controls name another."""
Variable = Annotated[str | None, pydantic.AfterValidator(variable)]
Positive = Annotated[int, pydantic.Field(ge=1)]
Seconds = Annotated[float, pydantic.Field(gt=0, le=31_536_000)]


class Keys(pydantic.BaseModel):
    """API keys.

    ``pepper_env`` or ``pepper_file``: what their digests are made with; default: the file that ``moatbench
    keys init`` makes. ``failures``: failed keys of an address in any ``failure_seconds``.
    """

    model_config = Strict

    on: bool = True
    pepper_env: Variable = None
    pepper_file: str | None = None
    failures: Positive = 20
    failure_seconds: Seconds = 60.0

    @property
    def pepper_is_elsewhere(self) -> bool:
        """Return whether the pepper is kept outside of the server's folder."""
        return self.pepper_env is not None or self.pepper_file is not None

    def pepper(self, folder: Path, state: Path, environ: Mapping[str, str]) -> Secret:
        """Return the pepper; raises UsageError where there is none.

        ``folder``: that of the controls file. ``state``: that of the state.
        """
        file = folder / self.pepper_file if self.pepper_file else state / PEPPER_FILE
        if not (self.pepper_is_elsewhere or file.exists()):
            raise UsageError(f"there are no keys in {state}: run moatbench keys init --state {state} NAME")
        return read_secret("the pepper of keys", variable=self.pepper_env, file=file, environ=environ)


class Jwt(pydantic.BaseModel):
    """Bearer tokens (JWT) beside API keys; ``sub`` names an account. One algorithm, one key, one audience.

    HS256 needs ``key_env`` or ``key_file`` (32 bytes or more), the others ``public_key_file`` (PEM).
    ``longest_seconds``: how far away ``exp`` may be.
    """

    model_config = Strict

    algorithm: Algorithm
    audience: Annotated[str, pydantic.Field(min_length=1)]
    issuer: Annotated[str, pydantic.Field(min_length=1)] | None = None
    key_env: Variable = None
    key_file: str | None = None
    public_key_file: str | None = None
    longest_seconds: Seconds = 86_400.0

    @pydantic.model_validator(mode="after")
    def _one_key(self) -> Self:
        given = [name for name in ("key_env", "key_file", "public_key_file") if getattr(self, name)]
        needed = {"key_env", "key_file"} if self.algorithm == "HS256" else {"public_key_file"}
        if len(given) != 1 or given[0] not in needed:
            raise ValueError(
                f"algorithm '{self.algorithm}' needs {' or '.join(sorted(needed))}, and no other key"
            )
        return self


class Quota(pydantic.BaseModel):
    """Inputs of an account: ``inputs`` in all, and ``rate`` in any window, as "600/minute".

    "unlimited" for either: no limit.
    """

    model_config = Strict

    on: bool = True
    inputs: Positive | Literal["unlimited"] = 10_000
    rate: str = "600/minute"

    @pydantic.field_validator("inputs", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        if value != UNLIMITED and (type(value) is not int or value < 1):
            raise ValueError(f"it has to be a number from 1, or '{UNLIMITED}'")
        return value

    @pydantic.field_validator("rate")
    @classmethod
    def _readable(cls, value: str) -> str:
        if value != UNLIMITED:
            parsed_rate(value)
        return value

    @property
    def cap(self) -> int | None:
        """Inputs in all; None: any number."""
        return self.inputs if self.on and isinstance(self.inputs, int) else None

    @property
    def window(self) -> Rate | None:
        """Inputs in any window; None: any number."""
        return parsed_rate(self.rate) if self.on and self.rate != UNLIMITED else None


class Suspension(pydantic.BaseModel):
    """An account is suspended once ``flagged`` of its inputs were flagged by a detector of the defense."""

    model_config = Strict

    on: bool = True
    flagged: Positive = 100

    @property
    def after(self) -> int | None:
        """Flagged inputs that suspend an account; None: none do."""
        return self.flagged if self.on else None


class Admin(pydantic.BaseModel):
    """Metrics on a ``port`` of their own, on 127.0.0.1, behind a key of the role metrics and a second factor.

    ``session_seconds``: how long a login lasts. Port 0: a free one.
    """

    model_config = Strict

    port: Annotated[int, pydantic.Field(ge=0, le=65_535)]
    session_seconds: Seconds = 900.0

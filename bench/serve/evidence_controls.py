"""Tables of ``controls.toml`` on the audit log and the model at rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pydantic

from bench.remote.target_faults import variable

Strict = pydantic.ConfigDict(
    extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
)
File = Annotated[str, pydantic.Field(min_length=1)]
Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")]


class Audit(pydantic.BaseModel):
    """Checkpoints of the audit log, which a process of its own writes.

    ``checkpoints``: the file, best in a folder that the server cannot write. ``key_file``: private key of
    ``moatbench model keygen``. One after ``rows`` new rows, or ``seconds`` after the last one.
    """

    model_config = Strict

    checkpoints: File
    key_file: File
    rows: Annotated[int, pydantic.Field(ge=1)] = 1_000
    seconds: Annotated[float, pydantic.Field(ge=0.1, le=86_400)] = 10.0


class PinnedModel(pydantic.BaseModel):
    """The encrypted model that is served: nothing but ``name`` and ``version`` is decrypted.

    The key: ``key_env``, or ``key_file`` of mode 0600. ``public_key_file``: of who signed the model's folder.
    """

    model_config = Strict

    file: File
    name: Name
    version: Name
    key_env: Annotated[str | None, pydantic.AfterValidator(variable)] = None
    key_file: File | None = None
    public_key_file: File | None = None

    @pydantic.model_validator(mode="after")
    def _one_key(self) -> PinnedModel:
        if (self.key_env is None) == (self.key_file is None):
            raise ValueError("model: give key_env or key_file, one of them")
        if Path(self.file).suffix != ".enc":
            raise ValueError("model.file: an encrypted model ends in .enc; moatbench model encrypt makes one")
        return self

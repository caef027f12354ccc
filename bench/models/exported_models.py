"""Programs of ``torch.export`` (``.pt2``): read with weights only, so that loading runs no code."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from bench.errors import UsageError, one_line
from bench.models.model_files import LoadedModel

EXPORT = (
    "save it by torch.export.save(torch.export.export(model.eval(), (example,), dynamic_shapes=…), "
    "'model.pt2')"
)
"""How a program is made."""


def load_exported(text: str, content: bytes) -> LoadedModel:
    """Return the program in the bytes of a ``.pt2`` file; raises UsageError with how to make one."""
    import torch

    _check_archive(text, content)
    try:
        with _weights_only():
            program = torch.export.load(io.BytesIO(content))
    except Exception as error:  # whatever a damaged archive raises
        raise UsageError(f"{text}: it cannot be loaded: {one_line(error)}; {EXPORT}") from error
    module = program.module()

    def predict(x: Any) -> NDArray[Any]:
        with torch.no_grad():
            answer = module(torch.from_numpy(np.ascontiguousarray(x)))
        answer = answer[0] if isinstance(answer, tuple | list) else answer
        found: NDArray[Any] = answer.detach().cpu().numpy()
        return found

    return LoadedModel(predict, form="torch.export", digest=hashlib.sha256(content).hexdigest())


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let torch load weights alone inside the block; otherwise it falls back to pickle."""
    import torch
    from torch.export.pt2_archive import _package

    load = torch.load

    def weights(*args: Any, **options: Any) -> Any:
        return load(*args, **{**options, "weights_only": True})

    def refused(*_: Any) -> Any:
        raise ValueError("it holds pickled objects, which are never loaded")

    with (
        mock.patch.object(torch, "load", weights),
        mock.patch.object(torch._C, "_pickle_load_obj", refused, create=True),  # noqa: SLF001  # no other way
        mock.patch.object(_package, "pickle", SimpleNamespace(loads=refused)),
    ):
        yield


def _check_archive(text: str, content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UsageError(f"{text}: it is no archive of torch; {EXPORT}") from error
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise UsageError(f"{text}: it is a TorchScript program, which is not loaded; {EXPORT}")
    if any(name.endswith("/data.pkl") and name.count("/") == 1 for name in names):
        raise UsageError(f"{text}: it is a pickled module, which is never loaded; {EXPORT}")

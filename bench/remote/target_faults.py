"""What can be wrong in a target file, each fault in one sentence that never shows what may be a secret."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urlsplit

import pydantic

from bench.errors import UsageError, nearest, shown
from bench.files import user_file, user_text
from bench.remote.target_secrets import literal_secret

if TYPE_CHECKING:
    from bench.remote.target import Target

M = TypeVar("M", bound=pydantic.BaseModel)

LARGEST = 1_000_000
"""Most bytes of a target file."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
"""Names of variables by POSIX: keys, which hold small letters as a rule, are none."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE = re.compile(r"[\x20-\x7e]*")
_PLAIN = {
    "Input should be": "it has to be",
    "a valid dictionary": "a table",
    "a valid tuple": "a list",
    "a valid string": "a text",
}
"""Words of pydantic, and those of TOML."""
_OURS = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect"}
_USES = {
    "host": {"python"},
    "model": {"oip", "tfserving"},
    "version": {"oip", "tfserving"},
    "signature": {"tfserving"},
    "form": {"tfserving"},
    "input": {"oip"},
    "datatype": {"oip"},
    "request": {"json"},
    "identity": {"json"},
    "output": {"oip", "tfserving", "mlflow", "json"},
    "headers": {"oip", "tfserving", "mlflow", "json"},
    "ca_file": {"oip", "tfserving", "mlflow", "json"},
    "key_header": {"oip", "tfserving", "mlflow", "json"},
    "token_key_env": {"oip", "tfserving", "mlflow", "json"},
    "second_factor": {"oip", "tfserving", "mlflow", "json"},
    "idempotency_header": {"oip", "tfserving", "mlflow", "json"},
}
"""The protocols that use a field; a field that is not here is used by all."""
_NEEDS = {
    "oip": {"model": "the name of the model"},
    "tfserving": {"model": "the name of the model"},
    "mlflow": {},
    "json": {
        "request": 'a JSON text in which "$inputs" stands for the rows',
        "output": "a JMESPath to the answers",
    },
    "python": {"host": "the host that the function sends to, 'localhost' if it computes the answers itself"},
}


def load(
    path: Path, model: type[M], parts: Mapping[str, type[pydantic.BaseModel]], *, what: str = "target file"
) -> M:
    """Return ``model`` with the values of a TOML file; raises UsageError.

    ``parts``: models of its tables. ``what``: the file is, in an error.
    """
    text = user_text(user_file(path, what), LARGEST)
    try:
        document = tomllib.loads(text)
    except RecursionError:
        fault = "brackets are nested too deeply"
    except ValueError as error:  # among them tomllib's own, and Python's for numbers of 4,300 digits
        fault = f"it is not TOML: {' '.join(str(error).split())}"
    else:
        fault = literal_secret(document)
        if not fault:
            try:
                return model.model_validate(document)
            except pydantic.ValidationError as error:
                fault = _complaint(error, model, parts)
    raise UsageError(f"{path}: {fault}")


def _complaint(
    error: pydantic.ValidationError,
    model: type[pydantic.BaseModel],
    parts: Mapping[str, type[pydantic.BaseModel]],
) -> str:
    """Return the first fault in one sentence; the value is shown where it cannot be a secret."""
    first = error.errors(include_url=False)[0]
    place = [str(each) for each in first["loc"]]
    where = ".".join(place)
    if first["type"] == "extra_forbidden":
        owner = parts.get(place[0], model) if len(place) > 1 else model
        return f"there is no field {shown(where)}; {nearest(place[-1], owner.model_fields)}"
    if first["type"] == "missing":
        return f"the field {where} is missing"
    message = first["msg"].removeprefix("Value error, ")
    message = re.sub(r" or instance of \w+", "", message)
    for words, plain in _PLAIN.items():
        message = message.replace(words, plain)
    if not place:
        return message
    value = first["input"]
    open_value = isinstance(value, bool | int | float) or first["type"] == "literal_error"
    return f"{where} = {shown(value)}: {message}" if open_value else f"{where}: {message}"


def line(value: str) -> str:
    """Return a text of one visible line; raises ValueError for another."""
    if not value.strip() or not value.isprintable():
        raise ValueError("it has to be a text of one line")
    return value


def variable(value: str | None) -> str | None:
    """Return the name of an environment variable; raises ValueError, which does not show another text."""
    if value is not None and not _VARIABLE.fullmatch(value):
        raise ValueError("it has to be the name of an environment variable, in capitals, not the key itself")
    return value


def header(value: str | None) -> str | None:
    """Return the name of a header; raises ValueError for another text."""
    if value is not None and (not _HEADER.fullmatch(value) or value.lower() in _OURS):
        raise ValueError("it has to be the name of a header, as 'X-Api-Key'")
    return value


def check(target: Target) -> None:
    """Raise ValueError, one sentence, where fields of a target do not fit each other."""
    _check_protocol(target)
    if target.protocol == "python":
        _check_function(target.url)
    else:
        _check_url(target)
    _check_classes(target)
    _check_headers(target)
    _check_second_factor(target)
    names = [each.name for each in target.accounts]
    if len(set(names)) < len(names):
        raise ValueError("accounts: two have the same name; give each its own")


def _check_protocol(target: Target) -> None:
    for field, meaning in _NEEDS[target.protocol].items():
        if getattr(target, field) is None:
            raise ValueError(f"protocol '{target.protocol}' needs {field}, {meaning}")
    for field, users in _USES.items():
        if target.protocol not in users and field in target.model_fields_set:
            raise ValueError(
                f"protocol '{target.protocol}' does not use {field}; it belongs to "
                + " and ".join(repr(user) for user in sorted(users))
            )
    if target.protocol == "python" and any(each.key_env for each in target.accounts):
        raise ValueError("protocol 'python' sends no key: the function reads its own; leave key_env out")
    for field in ("model", "version", "signature", "input", "output", "host"):
        value = getattr(target, field)
        if value is not None:
            try:
                line(value)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None


def _check_function(url: str) -> None:
    file, _, name = url.rpartition(":")
    dotted = all(part.isidentifier() for part in file.split("."))
    if not name.isidentifier() or not (file.endswith(".py") or dotted):
        raise ValueError("url of protocol 'python' is file.py:NAME or package.module:NAME")


def split(url: str) -> SplitResult:
    """Return the parts of an address; raises ValueError, one sentence, if it is none of http or https."""
    problem = "url has to be an address as 'http://127.0.0.1:8080', of http or https"
    if not _VISIBLE.fullmatch(url) or " " in url:
        raise ValueError(f"{problem}, in visible ASCII characters; write %20 for a blank")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(problem) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or "\\" in url:
        raise ValueError(problem)
    if "#" in url:
        raise ValueError("url has a part after '#', which no server sees; leave it out")
    return parts


_PATHS = {"oip": "/v2/models", "tfserving": "/v1/models"}


def _check_url(target: Target) -> None:
    parts = split(target.url)
    if target.ca_file is not None and parts.scheme != "https":
        raise ValueError("ca_file is for an url of https; leave it out, or change url")
    if target.protocol == "json":
        return
    if parts.query:
        raise ValueError(f"url of protocol '{target.protocol}' has no part after '?'; leave it out")
    added = _PATHS.get(target.protocol)
    if added is not None and added in parts.path:
        raise ValueError(
            f"url of protocol '{target.protocol}' is the server's address; leave out {added}…, which model "
            "and version say"
        )


def _check_classes(target: Target) -> None:
    classes = target.classes
    if len(classes) < 2:
        raise ValueError("classes has to name at least 2 classes, in the order of the answers")
    twice = next((each for place, each in enumerate(classes) if each in classes[:place]), None)
    if twice is not None:
        raise ValueError(f"classes names {shown(twice)} twice; give each class one name")
    if target.positive is not None:
        if target.answers == "labels":
            raise ValueError("positive says which probability comes; labels have none: leave it out")
        if len(classes) != 2:
            raise ValueError("positive needs exactly 2 classes; one probability tells nothing of more")
        if target.positive not in classes:
            raise ValueError(
                f"positive = {shown(target.positive)} is none of classes; {nearest(target.positive, classes)}"
            )
        if target.partial or target.scale == "log":
            raise ValueError("positive goes with neither partial nor scale = 'log'; leave one out")
    if target.answers == "labels" and (target.partial or target.scale != "probability"):
        raise ValueError("scale and partial say what probabilities are; labels have none: leave them out")


def _check_second_factor(target: Target) -> None:
    place = target.second_factor
    if place is None:
        return
    if split(place.url).hostname != split(target.url).hostname:
        raise ValueError("second_factor.url has to be on the host of url")
    if (place.header is None) == (place.body is None):
        raise ValueError("second_factor needs header or body, where the code goes, and not both")
    if place.body is not None and "$code" not in place.body:
        raise ValueError('second_factor.body has to hold "$code", where the code goes')
    if place.account is not None and place.account not in {each.name for each in target.accounts}:
        raise ValueError("second_factor.account is none of accounts")


def _check_headers(target: Target) -> None:
    taken = {"content-type"} if target.protocol != "json" else set()
    taken |= _OURS | {target.key_header.lower()}
    taken |= {target.idempotency_header.lower()} if target.idempotency_header else set()
    for name, value in target.headers.items():
        if not _HEADER.fullmatch(name) or not _VISIBLE.fullmatch(value):
            raise ValueError(f"headers: {shown(name)} has characters that no header may have")
        if name.lower() in taken:
            raise ValueError(f"headers: {name} is set by moatbench; leave it out")

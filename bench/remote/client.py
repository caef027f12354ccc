"""The one client of a run: permission is checked, keys are read, and connections go where was looked."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from bench.errors import UsageError
from bench.remote import permission
from bench.remote.addresses import Resolve, resolve
from bench.remote.exchange import Exchange
from bench.remote.protocols.base import Wire
from bench.remote.protocols.mlflow import MlFlow
from bench.remote.protocols.oip import Oip
from bench.remote.protocols.tfserving import TfServing
from bench.remote.secrets import Secrets
from bench.remote.target import Target

if TYPE_CHECKING:
    import httpx2

_MEANING = (
    *("protocol", "model", "version", "signature", "form", "input", "datatype", "shape", "request", "output"),
    *("answers", "classes", "positive", "scale", "partial"),
)
"""Fields that a change of makes answers to the same inputs others."""


_WIRES: Mapping[str, Callable[[Target], Wire]] = {"oip": Oip, "tfserving": TfServing, "mlflow": MlFlow}
"""Protocols that need no library."""


class OpenExchange(Exchange, Protocol):
    """An exchange that says who allows it, and what the target says of itself for free."""

    permission: str

    def metadata(self) -> dict[str, Any]:
        """Return what the target says of itself, by name; {} if it says nothing. Raises no error."""


def open_exchange(
    target: Target,
    *,
    folder: Path,
    allowed_host: str | None,
    environ: Mapping[str, str],
    transport: httpx2.BaseTransport | None = None,
    clock: Callable[[], float] = time.monotonic,
    resolver: Resolve = resolve,
) -> OpenExchange:
    """Return what sends requests to the target; raises UsageError where it may not or cannot.

    ``folder``: that paths of the target file are relative to. ``allowed_host``: the host that the user says
    they may test. ``environ``: holds the keys. ``transport``: instead of a network, for tests. Opens no
    connection.
    """
    checked = permission.permitted(target, allowed_host, resolver=resolver)
    if target.protocol == "python":
        from bench.remote.protocols.function import FunctionExchange

        return FunctionExchange(target, folder, permission=checked.text, environ=environ, clock=clock)
    secrets = Secrets(target, environ)
    try:
        import httpx2

        from bench.remote.connections import Deadline, open_client
        from bench.remote.http_exchange import HttpExchange
    except ImportError as error:
        raise UsageError(f"live targets need {error.name}: pip install 'moatbench[live]'") from error
    wire = wire_of(target)
    address = httpx2.URL(wire.address)
    if address.raw_host.decode("ascii").lower() != checked.host:
        raise UsageError("url is read in two ways by two libraries; write the host in its plain form")
    deadline = Deadline(clock)
    client = open_client(
        checked.addresses,
        deadline,
        timeout=target.timeout,
        connections=target.connections,
        tls=address.scheme == "https",
        ca_file=None if target.ca_file is None else folder / Path(target.ca_file).expanduser(),
        transport=transport,
    )
    return HttpExchange(target, wire, secrets, client, deadline, permission=checked.text, clock=clock)


def wire_of(target: Target) -> Wire:
    """Return the protocol of a target; raises UsageError where its template or expression is broken."""
    if target.protocol in _WIRES:
        return _WIRES[target.protocol](target)
    try:
        from bench.remote.protocols.template import Template
    except ImportError as error:
        raise UsageError(f"protocol 'json' needs {error.name}: pip install 'moatbench[live]'") from error
    return Template(target)


def public_url(target: Target) -> str:
    """Return the target's address without anything that may be secret: no query, no user."""
    if target.protocol == "python":
        return target.url
    parts = urlsplit(target.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def fingerprint(target: Target, identity: str) -> str:
    """Return SHA-256, in hexadecimal, of what makes the answers of a target those of one model.

    ``identity``: what the target says of its model. Budget, price, batch, rate and accounts may change.
    """
    values = {name: getattr(target, name) for name in _MEANING}
    document = {"url": target.url.rstrip("/"), "identity": identity, **values}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

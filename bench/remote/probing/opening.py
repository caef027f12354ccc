"""Opens a target for probes: the same permission, keys and ledger as those of attacks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from bench.errors import UsageError
from bench.remote import client, permission
from bench.remote.accounts import account_of
from bench.remote.addresses import Resolve, resolve
from bench.remote.exchange import Inputs
from bench.remote.ledger import Ledger
from bench.remote.money import Prices
from bench.remote.pace import Pace
from bench.remote.probing.booking import PURPOSE
from bench.remote.probing.context import Accounts, Context, Triggers
from bench.remote.probing.line import Line, Request, SocketLine
from bench.remote.secrets import Secrets
from bench.remote.target import Target

GENERATED = 512
"""Inputs that are made where the user names none."""


@dataclass(frozen=True)
class Opened:
    """A target that may be probed. ``earlier``: inputs that earlier runs of probes booked."""

    context: Context
    ledger: Ledger
    url: str
    permission: str
    earlier: int


@contextmanager
def opened(
    target: Target,
    ledger_file: Path,
    *,
    folder: Path,
    allowed_host: str | None,
    environ: Mapping[str, str],
    inputs: Inputs | None = None,
    second: str | None = None,
    run_limit: int | None = None,
    triggers: Triggers | None = None,
    line: Line | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
    resolver: Resolve = resolve,
) -> Iterator[Opened]:
    """Yield a target that may be probed; raises UsageError where it may not or cannot.

    ``folder``: that paths of the target file are relative to. ``inputs``: to send; None: random numbers of
    the shape that the target file or the target states. ``second``: an account with a further key of the
    first one's customer. ``line``: instead of a network, for tests.
    """
    if target.protocol == "python":
        raise UsageError("protocol 'python' is a function; probes need a target with an address of http")
    checked = permission.permitted(target, allowed_host, resolver=resolver)
    secrets = Secrets(target, environ)
    accounts = _accounts(target, second)
    try:
        from bench.remote.connections import tls_context

        wire = client.wire_of(target)
    except ImportError as error:
        raise UsageError(f"live targets need {error.name}: pip install 'moatbench[live]'") from error
    if line is None:
        tls = urlsplit(wire.address).scheme == "https"
        ca_file = None if target.ca_file is None else folder / Path(target.ca_file).expanduser()
        second_tls = target.second_factor is not None and target.second_factor.url.startswith("https:")
        context = tls_context(ca_file, tls=True) if tls or second_tls else None
        line = SocketLine(checked.addresses, checked.host, checked.port, context, tls=tls)
    if inputs is None:
        shape = target.shape or _stated_shape(line, wire.metadata.get("model"), secrets, target)
        inputs = generated(shape, target)
    needed = None if checked.text == permission.LOOPBACK else target.permission
    with Ledger(
        ledger_file,
        client.fingerprint(target, ""),
        Prices.of(target),
        pace=Pace.of(target),
        run_limit=run_limit,
        clock=clock,
    ) as ledger:
        ((earlier,),) = ledger.rows(
            "select coalesce(sum(paid), 0) from purposes where purpose like ?", f"{PURPOSE}%"
        )
        context_of_run = Context(
            target,
            wire,
            secrets,
            line,
            ledger,
            inputs,
            clock=clock,
            sleep=sleep,
            accounts=accounts,
            until=needed.until if needed else None,
            triggers=triggers,
        )
        yield Opened(context_of_run, ledger, client.public_url(target), checked.text, int(earlier))


def _accounts(target: Target, second: str | None) -> Accounts:
    first = account_of(target, "attacker")
    if second is not None:
        second = account_of(target, second)
        if second == first:
            raise UsageError(
                f"--second-account {second} is the first account; name another key of its customer"
            )
    administers = None if target.second_factor is None else target.second_factor.account
    others = [each.name for each in target.accounts if each.name not in {first, second, administers}]
    return Accounts(first, second, others[-1] if others else first)


def generated(shape: tuple[int, ...], target: Target, number: int = GENERATED) -> Inputs:
    """Return random numbers in [0, 1] with three decimals, whole ones where the datatype has no others."""
    random = np.random.default_rng(20_260_101)
    values = random.random((number, *shape))
    rows = values.round(3) if target.datatype.startswith("FP") else values.round()
    x = rows.astype(np.float32)
    return Inputs(x, np.round(x.astype(np.float64), 3))


def _stated_shape(line: Line, address: str | None, secrets: Secrets, target: Target) -> tuple[int, ...]:
    """Return the axes of one input, as the target's metadata of the Open Inference Protocol state them."""
    missing = UsageError(
        "nothing says what an input is: add shape = [64], as an example, to the target file, or name inputs "
        "by --data FILE"
    )
    if target.protocol != "oip" or address is None:
        raise missing
    headers = (*target.headers.items(), *secrets.headers("").items())
    (reply,) = line.send([Request("GET", urlsplit(address).path, headers)], seconds=target.timeout)
    if not reply.connected:
        raise UsageError("the target takes no connection; check url, and whether it runs")
    try:
        tensors = json.loads(reply.body)["inputs"]
        axes = tensors[0]["shape"][1:] if len(tensors) == 1 else []
        if axes and all(isinstance(axis, int) and axis > 0 for axis in axes) and math.prod(axes) <= 1_000_000:
            return tuple(axes)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        pass
    raise missing

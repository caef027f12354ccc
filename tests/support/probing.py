"""Runs one probe against an application in this process."""

import contextlib
import tempfile
from pathlib import Path

from asgi_line import AsgiLine, Clock
from naive_servers import CLASSES, Server

from bench.remote.probing.opening import opened
from bench.remote.probing.registry import chosen
from bench.remote.probing.run import planned_inputs, run_probes
from bench.remote.target import Account, Target

KEYS = {"ANN": "key-of-ann", "ANN_2": "second-key-of-ann", "BEN": "key-of-ben", "CY": "key-of-cy"}
FILE = {
    "url": "http://127.0.0.1:8080",
    "protocol": "oip",
    "model": "m",
    "output": "p",
    "input": "x",
    "shape": (4,),
    "classes": tuple(CLASSES),
    "stated_rate": "20/minute",
    "accounts": (Account(name="ann", key_env="ANN"),),
}


def a_target(**changes):
    """A target file's content."""
    return Target(**{name: value for name, value in {**FILE, **changes}.items() if value is not None})


@contextlib.contextmanager
def probing(line, clock, *, target=None, environ=KEYS, **options):
    """Yield what is opened for probes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(
            target or a_target(),
            Path(folder) / "ledger.sqlite",
            folder=Path(folder),
            allowed_host=None,
            environ=environ,
            line=line,
            clock=clock,
            sleep=clock.sleep,
            **options,
        ) as found,
    ):
        yield found


def probed(names, app, clock, *, most=None, **options):
    """Return the outcome of probes ("a" or "a,b") against ``app``."""
    line = AsgiLine(app)
    try:
        with probing(line, clock, **options) as found:
            probes = chosen(names.split(","))
            planned = planned_inputs(probes, found.context)
            outcome = run_probes(probes, found.context, found.ledger, most=min(planned, most or planned))
            booked = found.ledger.totals().inputs
            assert booked <= planned
            assert sum(each.inputs for each in outcome.findings) <= booked
            return outcome
    finally:
        line.close()


def found(name, *faults, target=None, options=None, **server):
    """Return the finding of one probe against a server with these faults."""
    clock = Clock()
    app = Server(*faults, clock=clock, **server)
    outcome = probed(name, app, clock, target=target, **(options or {}))
    assert not outcome.stopped
    return outcome.findings[0]

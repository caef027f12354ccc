"""A server whose process of checkpoints is killed while its model loads: ``FOLDER WORKERS``."""

import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from bench.cli import serving
from bench.errors import MoatbenchError, StoppedError
from tests.support.asgi_client import FakePredictor
from tests.support.processes import children

WRITER = b"bench.serve.checkpoint_writer"


@dataclass(frozen=True)
class Loading:
    """Takes a minute, unless it is interrupted."""

    server: int

    def __call__(self, _state):
        (writer,) = children(self.server, WRITER)
        print("loading", flush=True)  # before the end of the writer makes another thread speak
        os.kill(writer, signal.SIGKILL)
        threading.Event().wait(60)
        return FakePredictor()


def main(folder, number):
    """Serve, and end as the command does."""
    request = serving.Request(
        Path(folder) / "state", port=0, workers=number, controls=Path(folder) / "controls.toml"
    )
    try:
        sys.exit(serving.served(request, Loading(os.getpid()), "a model", "fake"))
    except (MoatbenchError, StoppedError) as error:
        print(error, flush=True)
        sys.exit(3 if isinstance(error, StoppedError) else 2)

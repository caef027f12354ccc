"""A server with a model that adds up, as a process: ``python small_server.py FOLDER WORKERS [CERT KEY]``.

Prints its address once it listens. Without keys, so that tests of connections need none.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from asgi_client import FakePredictor

from bench.errors import MoatbenchError, StoppedError
from bench.serve import uvicorn_server, workers
from bench.serve.access_controls import Keys, Quota
from bench.serve.app import build_app
from bench.serve.controls import Controls, Size
from bench.serve.state import State, state_file

CONTROLS = Controls(
    keys=Keys(on=False),
    quota=Quota(on=False),
    size=Size(seconds=1.0, answer_seconds=5.0, connections=20, address_connections=12),
)


@dataclass(frozen=True)
class Build:
    folder: Path

    def __call__(self, lost):
        if (self.folder / "broken").exists():
            raise MoatbenchError("the model is broken")
        return build_app(FakePredictor(), CONTROLS, State(state_file(self.folder)), lost=lost)


def main(folder, number, certificate=None, key=None):
    folder = Path(folder)
    with workers.sole_server(folder):
        sock = uvicorn_server.bound("127.0.0.1", 0)
        process = workers.Process(
            Build(folder),
            sock,
            CONTROLS.size,
            certificate and Path(certificate),
            key and Path(key),
        )
        return workers.run(process, number, lambda: print(*uvicorn_server.listening([sock]), flush=True))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
    except (MoatbenchError, StoppedError) as error:
        print(error, flush=True)
        sys.exit(3 if isinstance(error, StoppedError) else 2)

"""The process that buys, of a target whose bill is a file of JSON lines."""

import json
import os
import sys
from pathlib import Path

from targets import FakeExchange

from bench.remote import buyer


class Billing(FakeExchange):
    """Answers, and writes what it bills before it answers."""

    def __init__(self, bill, model):
        super().__init__()
        self._bill, self._model = bill, model

    def attempt(self, inputs, *, account, idempotency):
        if self._model == "secret":
            raise KeyError("s3cret")
        with self._bill.open("a") as file:
            file.write(json.dumps([row.tolist() for row in inputs.x]) + "\n")
        return super().attempt(inputs, account=account, idempotency=idempotency)


def opened(target, *_):
    return buyer.Opened(Billing(Path(os.environ["FAKE_BILL"]), target.model), target.url, "print")


if __name__ == "__main__":
    sys.exit(buyer.main(opened))

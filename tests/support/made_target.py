"""A live target that is none: a local function behind the interface of the process that buys answers."""

from __future__ import annotations

import numpy as np

from bench.errors import StoppedError
from bench.remote.target import Target
from bench.run_facts import CampaignFacts, PurposeFacts


def made_target(**values):
    """Return a target file's content: ten classes, and whatever ``values`` say."""
    classes = tuple(str(each) for each in range(10))
    return Target(
        **{"url": "http://127.0.0.1:1/", "protocol": "oip", "model": "m", "classes": classes} | values
    )


class MadeBuyer:
    """Answers by ``model``, from float32 inputs (n, …) to (n, classes), and counts what it sold.

    ``ledger``: what was sold before, by input, occurrence and account; share it to go on after a stop.
    ``stop_after``: inputs after which it stops once. ``refuses``: which of inputs (n, …) it refuses, (n,).
    """

    def __init__(self, model, target, ledger=None, stop_after=None, refuses=None):
        self.model, self.target, self.stop_after, self.refuses = model, target, stop_after, refuses
        self.ledger = {} if ledger is None else ledger
        self.purposes = self.ledger.setdefault("purposes", {})
        self.sold, self.asked, self.rows = [], [], []
        self.times, self.closed, self.on_progress = {}, False, None

    def ask(self, inputs, *, session, purpose, account="", fresh=False):
        assert not fresh, "nothing is bought twice"
        self.asked.append((session, purpose, account, len(inputs)))
        own = self.purposes.setdefault(purpose, {"sent": 0, "paid": 0})
        found = []
        for place, row in enumerate(inputs.x):
            number = self.times.get((session, account, row.tobytes()), 0)
            self.times[session, account, row.tobytes()] = number + 1
            key = (row.tobytes(), number, account)
            own["sent"] += 1
            if key not in self.ledger:
                if self.stop_after is not None and len(self.sold) >= self.stop_after:
                    self.stop_after = None
                    raise StoppedError("the target asks to wait 3,600 s; run the same command later")
                own["paid"] += 1
                self.sold.append(key)
                self.rows.append(inputs.rows[place])
                answer = self.model(row[None])[0]
                refused = self.refuses is not None and self.refuses(row[None])[0]
                self.ledger[key] = np.full(len(answer), np.nan) if refused else answer
            found.append(self.ledger[key])
        return np.array(found)

    def facts(self):
        target = self.target
        return CampaignFacts(
            target="made",
            url=target.url,
            protocol=target.protocol,
            answers=target.answers,
            price_per_1000=target.price_per_1000,
            noise=0.0,
            purposes={
                name: PurposeFacts(**own, money=own["paid"] * target.price_per_1000 / 1000)
                for name, own in self.purposes.items()
            },
        )

    def finish(self):
        self.finished = True

    def metadata(self):
        return {}

    def close(self):
        self.closed = True

"""Targets that are functions, with counters of what they were asked."""

import threading

import numpy as np

from bench.remote.exchange import AttemptError, Inputs, Reply
from bench.remote.target import Target


def a_target(**changes) -> Target:
    """Return a target file's content."""
    values = {
        "url": "http://127.0.0.1:1/v2",
        "protocol": "oip",
        "model": "m",
        "classes": ("a", "b", "c"),
        "batch": 4,
        "connections": 1,
        "price_per_1000": 2.0,
    }
    return Target(**{**values, **changes})


def some_inputs(number: int, *, start: int = 0, width: int = 2) -> Inputs:
    """Return different inputs (number, width), the same for the same numbers."""
    x = (np.arange(start, start + number, dtype=np.float32)[:, None] + np.zeros(width)).astype(np.float32)
    return Inputs(x, x)


def true_answers(x) -> np.ndarray:
    """Return the answers (n, 3) of the model behind a fake target."""
    first = np.asarray(x, dtype=np.float64).reshape(len(x), -1)[:, 0]
    scores = np.exp(np.stack([np.sin(first), np.cos(first), 0 * first], axis=1))
    return scores / scores.sum(axis=1, keepdims=True)


class FakeExchange:
    """Answers from a function, and counts what it bills.

    ``script``: what happens to requests in turn: an AttemptError, a Reply, or None for an answer; after its
    end all are answered. ``rule``: called with the inputs; returns an AttemptError or None.
    """

    def __init__(self, script=(), *, rule=None, model=true_answers, identity="m v1"):
        self.script, self.rule, self.model, self.identity = list(script), rule, model, identity
        self.requests, self.billed, self.tokens, self.lock = [], 0, [], threading.Lock()
        self.answered = {}

    def attempt(self, inputs, *, account, idempotency):
        with self.lock:
            self.requests.append([tuple(row) for row in inputs.x])
            self.tokens.append(idempotency)
            event = self.script.pop(0) if self.script else None
        if event is None and self.rule:
            event = self.rule(inputs)  # which may wait for another request
        with self.lock:
            if not isinstance(event, AttemptError) or event.billed != "no":
                self.billed += len(inputs)
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, Reply):
                return event
            for row in inputs.x:
                place = tuple(row)
                self.answered[place] = self.answered.get(place, 0) + 1
        return Reply(self.model(inputs.x), self.identity, 17, 0.001)

    def close(self):
        pass


def rejected(wait=None, billed="no"):
    return AttemptError("the target answers 429", billed=billed, action="retry", wait=wait)


def timed_out():
    return AttemptError("the target did not answer in 60 s", billed="unknown", action="retry")


def failing(message="the target answers 500"):
    return AttemptError(message, billed="unknown", action="isolate")


def too_large():
    return AttemptError("the target answers 413", billed="no", action="halve")


def unreadable():
    return AttemptError("the answer is no JSON", billed="yes", action="stop")


def wrong_file():
    return AttemptError("the target answers 404", billed="no", action="stop")


class Time:
    """A clock that only sleeping moves."""

    def __init__(self, now=1_000_000.0):
        self.now, self.slept = now, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

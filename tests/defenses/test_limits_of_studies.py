"""A replication that compares defenses within a limit on L1 holds them to it, also where answers move far."""

import tomllib
from importlib import resources

import numpy as np

from bench.plugins import defenses

REFERENCES = {"none", "label_only"}


def test_rows_of_ten_classes_move_by_at_most_one_in_the_replication_of_modelguard():
    text = resources.files("bench.matrices").joinpath("studies/modelguard.toml").read_text(encoding="utf-8")
    names = {name for block in tomllib.loads(text)["block"] for name in block["defense"]}
    # Unsure, sure, and certain answers, and those in which two classes share everything.
    logits = np.random.default_rng(0).normal(size=(5, 400, 10)) * np.array([1, 3, 10, 30, 100])[:, None, None]
    powers = np.exp(logits - logits.max(axis=2, keepdims=True)).reshape(-1, 10)
    halves = np.eye(10) / 2 + np.roll(np.eye(10), 1, axis=1) / 2
    rows = np.concatenate([powers / powers.sum(axis=1, keepdims=True), np.eye(10), halves])
    moved = {}
    for name in names - REFERENCES:
        if "eps=1.0" not in name:  # the others have the limit as their parameter, and tests of it
            moved[name] = np.abs(defenses.build(name)(rows) - rows).sum(axis=1).max()
    assert list(moved) == ["reverse_sigmoid(beta=0.2, gamma=0.2)"]
    assert max(moved.values()) <= 1

"""Attacks on a live target, with a local function in place of the process that buys answers."""

from __future__ import annotations

import numpy as np
import pytest
from made_target import MadeBuyer, made_target
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from bench.models.plugin_guard import build
from bench.models.remote_victim import LiveData, remote_victim
from bench.plan.feasibility import PlannedVictim
from bench.plan.live import LiveScope, live_cells
from bench.plugins import attacks
from bench.runner.live import LiveContext
from bench.runner.live_campaign import Campaign
from bench.store import Store

COPYCAT, LABELS = "copycat(use_probability=true)", "labels"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A file of digits, and a model that answers probabilities (n, 10)."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    loaded = load_digits()
    images = (loaded.images / 16).astype(np.float32)
    np.savez(path, x=images, y=loaded.target)
    model = LogisticRegression(max_iter=200).fit(images[:800].reshape(800, -1), loaded.target[:800])

    def answer(x):
        return model.predict_proba(np.asarray(x, dtype=np.float64).reshape(len(x), -1))

    return path, answer


def campaign(digits, tmp_path, *, scope, buyer=None, test=100, **values):
    """Return a campaign with a made buyer, its store's path, and its attacks."""
    path, model = digits
    target = made_target(**values)
    buyer = buyer or MadeBuyer(model, target)
    victim = remote_victim(target, LiveData(str(path), test=test, label="y"), name="made")
    facts = PlannedVictim(victim.shape, {"pool": len(victim.splits.pool), "test": len(victim.splits.test)})
    built = {text: build(attacks, text) for text in scope.attacks}
    cells = live_cells("made", target, scope, facts, built)
    context = LiveContext(
        tmp_path, tmp_path / "memo", buyer=buyer, largest=max(scope.budgets), buy_repeats=scope.buy_repeats
    )
    context.serve(cells[0].victim, victim)
    return Campaign(victim, cells, buyer, context), built


def finished(made, path):
    """Run a campaign; return its records and the facts on its run."""
    with Store(path, create=True) as store:
        counts = made.run(store)
        return counts, store.records(), store.meta()


SCOPE = LiveScope((50, 100), (COPYCAT, LABELS), ("logistic",), repeats=3)


def test_attacks_share_one_purchase_and_smaller_budgets_are_its_beginning(digits, tmp_path):
    made, _ = campaign(digits, tmp_path, scope=SCOPE)
    counts, records, meta = finished(made, tmp_path / "store.sqlite")
    assert counts == {"ok": 12}
    assert len(made.buyer.sold) == len(set(made.buyer.sold)) == 100 + 100
    assert meta.campaign.purposes[COPYCAT].paid == 100
    assert meta.campaign.purposes[LABELS].paid == 0
    assert meta.campaign.bought == {COPYCAT: {"50": 50, "100": 100}, LABELS: {"50": 50, "100": 100}}
    fidelity = {
        (record.cell.attack, record.cell.budget): record.metrics["extraction.fidelity"] for record in records
    }
    assert min(fidelity.values()) > 0.6
    assert all(record.info.queries.sent == record.cell.budget for record in records)

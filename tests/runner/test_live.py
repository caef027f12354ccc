"""Attacks on a live target, with a local function in place of the process that buys answers."""

from __future__ import annotations

import numpy as np
import pytest
from made_target import MadeBuyer, made_target
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from bench.errors import StoppedError, UsageError
from bench.models.plugin_guard import build
from bench.models.remote_victim import LiveData, remote_victim
from bench.plan.feasibility import PlannedVictim
from bench.plan.live import LiveScope, live_cells
from bench.plugins import attacks
from bench.runner.live import BoughtAnswers, LiveContext, NotBoughtError
from bench.runner.live_campaign import Campaign
from bench.runner.live_plan import bill
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


SCOPE = LiveScope((50, 100), (COPYCAT, LABELS), ("sklearn-logistic",), repeats=3)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A campaign that was run, its store's path, counts by status, records and facts."""
    folder = tmp_path_factory.mktemp("whole")
    made, _ = campaign(digits, folder, scope=SCOPE)
    return made, folder / "store.sqlite", *finished(made, folder / "store.sqlite")


def test_attacks_share_one_purchase_and_smaller_budgets_are_its_beginning(whole):
    made, _, counts, records, meta = whole
    assert counts == {"ok": 12}
    assert len(made.buyer.sold) == len(set(made.buyer.sold)) == 100 + 100
    assert meta.campaign.purposes[COPYCAT].paid == 100
    assert meta.campaign.purposes[LABELS].paid == 0
    assert meta.campaign.bought == {COPYCAT: {"50": 50, "100": 100}, LABELS: {"50": 0, "100": 0}}
    fidelity = {
        (record.cell.attack, record.cell.budget): record.metrics["extraction.fidelity"] for record in records
    }
    assert min(fidelity.values()) > 0.6
    assert all(record.info.queries.sent == record.cell.budget for record in records)


def test_test_inputs_are_bought_first_and_no_attack_sends_one(whole):
    made = whole[0]
    assert made.buyer.asked[0] == ("test", "test", "", 100)
    test = {row.tobytes() for row in made.victim.splits.test.x}
    sold = [key[0] for key in made.buyer.sold]
    assert set(sold[:100]) == test
    assert not set(sold[100:]) & test


def test_later_repeats_learn_from_what_the_first_one_bought(whole):
    made, _, _, records, _ = whole
    asked = [each for each in made.buyer.asked if each[0] != "test"]
    assert all(session.endswith(" 0") for session, *_ in asked)
    agreement = [record.arrays["agreement"].tobytes() for record in records if record.cell.budget == 50]
    assert len(set(agreement)) > 2


def test_repeats_that_buy_send_inputs_of_their_own(digits, tmp_path):
    scope = LiveScope((50,), (COPYCAT,), ("sklearn-logistic",), repeats=2, buy_repeats=2)
    made, _ = campaign(digits, tmp_path, scope=scope)
    _, _, meta = finished(made, tmp_path / "store.sqlite")
    assert 150 < len(made.buyer.sold) <= 200
    assert not meta.campaign.once


def test_a_stopped_campaign_goes_on_and_pays_nothing_twice(whole, digits, tmp_path):
    model, expected = digits[1], whole[3]
    buyer = MadeBuyer(model, made_target(), stop_after=120)
    stopped, _ = campaign(digits, tmp_path, scope=SCOPE, buyer=buyer)
    with pytest.raises(StoppedError, match="run the same command later"):
        finished(stopped, tmp_path / "store.sqlite")
    with Store(tmp_path / "store.sqlite") as store:
        assert store.meta().campaign.purposes["test"].paid == 100
        assert not store.records()
    again = MadeBuyer(model, made_target(), ledger=buyer.ledger)
    made, _ = campaign(digits, tmp_path, scope=SCOPE, buyer=again)
    _, records, _ = finished(made, tmp_path / "store.sqlite")
    assert len(buyer.sold) + len(again.sold) == 200
    assert sorted(map(repr, (each.comparable() for each in records))) == sorted(
        map(repr, (each.comparable() for each in expected))
    )


def test_a_finished_campaign_sends_and_trains_nothing_again(whole, digits, tmp_path):
    made, path, *_ = whole
    again = MadeBuyer(digits[1], made_target(), ledger=made.buyer.ledger)
    other, _ = campaign(digits, tmp_path, scope=SCOPE, buyer=again)
    counts, _, meta = finished(other, path)
    assert counts == {"ok": 12}
    assert not again.sold
    assert meta.ran == 12  # that of the run that did it


def test_refused_inputs_are_counted_and_learnt_by_nobody(digits, tmp_path):
    model, target = digits[1], made_target()
    buyer = MadeBuyer(model, target, refuses=lambda x: model(x).argmax(axis=1) == 3)
    made, _ = campaign(
        digits, tmp_path, scope=LiveScope((60,), (COPYCAT,), ("sklearn-logistic",), repeats=1), buyer=buyer
    )
    counts, (record,), meta = finished(made, tmp_path / "store.sqlite")
    assert counts == {"ok": 1}
    assert record.info.queries.sent == 60
    assert record.info.queries.refused > 0
    assert record.info.learnt == record.info.queries.answered < 60
    assert any("that the target refuses are left out" in note for note in meta.victims[0].notes)
    assert meta.victims[0].sizes.test < 100


def test_attacks_that_need_what_nobody_has_are_not_applicable(digits, tmp_path):
    scope = LiveScope((50,), ("recover", "membership_threshold"), ("sklearn-logistic",), repeats=1)
    made, _ = campaign(digits, tmp_path, scope=scope)
    counts, records, _ = finished(made, tmp_path / "store.sqlite")
    assert counts == {"not_applicable": 2}
    assert {record.error for record in records} == {
        "it needs to know the defenses of the target, and nobody here does",
        "it needs records that the model was trained on, and nobody here has them",
    }
    assert len(made.buyer.sold) == 100


def test_an_attack_that_makes_inputs_buys_once_and_is_only_retrained(digits, tmp_path):
    scope = LiveScope((60,), ("jbda(seeds=30)",), ("mlp",), repeats=2)
    made, _ = campaign(digits, tmp_path, scope=scope)
    counts, records, _ = finished(made, tmp_path / "store.sqlite")
    assert counts == {"ok": 2}
    assert len(made.buyer.sold) == 160
    assert {record.info.learnt for record in records} == {60}
    assert len({record.arrays["agreement"].tobytes() for record in records}) == 2


def test_the_planned_bill_counts_inputs_that_attacks_share_once(digits, tmp_path):
    made, built = campaign(digits, tmp_path, scope=SCOPE)
    planned = bill(made.cells, built, made.context, made.victim.target, canary=20, buy_repeats=1)
    assert planned.attacks == {COPYCAT: 100, LABELS: 0}
    assert planned.inputs == 220
    assert not made.buyer.sold


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"budget": 219}, "budget = 219"), ({"money_cap": 0.329}, "money_cap = 0.329")],
)
def test_a_campaign_that_a_cap_does_not_allow_is_refused_before_anything_is_sent(
    digits, tmp_path, limits, words
):
    made, built = campaign(digits, tmp_path, scope=SCOPE, **limits)
    planned = bill(made.cells, built, made.context, made.victim.target, canary=20, buy_repeats=1)
    with pytest.raises(UsageError, match=words):
        planned.require_allowed()


def test_attacks_that_ask_one_by_one_say_so_beforehand(digits, tmp_path):
    scope = LiveScope((60,), ("knockoff(sampling_strategy=adaptive)",), ("mlp",), repeats=1)
    made, built = campaign(digits, tmp_path, scope=scope, rate="600/minute")
    planned = bill(made.cells, built, made.context, made.victim.target, canary=20, buy_repeats=1)
    assert planned.round_trips == {"knockoff(sampling_strategy=adaptive)": 60}
    assert "up to 60 requests one after another, 12.0 s at 0.2 s each" in "\n".join(planned.lines(0.2))
    assert "18.0 s at 600/minute" in "\n".join(planned.lines())


def test_a_label_that_the_target_does_not_have_is_one_sentence(digits):
    with pytest.raises(UsageError, match="label '9' that is not among classes"):
        remote_victim(
            made_target(classes=(*"012345678", "x")),
            LiveData(str(digits[0]), test=50, label="y"),
            name="m",
        )


def test_a_budget_that_the_pool_cannot_supply_is_refused(digits, tmp_path):
    with pytest.raises(UsageError, match="budget = 1700"):
        campaign(digits, tmp_path, scope=LiveScope((1_700,), (COPYCAT,), ("sklearn-logistic",)))


def test_labels_alone_are_learnt_as_labels_and_the_evaluation_has_its_own_account(digits, tmp_path):
    def labels(x):
        return np.eye(10)[digits[1](x).argmax(axis=1)]

    values = {"answers": "labels", "accounts": [{"name": "one"}, {"name": "tester"}]}
    target = made_target(**values)
    scope = LiveScope((80,), (LABELS,), ("sklearn-logistic",), repeats=1)
    made, _ = campaign(digits, tmp_path, scope=scope, buyer=MadeBuyer(labels, target), **values)
    counts, (record,), _ = finished(made, tmp_path / "store.sqlite")
    assert counts == {"ok": 1}
    assert record.cell.threat.shows == "labels"
    assert record.metrics["extraction.fidelity"] > 0.5
    assert {(purpose, account) for _, purpose, account, _ in made.buyer.asked} == {
        ("test", "tester"),
        (LABELS, "one"),
    }


def test_who_has_public_inputs_alone_sends_no_others(digits, tmp_path):
    loaded = np.load(digits[0])
    np.savez(tmp_path / "public.npz", x=loaded["x"][1000:1300] / 2, y=loaded["y"][1000:1300])
    target, model = made_target(), digits[1]
    data = LiveData(str(digits[0]), test=60, label="y", public=str(tmp_path / "public.npz"))
    victim = remote_victim(target, data, name="made")
    sizes = {part: len(getattr(victim.splits, part)) for part in ("pool", "test", "public")}
    scope = LiveScope((40,), (LABELS,), ("sklearn-logistic",), ("public",), repeats=1)
    cells = live_cells(
        "made", target, scope, PlannedVictim(victim.shape, sizes), {LABELS: build(attacks, LABELS)}
    )
    buyer = MadeBuyer(model, target)
    context = LiveContext(tmp_path, buyer=buyer, largest=40)
    context.serve(cells[0].victim, victim)
    counts, (record,), _ = finished(Campaign(victim, cells, buyer, context), tmp_path / "store.sqlite")
    assert counts == {"ok": 1}
    assert record.cell.threat.access == "near"
    public = {row.tobytes() for row in victim.splits.public.x}
    assert {key[0] for key in buyer.sold[60:]} <= public


def test_repeats_of_inputs_are_answered_again_only_where_answers_do_not_vary():
    x, answers = np.zeros((2, 3), np.float32), np.array([[0.1, 0.9], [0.2, 0.8]])
    steady, varying = BoughtAnswers(x, answers, fixed=True), BoughtAnswers(x, answers, fixed=False)
    for bought in (steady, varying):
        assert (bought(x, "") == answers).all()
    assert (steady(x[:1], "") == answers[1]).all()
    with pytest.raises(NotBoughtError):
        varying(x[:1], "")
    with pytest.raises(NotBoughtError):
        steady(x[:1] + 1, "")

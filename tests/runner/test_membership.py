"""The runner of membership inference: its records, its targets and its metrics."""

from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest

from attacks.base import Extraction, MembershipInference, Pool, RandomSeeds
from bench.data import query_pools
from bench.data.datasets import Labelled
from bench.errors import BudgetError, NotApplicable, PluginError
from bench.metrics import membership as member_metrics
from bench.plugins import attacks
from bench.records import QueryCounts
from bench.runner import extraction, membership, membership_data
from bench.runner.cells import run_cells
from bench.runner.context import WorkerContext
from bench.tasks import Cell, VictimSpec

LOSS = "membership_threshold(members=100, target=victim, score=loss)"
STOLEN = "membership_threshold(members=100, target=surrogate, score=loss)"
GATE = ("mahalanobis(fpr=0.05, action=refuse, layers=all)",)
MEASURED = (
    *("accuracy", "balanced_accuracy", "auc", "tpr_at_1", "fpr_at_1", "tpr_at_0.1", "fpr_at_0.1"),
    *("train_accuracy", "test_accuracy", "gap", "without_victim_accuracy", "without_victim_auc", "records"),
)


@pytest.fixture
def cell(digits_spec, threat):
    return Cell(digits_spec, (), replace(threat, surrogate="logistic"), LOSS, 200, 0, 2, 0)


@pytest.fixture
def run(context):
    return lambda cell: run_cells(cell.group(), context)


def of(cell, pool):
    return replace(cell, threat=replace(cell.threat, pool=pool, access=query_pools.access(pool, "digits")))


class Spy(MembershipInference):
    """Keeps what it is given, and answers what it is told."""

    name = "spy"

    def __init__(self, scores=None, members=100, target="victim"):
        super().__init__(members=members, target=target)
        self.scores, self.seen, self.asks = scores, [], 0

    def infer(self, api, known, asked, streams):
        self.seen.append((known, asked, streams))
        api.predict(asked.x[: self.asks])
        return np.full(len(asked), 0.5) if self.scores is None else self.scores(asked)


def spied(cell, context, **options):
    spy = Spy(**options)
    outcomes = membership.run(cell.group(), spy, context)
    return spy.seen, outcomes


def rows(x):
    return [row.tobytes() for row in x]


# --- the records


def test_known_and_unknown_records_are_disjoint_and_half_members(cell, digits_victim):
    train, test = (set(rows(part.x)) for part in (digits_victim.splits.train, digits_victim.splits.test))
    for repeat in range(3):
        others = Labelled(digits_victim.splits.test.x, digits_victim.splits.test.y)
        drawn = membership_data.draw_records(replace(cell, repeat=repeat), 100, digits_victim, others)
        assert not set(rows(drawn.known.x)) & set(rows(drawn.asked.x))
        for part in (drawn.known, drawn.asked):
            assert len(part) == len(part.x) == len(part.y) == len(set(rows(part.x))) == 100
            assert part.member.sum() == 50
            assert set(rows(part.x[part.member])) <= train
            assert set(rows(part.x[~part.member])) <= test


def test_labels_are_those_of_the_records(cell, context, digits_victim):
    splits = digits_victim.splits
    truth = {
        row: label
        for part in (splits.train, splits.test)
        for row, label in zip(rows(part.x), part.y, strict=True)
    }
    (known, asked, _), _ = spied(cell, context)[0]
    for part in (known, asked):
        assert [truth[row] for row in rows(part.x)] == part.y.tolist()


def test_neither_labels_nor_order_reveal_membership(cell, context, digits_victim):
    (known, asked, _), _ = spied(cell, context)[0]
    assert not asked.member.any()
    train = set(rows(digits_victim.splits.train.x))
    for part in (known, asked):
        places = np.flatnonzero([row in train for row in rows(part.x)])
        # The mean rank of 50 in 100 has a standard deviation of 2.9.
        assert abs(places.mean() - 49.5) < 14.5
        assert len(np.flatnonzero(np.diff(places) != 1)) > 10


def test_records_depend_on_the_repeat_and_the_pool_alone(cell, context):
    def asked(cell, **options):
        return [rows(asked.x) for _, asked, _ in spied(cell, context, **options)[0]]

    first = asked(cell)
    assert first[0] != first[1]
    assert asked(replace(cell, defense=("label_only",), attack="x", budget=7)) == first
    assert asked(cell, target="surrogate") == first
    assert asked(of(cell, "digits")) != first
    assert asked(replace(cell, seed=1)) != first


def test_streams_are_those_of_every_family(cell, context, digits_pool):
    class Buyer(Extraction):
        row_by_row = False

        def acquire(self, api, pool, learner, streams):
            self.streams = streams
            return attacks.build("own_labels").acquire(api, pool, learner, streams)

    buyer = Buyer()
    extraction.acquire(cell, buyer, digits_pool, context)
    seen, _ = spied(cell, context)
    assert seen[0][2] == buyer.streams
    assert isinstance(seen[1][2], RandomSeeds)
    assert seen[1][2] != buyer.streams


def test_there_are_as_many_as_the_smaller_side_has(cell, context, digits_victim):
    _, outcomes = spied(cell, context, members=10_000)
    test = len(digits_victim.splits.test)
    assert outcomes[0].metrics["membership.records"] == test // 2 * 2
    assert outcomes[0].metrics["membership.tpr_at_0.1"] is None


@pytest.mark.parametrize("pool", ["in-distribution", "test"])
def test_non_members_of_the_same_distribution_are_the_test_split(pool, context, digits_spec, digits_victim):
    found = membership_data.non_members(context.pool(digits_spec, pool, 0), digits_victim, "victim")
    assert (found.x == digits_victim.splits.test.x).all()
    assert (found.y == digits_victim.splits.test.y).all()


def test_the_victims_data_by_name_is_its_pool_split(context, digits_spec, digits_victim):
    found = membership_data.non_members(context.pool(digits_spec, "digits", 0), digits_victim, "victim")
    assert (found.x == digits_victim.splits.pool.x).all()
    assert (found.y == digits_victim.splits.pool.y).all()


def test_training_data_of_a_surrogate_are_no_non_members(context, digits_spec, digits_victim):
    splits, own = digits_victim.splits, context.pool(digits_spec, "digits", 0)
    found = membership_data.non_members(own, digits_victim, "surrogate")
    assert (found.x == splits.calibration.x).all()
    assert (found.y == splits.calibration.y).all()
    for pool in ("in-distribution", "test", "noise"):
        every = context.pool(digits_spec, pool, 0)
        one, other = (
            membership_data.non_members(every, digits_victim, who) for who in ("victim", "surrogate")
        )
        assert (one.x == other.x).all()
        assert not set(rows(other.x)) & set(rows(splits.pool.x))


def test_a_surrogate_is_not_evaluated_on_the_attackers_queries(cell, context, digits_victim):
    sent = set(rows(digits_victim.splits.pool.x))
    for target, met in (("victim", True), ("surrogate", False)):
        for known, asked, _ in spied(of(cell, "digits"), context, target=target)[0]:
            assert bool(sent & set(rows(known.x) + rows(asked.x))) == met


def test_what_the_victim_was_trained_on_is_no_non_member(digits_victim):
    splits = digits_victim.splits
    both = Pool(
        "half", np.concatenate([splits.train.x[:30], splits.test.x[:20]]), np.arange(50), "near", True
    )
    found = membership_data.non_members(both, digits_victim, "victim")
    assert (found.x == splits.test.x[:20]).all()
    assert found.y.tolist() == list(range(30, 50))


def test_labels_that_mean_nothing_become_the_victims(context, digits_spec, digits_victim):
    noise = context.pool(digits_spec, "noise", 0)
    found = membership_data.non_members(noise, digits_victim, "victim")
    assert (found.x == noise.x).all()
    assert (found.y == digits_victim.probabilities(noise.x).argmax(axis=1)).all()
    assert (found.y != noise.y).any()


@pytest.mark.parametrize(("pool", "number"), [("none", 0), ("train", 0)])
def test_too_few_non_members_name_the_key_and_the_range(cell, run, pool, number):
    with pytest.raises(NotApplicable, match=rf"members=100.* {number} in pool '{pool}'.*\[20, inf\]"):
        run(of(cell, pool))


def test_nineteen_are_too_few_and_twenty_are_not(cell, digits_victim):
    test = digits_victim.splits.test
    with pytest.raises(NotApplicable, match=" 19 in pool"):
        membership_data.draw_records(cell, 100, digits_victim, Labelled(test.x[:19], test.y[:19]))
    assert (
        len(membership_data.draw_records(cell, 100, digits_victim, Labelled(test.x[:20], test.y[:20])).asked)
        == 20
    )


def test_where_the_attack_makes_no_sense_it_says_why(cell, context):
    spy = Spy()
    spy.applicable = lambda pool, target: f"{pool.name} of {target.classes}"
    with pytest.raises(NotApplicable, match="in-distribution of 10"):
        membership.run(cell.group(), spy, context)


# --- what is measured


def test_it_measures_and_says_how_sure_it_is(cell, run):
    for outcome in run(cell):
        assert set(outcome.metrics) == {f"membership.{name}" for name in MEASURED}
        assert set(outcome.info.errors) == {
            f"membership.{name}" for name in MEASURED if name != "records" and "fpr" not in name
        }
        assert len(outcome.info.roc) == len(member_metrics.GRID)
        assert outcome.info.flags == []
        assert not outcome.arrays


def test_a_cell_is_a_pure_function_of_its_spec(cell, run, tmp_path, context):
    for spec in (cell, replace(cell, attack=STOLEN)):
        first = run(spec)
        fresh = WorkerContext(context.data_root, tmp_path)
        for one, two in zip(first, run_cells(spec.group(), fresh), strict=True):
            assert one.metrics == two.metrics
            assert one.info == two.info
        assert first[0].metrics != first[1].metrics


def test_the_metrics_are_those_of_the_scores(cell, context, digits_victim):
    train = set(rows(digits_victim.splits.train.x))

    def knows(asked):
        return np.array([0.9 if row in train else 0.1 for row in rows(asked.x)])

    for scores, auc in ((knows, 1.0), (lambda asked: 1 - knows(asked), 0.0)):
        outcome = spied(cell, context, scores=scores)[1][0]
        assert outcome.metrics["membership.auc"] == outcome.metrics["membership.accuracy"] == auc
        assert outcome.metrics["membership.tpr_at_1"] == auc
        assert outcome.info.roc[0][1] == auc


@pytest.mark.parametrize("bad", [np.nan, 1.5, -0.1])
def test_scores_outside_0_to_1_are_an_error(cell, context, bad):
    with pytest.raises(PluginError, match=r"'spy'.* must return scores in \[0, 1\], but 100 of 100 are not"):
        spied(cell, context, scores=lambda asked: np.full(len(asked), bad))
    with pytest.raises(PluginError, match=r"must return \(100,\) scores, but returned shape \(99,\)"):
        spied(cell, context, scores=lambda asked: np.full(len(asked) - 1, 0.5))


def test_the_gap_is_the_undefended_victims(cell, run, digits_victim):
    splits = digits_victim.splits
    train, test = (
        float((digits_victim.probabilities(part.x).argmax(axis=1) == part.y).mean())
        for part in (splits.train, splits.test)
    )
    for defense in ((), ("gaussian_noise(scale=0.3)",)):
        found = run(replace(cell, defense=defense))[0]
        assert found.metrics["membership.train_accuracy"] == train
        assert found.metrics["membership.test_accuracy"] == test
        assert found.metrics["membership.gap"] == train - test
        errors = [
            found.info.errors[f"membership.{name}"] for name in ("train_accuracy", "test_accuracy", "gap")
        ]
        assert errors[2] == pytest.approx(np.hypot(*errors[:2]))


def test_another_data_set_is_recognised_without_the_victim(cell, run):
    found = run(of(cell, "noise"))[0].metrics
    assert found["membership.without_victim_accuracy"] > 0.98
    assert found["membership.without_victim_auc"] > 0.98


def test_records_of_one_distribution_are_not_separated_without_the_victim(cell, context):
    # The mean of five areas with a standard error of .027 each, on overlapping records.
    outcomes = spied(replace(of(cell, "digits"), repeats=5), context, members=500)[1]
    aucs = [o.metrics["membership.without_victim_auc"] for o in outcomes]
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.08)
    assert len(set(aucs)) == 5


def test_what_needs_no_victim_is_made_once_for_all_attacks(cell, monkeypatch, tmp_path):
    made = []
    make = membership.without_victim
    monkeypatch.setattr(membership, "without_victim", lambda *args: made.append(1) or make(*args))
    fresh = WorkerContext(tmp_path)
    for attack, defense in ((LOSS, ()), ("membership_rule_based(members=100)", ("label_only",))):
        run_cells(replace(cell, attack=attack, defense=defense).group(), fresh)
    assert len(made) == cell.repeats
    run_cells(replace(cell, attack=LOSS.replace("100", "50")).group(), fresh)
    assert len(made) == 2 * cell.repeats


# --- through the API


def test_the_victims_answers_are_billed_and_capped(cell, run):
    for outcome in run(cell):
        assert outcome.info.queries == QueryCounts(sent=200, answered=200, refused=0, flagged=0)
        assert set(outcome.costs.seconds) == {"infer", "query_model", "query_defense"}
        assert set(outcome.costs.cpu_seconds) == set(outcome.costs.seconds)
        assert outcome.costs.memory_mib > 0
        assert outcome.costs.shared is False
    with pytest.raises(PluginError, match=r"BudgetError: .* 99 left of a budget of 199"):
        run(replace(cell, budget=199))


def test_the_attack_meets_the_defense_and_what_the_api_shows(cell, run):
    plain = run(cell)[0].metrics
    labels = run(replace(cell, defense=("label_only",)))[0].metrics
    assert labels != plain
    assert run(replace(cell, threat=replace(cell.threat, shows="labels")))[0].metrics == labels
    refused = run(replace(of(cell, "noise"), defense=GATE))[0]
    assert refused.info.queries.refused > 50
    assert refused.info.queries.sent == 200


FACTORY = '''
import numpy as np
from moatbench import Labelled, Splits

def draw(seed, n):
    rng = np.random.default_rng(seed)
    return Labelled(rng.random((n, 1, 8, 8), dtype=np.float32), rng.integers(0, 10, n))

def memoriser():
    """Sure and right about what it was trained on, else unsure and right half of the time."""
    splits = Splits(*(draw(seed, 300) for seed in range(4)), 10)
    label = {row.tobytes(): y for part in (splits.train, splits.test) for row, y in zip(part.x, part.y)}
    trained = {row.tobytes() for row in splits.train.x}

    def predict(x):
        answers = []
        for row in x:
            known = row.tobytes() in trained
            said = label.get(row.tobytes(), 0) if known or row[0, 0, 0] < 0.5 else 1
            top = (0.9 if known else 0.4) + 0.05 * row[0, 0, 1]
            answers.append(np.where(np.arange(10) == said, top, (1 - top) / 9))
        return np.array(answers)

    return predict, splits
'''


@pytest.fixture
def memoriser(tmp_path, cell):
    (tmp_path / "mine.py").write_text(dedent(FACTORY))
    return replace(cell, victim=VictimSpec(f"{tmp_path / 'mine.py'}:memoriser", ""), budget=10_000)


@pytest.mark.parametrize(
    ("attack", "least"),
    [
        ("membership_threshold(score=confidence)", 1.0),
        ("membership_threshold(score=modified_entropy)", 0.95),
        ("membership_black_box(model=rf)", 1.0),
        ("membership_rule_based", 0.65),
    ],
)
def test_a_victim_that_memorises_is_detected(memoriser, run, attack, least):
    for outcome in run(replace(memoriser, attack=attack)):
        assert outcome.metrics["membership.accuracy"] >= least
        assert abs(outcome.metrics["membership.without_victim_accuracy"] - 0.5) < 0.15
        assert outcome.metrics["membership.gap"] > 0.3


# --- through a stolen copy


def test_a_surrogate_is_extracted_with_the_budget_and_then_queried_without_limit(cell, run):
    stolen = replace(cell, attack=STOLEN, budget=150)
    for outcome in run(stolen):
        assert outcome.info.queries.sent == outcome.info.learnt == 150
        assert outcome.info.steps > 0
        assert set(outcome.costs.seconds) == {"acquire", "train", "infer", "query_model", "query_defense"}
        assert outcome.costs.seconds["acquire"] >= outcome.costs.seconds["query_model"]
        assert outcome.info.flags == []
    assert run(stolen)[0].costs.shared is True
    assert [o.metrics for o in run(stolen)] != [o.metrics for o in run(replace(cell))]


@pytest.mark.parametrize("defense", [(), GATE])
def test_the_transfer_set_is_that_of_copycat(cell, context, digits_pool, defense):
    cell = replace(cell, defense=defense)
    copycat = attacks.build("copycat(use_probability=true)")
    sold = extraction.acquire(cell, copycat, digits_pool, context).transfer_set
    assert membership._acquire(cell, digits_pool, membership._api(cell, context)).digest() == sold.digest()


def test_the_surrogate_answers_with_probabilities(cell, context):
    asked = {}

    class Curious(Spy):
        def infer(self, api, known, asked_, streams):
            asked[len(asked)] = api.predict(known.x), api
            return super().infer(api, known, asked_, streams)

    labels = replace(cell, threat=replace(cell.threat, shows="labels"), defense=("label_only",))
    membership.run(labels.group(), Curious(target="surrogate"), context)
    for answers, api in asked.values():
        assert answers.shape == (100, 10)
        assert answers.sum(axis=1) == pytest.approx(1)
        assert ((answers > 0.01) & (answers < 0.99)).any()
        assert (api.nb_classes, api.input_shape) == (10, (1, 8, 8))
    assert (asked[0][0] != asked[1][0]).any()


def test_a_surrogate_without_training_data_says_so(cell, run, monkeypatch):
    buy = membership._acquire

    def nothing(*args):
        bought = buy(*args)
        return replace(bought, x=bought.x[:0], y=bought.y[:0])

    monkeypatch.setattr(membership, "_acquire", nothing)
    for outcome in run(replace(cell, attack=STOLEN)):
        assert outcome.info.flags == ["nothing_learnt"]
        assert outcome.info.learnt == 0


def test_an_attacker_cannot_send_more_than_the_pool_holds(cell, run, digits_pool):
    with pytest.raises(BudgetError, match=f"budget {len(digits_pool.x) + 1} is larger"):
        run(replace(cell, attack=STOLEN, budget=len(digits_pool.x) + 1))


def test_a_pool_of_training_data_is_flagged_for_surrogate_attacks_alone(cell, run):
    published = replace(cell, victim=replace(cell.victim, splits="official"))
    assert run(published)[0].info.flags == []
    assert run(replace(published, attack=STOLEN))[0].info.flags == ["overlap"]


@pytest.mark.slow
def test_handwriting_of_another_post_office_is_another_data_set(cell, data_root):
    outcome = run_cells(of(cell, "usps").group(), WorkerContext(data_root))[0]
    assert outcome.metrics["membership.without_victim_accuracy"] > 0.9

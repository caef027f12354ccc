"""auto: one budget, several readings, and the one that explains the labels best."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from cases import slow_unless

from attacks import auto
from attacks.active_thief import ActiveThief
from attacks.auto import (
    Auto,
    Interpretation,
    chosen,
    fold_parts,
    interpretations,
    most_complex,
    negative_log_likelihood,
    not_queried,
    out_of_fold,
)
from attacks.base import Known, Pool, RandomSeeds
from attacks.labels import Labels
from attacks.recover import Recover, RecoveredAnswers
from attacks.restoring import left_out, network
from attacks.restoring.left_out import restored
from attacks.transfer_sets.repeated_answers import RepeatedAnswers
from attacks.transfer_sets.ways import Ways
from bench.errors import NotApplicable

STREAMS = RandomSeeds(order=3, choices=4)
CLASSES = 3


def blobs(n, seed):
    """Return inputs (n, 1, 2, 2) of three classes that any learner tells apart, and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=n)
    x = np.eye(4)[y].reshape(n, 1, 2, 2) * 0.8 + rng.uniform(0, 0.2, (n, 1, 2, 2))
    return x.astype(np.float32), y


class Nearest:
    """A learner for blobs: a softmax over mean targets near each corner; quick, and no network."""

    def __init__(self):
        self.fits = 0

    def __call__(self):
        raise AssertionError("nothing here learns step by step")

    def fit(self, sets, effort=1.0):
        self.fits += len(sets)
        return [self._copy(x, y) for x, y in sets]

    def _copy(self, x, y):
        corner = x.reshape(len(x), 4).argmax(axis=1)
        means = np.full((4, y.shape[1]), 1 / y.shape[1])
        for place in np.unique(corner):
            means[place] = y[corner == place].mean(axis=0)

        def answer(inputs):
            return means[inputs.reshape(len(inputs), 4).argmax(axis=1)]

        return answer


class Shop:
    """An API over blobs. ``poison(rows, number)`` changes answers; it may refuse by NaN."""

    nb_classes = CLASSES

    def __init__(self, budget, poison=None, known=None):
        self.budget, self.known, self.sent = budget, known, 0
        self.poison = poison or (lambda rows, _: rows)

    def predict(self, x, batch_size=256, client="attacker"):
        self.sent += len(x)
        assert self.sent <= self.budget
        label = x.reshape(len(x), 4).argmax(axis=1)
        rows = np.full((len(x), CLASSES), 0.1)
        rows[np.arange(len(x)), label] = 0.8
        return self.poison(rows, self.sent)


def losses(x, answers, candidate):
    return out_of_fold(x, answers, candidate, Nearest().fit(fold_parts(x, candidate)))


@pytest.fixture
def pool():
    x, y = blobs(400, 0)
    return Pool("blobs", x, y, "in-distribution", same_classes=True)


def read(bought):
    (name,) = [key for key, value in bought.facts.items() if key.startswith("read_as_") and value == 1]
    return name.removeprefix("read_as_")


def test_benign_answers_are_read_as_they_are(pool):
    bought = Auto().acquire(Shop(240), pool, Nearest(), STREAMS)
    assert read(bought) == "as_is"
    assert np.allclose(np.sort(bought.y, axis=1), [0.1, 0.1, 0.8])


def test_an_attacker_who_knows_that_there_is_no_defense_repeats_no_query(pool):
    shop, learner = Shop(240, known=()), Nearest()
    bought = Auto().acquire(shop, pool, learner, STREAMS)
    trained_on = {"answers": 1.0, "pseudo_labels": 0.0, "views": 0.0, "self_training": 0.0}
    assert bought.facts == {
        "small_budget": 0.0,
        "repeated": 0.0,
        "read_as_as_is": 1.0,
        "unlabelled_inputs": 160.0,
    } | {f"trained_on_{name}": value for name, value in trained_on.items()}
    assert len(bought.x) == shop.sent == 240


def test_targets_that_have_nothing_to_do_with_the_input_are_not_trusted(pool):
    x, y = pool.x[:240], pool.y[:240]
    poison = np.random.default_rng(1).dirichlet(np.ones(CLASSES), 240)
    every = np.ones(240, dtype=bool)
    found = [Interpretation("as_is", poison, every), Interpretation("labels", np.eye(CLASSES)[y], every)]
    scores = [losses(x, np.eye(CLASSES)[y], each) for each in found]
    assert most_complex(scores) == 1
    assert scores[0].mean() > 1
    assert scores[1].mean() < 0.01


def test_a_reading_through_the_defenses_own_map_is_judged_by_what_that_map_says(pool):
    x, y = pool.x[:240], pool.y[:240]
    turned = (y + 1) % CLASSES
    back = Interpretation(
        "recovered", np.eye(CLASSES)[y], np.ones(240, dtype=bool), lambda rows: rows[:, [2, 0, 1]]
    )
    assert losses(x, np.eye(CLASSES)[turned], back).mean() < 0.01


def test_answers_that_name_no_class_are_neither_learnt_as_one_nor_judged(pool):
    def cut(rows, _):
        rows[::2] = 0
        return rows

    bought = Auto().acquire(Shop(240, cut), pool, Nearest(), STREAMS)
    shown = bought.y.max(axis=1) > 0
    assert (bought.y[shown].argmax(axis=1) == bought.x[shown].reshape(-1, 4).argmax(axis=1)).all()
    answers = np.eye(CLASSES)[pool.y[:30]] * (np.arange(30) % 2)[:, None]
    assert len(losses(pool.x[:30], answers, Interpretation("as_is", answers, answers.any(axis=1)))) == 15


def test_rows_that_a_reading_throws_away_are_judged_but_not_learnt(pool):
    x, y = pool.x[:60], pool.y[:60]
    kept = y != 2
    reading = Interpretation("recovered", np.eye(CLASSES)[y], kept)
    inputs, targets = chosen(
        x, np.eye(CLASSES)[y], [reading], Ways(pool.x[:0], Nearest(), 0, 0.3)
    ).transfer_set
    assert len(inputs) == len(targets) == kept.sum()
    assert [len(part) for part, _ in fold_parts(x, reading)] == [
        (kept & (np.arange(60) % 3 != number)).sum() for number in range(3)
    ]
    assert len(losses(x, np.eye(CLASSES)[y], reading)) == 60


def one_hot_answers(rows, _):
    return np.eye(CLASSES)[rows.argmax(axis=1)]


@pytest.mark.parametrize("known", [None, ()])
def test_labels_alone_are_learned_with_those_of_a_first_surrogate(known, pool):
    """A mean of labels is as sure of the other inputs of the pool; also where there is no defense."""
    shop = Shop(240, one_hot_answers, known)
    bought = Auto().acquire(shop, pool, Nearest(), STREAMS)
    assert read(bought) == "as_is"
    assert bought.facts["trained_on_pseudo_labels"] == 1
    assert bought.facts["trained_on_answers"] == 0
    assert len(bought.x) == 400
    assert (bought.y.argmax(axis=1) == bought.x.reshape(-1, 4).argmax(axis=1)).all()


def test_of_a_pool_that_is_the_test_split_nothing_is_learned_unanswered(pool):
    bought = Auto().acquire(Shop(240, one_hot_answers), replace(pool, overlaps="test"), Nearest(), STREAMS)
    assert bought.facts["trained_on_answers"] == 1
    assert len(bought.x) <= 240


class Turning:
    """A network that knows inputs and their views, but of others the class before: views help it."""

    def __init__(self, corners):
        self.corners = corners

    def __call__(self, x):
        corner = x.reshape(len(x), 4).argmax(axis=1)
        known = np.isin(corner, self.corners)
        return np.where(known[:, None], 0.98, 0.01) * np.eye(4)[corner][:, :CLASSES] + 0.01

    def features(self, x):
        raise AssertionError("no defense is simulated")

    def perturbed(self, scale, seed):
        raise AssertionError("no defense is simulated")


class Eager:
    """A learner that knows a class only of a set with more than ``least`` rows."""

    def __init__(self, least):
        self.least, self.efforts = least, []

    def fit(self, sets, effort=1.0):
        self.efforts += [effort] * len(sets)
        return [Turning(range(CLASSES) if len(x) > self.least else [0]) for x, _ in sets]


def test_the_way_that_predicts_the_left_out_answers_best_is_kept(pool):
    """By hand: 7,000 rows are more than answers and pseudo-labels can be, and fewer than with views."""
    x, y = pool.x[:60], np.eye(CLASSES)[pool.y[:60]]
    reading = Interpretation("as_is", y, np.ones(60, dtype=bool))
    learner = Eager(7000)
    choice = chosen(x, y, [reading], Ways(pool.x[60:], learner, 0, 0.3))
    assert choice.way == "views"
    assert len(choice.transfer_set[0]) == 8000
    assert set(learner.efforts) == {0.3}
    assert len(learner.efforts) == 3 * (3 + 2)  # three ways, and two students one after the other
    assert chosen(x, y, [reading], Ways(pool.x[60:], Eager(10), 0, 0.3)).way == "pseudo_labels"
    soft = replace(reading, targets=0.9 * y + 0.1 / CLASSES)
    learner = Eager(10)
    assert chosen(x, y, [soft], Ways(pool.x[:0], learner, 0, 0.3)).way == "answers"
    assert len(learner.efforts) == 3 * 2


def test_ways_are_judged_by_the_labels_that_the_interpretation_takes_for_the_victims(pool):
    """Answers of other classes: who learns the restored labels never predicts these."""
    x, y = pool.x[:60], np.eye(CLASSES)[pool.y[:60]]
    reading = Interpretation("restored", 0.9 * y + 0.1 / CLASSES, np.ones(60, dtype=bool))
    ways = Ways(pool.x[60:], Eager(7000), 0, 0.3)
    assert chosen(x, y[:, [1, 2, 0]], [reading], ways).way == "views"
    nothing = Interpretation("recovered", y, np.zeros(60, dtype=bool))
    assert chosen(x, y, [nothing], ways).way == "answers"


def test_within_one_standard_error_the_first_reading_is_kept():
    best = np.zeros(100)
    noisy = np.tile([1.0, -0.9], 50)
    clear = np.full(100, 0.05)
    assert most_complex([noisy, best]) == 0
    assert most_complex([clear, best]) == 1
    assert most_complex([best, best]) == 0


def test_surprise_does_not_see_how_sharp_a_surrogate_is():
    rng = np.random.default_rng(0)
    told = rng.dirichlet(np.ones(4), 200)
    labels = np.array([rng.choice(4, p=row) for row in told])
    flat = told**0.3 / (told**0.3).sum(axis=1, keepdims=True)
    assert negative_log_likelihood(told, labels).mean() == pytest.approx(
        negative_log_likelihood(flat, labels).mean(), abs=1e-4
    )
    assert (
        negative_log_likelihood(told, labels).mean()
        < np.log(4)
        < negative_log_likelihood(np.eye(4)[(labels + 1) % 4], labels).mean() + 1e-6
    )


def test_answers_to_one_input_are_averaged_only_where_they_differ():
    asked, told = np.array([7, 3, 7]), np.array([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2]])
    found = RepeatedAnswers.of(asked, told)
    assert found.inputs.tolist() == [7, 3]
    assert np.allclose(found.means, [[0.7, 0.3], [0.1, 0.9]])
    assert found.randomized
    assert found.place.tolist() == [0, 1, 0]
    assert np.array_equal(found.single, told)
    assert np.array_equal(found.firsts(), told[:2])
    told[2] = told[0]
    found = RepeatedAnswers.of(asked, told)
    assert not found.randomized
    assert found.place.tolist() == [0, 1]
    assert np.array_equal(found.single, told[:2])


def test_random_answers_to_one_input_are_inverted_one_by_one():
    found = RepeatedAnswers.of(np.array([7, 3, 7, 3]), np.random.default_rng(0).dirichlet(np.ones(2), 4))
    rows = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [np.nan, np.nan]])
    every = np.ones(4, dtype=bool)
    explained = np.array([True, True, False, False])
    usable = np.array([True, True, True, False])
    merged = found.by_input(RecoveredAnswers(rows, usable, explained, None))
    assert np.allclose(merged.targets, [[0.9, 0.1], [0.2, 0.8]])  # of what is not explained nothing counts
    assert merged.usable.all()
    assert merged.explained.all()
    merged = found.by_input(RecoveredAnswers(rows, usable, ~every, None))
    assert np.allclose(merged.targets, [[0.7, 0.3], [0.2, 0.8]])
    assert merged.usable.all()
    assert not merged.explained.any()
    assert not found.by_input(RecoveredAnswers(rows, ~every, ~every, None)).usable.any()


def test_the_mean_of_random_answers_is_no_answer_of_the_defense(pool):
    """Two answers with other drawn classes: each is explained, but their mean is not, or wrongly."""
    x, clean = pool.x[:240], np.random.default_rng(1).dirichlet(np.full(CLASSES, 0.2), 240)
    asked = np.concatenate([np.arange(240), np.arange(20)])
    drawn = np.eye(CLASSES)[(clean[asked].argmax(axis=1) + 1 + (np.arange(260) >= 240)) % CLASSES]
    bought = RepeatedAnswers.of(asked, 0.875 * clean[asked] + 0.125 * drawn)
    api = Shop(260, known=(Known("random_one_hot", {"eps": 0.25, "consistent": False}),))
    singly, by_means = (
        interpretations(x, each, pool.x[240:], api, Nearest(), 0)[0][0]
        for each in (bought, once(bought.means))
    )
    assert singly.name == by_means.name == "recovered"
    apart = [np.abs(each.targets - clean).sum(axis=1)[:20].mean() for each in (singly, by_means)]
    assert apart[0] < apart[1] / 2


def test_noise_is_noticed_by_asking_twice(pool):
    def noisy(rows, number):
        drawn = rows + np.random.default_rng(number).uniform(0, 0.2, rows.shape)
        return drawn / drawn.sum(axis=1, keepdims=True)

    bought = Auto().acquire(Shop(240, noisy), pool, Nearest(), STREAMS)
    assert "read_as_averaged" in bought.facts
    assert bought.facts["repeated"] == 5


def test_a_pool_smaller_than_the_budget_is_queried_again(pool):
    shop = Shop(500)
    bought = Auto().acquire(shop, pool, Nearest(), STREAMS)
    assert shop.sent == 500
    assert bought.facts["repeated"] == 100
    assert len(bought.x) == 400


def test_a_wall_leaves_nothing_to_read(pool):
    shop = Shop(200, lambda rows, _: np.full_like(rows, np.nan))
    bought = Auto().acquire(shop, pool, Nearest(), STREAMS)
    assert bought.x.shape == (0, 1, 2, 2)
    assert bought.y.shape == (0, CLASSES)


def test_few_queries_are_read_as_labels_and_it_says_so(pool):
    bought = Auto().acquire(Shop(199), pool, Nearest(), STREAMS)
    plain = Labels().acquire(Shop(199), pool, Nearest(), STREAMS)
    assert bought.digest() == plain.digest()
    assert bought.facts["small_budget"] == 1
    assert Auto().acquire(Shop(200), pool, Nearest(), STREAMS).facts["small_budget"] == 0


class Unsure(Nearest):
    """The same, less sure of an input the nearer its largest entry is to the others."""

    def _copy(self, x, y):
        def answer(inputs):
            rows = inputs.reshape(len(inputs), 4)[:, :CLASSES] ** 8
            return rows / rows.sum(axis=1, keepdims=True)

        return answer


@pytest.mark.parametrize("known", [None, (), (Known("mad", {"eps": 0.5, "proxy": "scratch"}),)])
def test_few_queries_are_guided_too(known, pool):
    sent = {
        type(attack): sorted(row.tobytes() for row in attack.acquire(shop, pool, Unsure(), STREAMS).x)
        for attack in (Auto(), ActiveThief(), Labels())
        for shop in [Shop(60, known=known)]
    }
    assert sent[Auto] == sent[ActiveThief] != sent[Labels]
    assert Auto().round_trips(60) == ActiveThief().round_trips(60)


@pytest.mark.parametrize(
    ("known", "like"),
    [
        ((), Recover()),
        ((Known("mad", {"eps": 0.5, "proxy": "scratch"}),), Recover()),
        ((Known("mad", None),), Labels()),  # fitted to few answers
        ((Known("unheard_of", {}),), Labels()),  # no inverse
        (None, Labels()),
    ],
)
def test_few_answers_are_recovered_where_an_inverse_is_sure_to_explain_them(known, like, pool):
    found = Auto().acquire(Shop(120, toward_the_next, known), pool, Nearest(), STREAMS)
    expected = like.acquire(Shop(120, toward_the_next, known), pool, Nearest(), STREAMS)
    assert found.digest() == expected.digest()
    assert found.facts == {"small_budget": 1, "repeated": 0, "unlabelled_inputs": 0}


def test_few_labels_that_a_known_defense_swaps_are_swapped_back_where_no_answer_is_explained(
    pool, monkeypatch
):
    def two_classes(rows, _):
        return np.stack([rows[:, 0], 1 - rows[:, 0]], axis=1)

    monkeypatch.setattr(auto, "explains", lambda _: False)

    def bought(eps):
        shop = Shop(120, two_classes, (Known("mad", {"eps": eps}),))
        shop.nb_classes = 2
        return Auto().acquire(shop, pool, Nearest(), STREAMS)

    swaps, keeps = bought(1.0), bought(0.4)
    seen = {each.tobytes(): row for each, row in zip(keeps.x, keeps.y, strict=True)}
    both = [
        (row, seen[each.tobytes()])
        for each, row in zip(swaps.x, swaps.y, strict=True)
        if each.tobytes() in seen
    ]
    assert len(both) > 20
    assert all((row == 1 - other).all() for row, other in both)


def test_few_answers_that_are_all_rejected_leave_nothing(pool):
    shop = Shop(50, lambda rows, _: np.full_like(rows, np.nan), (Known("mad", {"eps": 0.5}),))
    assert Auto().acquire(shop, pool, Nearest(), STREAMS).x.shape == (0, 1, 2, 2)


def toward_the_next(rows, _=0, eps=0.5):
    """Move answers by an L1 of ``eps`` towards the class after the label, as MAD does."""
    target = np.eye(CLASSES)[(rows.argmax(axis=1) + 1) % CLASSES]
    share = eps / np.abs(rows - target).sum(axis=1, keepdims=True)
    return (1 - share) * rows + share * target


@pytest.mark.parametrize("knowledge", slow_unless(lambda knowledge: knowledge == "none", ["none", "full"]))
def test_a_reverse_sigmoid_does_not_deceive_it(knowledge, context, digits_spec):
    from bench.plugins import attacks, defenses
    from bench.runner import extraction
    from bench.tasks import Cell, ThreatModel

    stack = (defenses.canonical("reverse_sigmoid(beta=1.0, gamma=0.5)"),)
    threat = ThreatModel("in-distribution", "in-distribution", knowledge, "mlp", "probabilities")
    plain = replace(threat, knowledge="none")
    measured = {}
    for text, model in (("auto", threat), ("copycat(use_probability=true)", plain), ("labels", plain)):
        cell = Cell(digits_spec, stack, model, attacks.canonical(text), 200, 0, 1, 0)
        (outcome,) = extraction.run([cell], attacks.build(text), context)
        measured[text] = outcome
    stolen = {text: outcome.metrics["extraction.fidelity"] for text, outcome in measured.items()}
    assert measured["auto"].metrics["extraction.read_as_as_is"] == 0
    assert stolen["auto"] > stolen["copycat(use_probability=true)"] + 0.1
    assert stolen["auto"] > stolen["labels"] - 0.015


# --- known defenses


def once(answers):
    """Answers to as many inputs."""
    return RepeatedAnswers.of(np.arange(len(answers)), answers)


def names(x, answers, rest, api):
    return [each.name for each in interpretations(x, once(answers), rest, api, Nearest(), 0)[0]]


@pytest.mark.parametrize(("eps", "expected"), [(1.2, ["recovered"]), (0.5, None)])
def test_labels_that_the_known_defense_changed_are_no_interpretation(eps, expected, pool):
    """By hand: an eps/2 share of 1.2/2 is more than what is left to the label, .5/2 is less."""
    x, y = pool.x[:240], pool.y[:240]
    clean = np.full((240, CLASSES), 0.05)
    clean[np.arange(240), y] = 0.9
    target = np.eye(CLASSES)[(y + 1) % CLASSES]
    share = eps / np.abs(clean - target).sum(axis=1, keepdims=True)
    answers = (1 - share) * clean + share * target
    changed = (answers.argmax(axis=1) != y).mean()
    assert changed == (1 if eps == 1.2 else 0)
    known = (Known("mad", {"eps": eps, "proxy": "scratch"}),)
    api = Shop(240, known=known)  # it simulates nothing: a simulation would fail
    found, judged = interpretations(x, once(answers), pool.x[240:], api, Nearest(), 0)
    assert judged.tobytes() == answers.tobytes()  # also where no label would be left to judge by
    assert np.abs(found[0].targets - clean).max() < 1e-6
    assert [each.name for each in found] == (expected or ["recovered", "as_is", "labels"])


def test_labels_that_the_known_defense_changed_judge_no_interpretation(pool):
    """Adaptive misinformation: 12 of 240 answers are below its threshold, and none is the victim's."""
    x, y = pool.x[:240], pool.y[:240]
    answers = np.full((240, CLASSES), 0.05)
    answers[np.arange(240), y] = 0.9
    wrong = np.arange(240) % 20 == 7
    answers[wrong] = (0.4 * np.eye(CLASSES) + 0.2)[(y[wrong] + 1) % CLASSES]
    api = Shop(240, known=(Known("adaptive_misinformation", {"tau": 0.7, "nu": 1000.0}),))
    found, judged = interpretations(x, once(answers), pool.x[240:], api, Nearest(), 0)
    assert [each.name for each in found] == ["recovered", "as_is", "labels"]
    assert (judged[wrong] == 0).all()
    assert judged[~wrong].tobytes() == answers[~wrong].tobytes()
    assert (found[0].usable == ~wrong).all()


def moved(rows):
    """Return rows after a defense that nobody inverts: a third of the top-1's mass goes to the next class."""
    top = rows.argmax(axis=1)
    answers, every = rows.copy(), np.arange(len(rows))
    answers[every, top] -= rows.max(axis=1) / 3
    answers[every, (top + 1) % CLASSES] += rows.max(axis=1) / 3
    return answers


class Simulating(Shop):
    """An API whose defense can be simulated; ``reason``: why not, if it cannot."""

    def __init__(self, simulated=moved, reason="", keeps_label=True):
        super().__init__(240, known=(Known("unheard_of", {}),))
        self.simulated, self.reason, self.keeps_label, self.randomized = simulated, reason, keeps_label, False

    def simulate(self, known, shadow):
        if self.reason:
            raise NotApplicable(self.reason)
        return copy(self)

    def answer(self, x, rows, seed=0):
        return self.simulated(rows)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(network, "STEPS", 500)


def told(pool):
    clean = np.full((240, CLASSES), 0.1)
    clean[np.arange(240), pool.y[:240]] = 0.8
    return clean, moved(clean)


@pytest.mark.usefixtures("few_steps")
def test_answers_that_no_inverse_explains_are_restored(pool):
    clean, answers = told(pool)
    x, rest = pool.x[:240], pool.x[240:]
    (first, *others), judged = interpretations(x, once(answers), rest, Simulating(), Nearest(), 0)
    assert judged.tobytes() == answers.tobytes()
    assert first.name == "restored"
    assert len(first.left_out) == 3
    assert [each.name for each in others] == ["recovered", "as_is"]
    before, after = (np.abs(rows - clean).sum(axis=1).mean() for rows in (answers, first.targets))
    assert before == pytest.approx(2 * 0.8 / 3)
    assert after < 0.8 * before


def test_what_cannot_be_simulated_is_left_out(pool):
    _, answers = told(pool)
    api = Simulating(reason="it needs what an attacker has not")
    assert names(pool.x[:240], answers, pool.x[240:], api) == ["recovered", "as_is"]


def test_of_few_labels_or_of_labels_alone_nothing_is_restored(pool):
    _, answers = told(pool)
    assert "restored" not in names(pool.x[:49], answers[:49], pool.x[240:], Simulating())
    assert "restored" not in names(
        pool.x[:240], np.eye(CLASSES)[pool.y[:240]], pool.x[240:], Simulating(reason="never asked")
    )


@pytest.mark.usefixtures("few_steps")
def test_where_most_simulated_labels_change_only_restored_answers_are_learnt(pool):
    def turned(rows):
        return rows[:, [2, 0, 1]]

    api = Simulating(turned, keeps_label=False)
    clean, _ = told(pool)
    assert names(pool.x[:240], turned(clean), pool.x[240:], api) == ["restored"]


def test_the_labels_that_judge_restored_answers_have_no_part_in_them(pool, monkeypatch):
    """With a network that returns the estimates, what is learnt without a fold ignores the fold's labels."""

    class Estimates:
        def __init__(self, classes, seed):
            pass

        def fit(self, answers, estimates, clean, effort):
            pass

        def restore(self, answers, estimates):
            return estimates

    monkeypatch.setattr(left_out, "RestoringNetwork", Estimates)
    monkeypatch.setattr(left_out, "restored_without_labels", lambda *_: None)
    clean, _ = told(pool)
    x, rest, fold = pool.x[:240], pool.x[240:], np.arange(240) % 3
    spoilt = clean.copy()
    spoilt[fold == 1] = spoilt[fold == 1][:, [1, 2, 0]]
    every = np.ones(240, dtype=bool)
    one, other = (
        restored(Simulating(keeps_label=False), x, answers, every, fold, rest, Nearest(), 0)
        for answers in (clean, spoilt)
    )
    learnt = fold != 1
    assert one.left_out[1][learnt].tobytes() == other.left_out[1][learnt].tobytes()
    assert not np.allclose(one.left_out[0][fold == 2], other.left_out[0][fold == 2])
    assert not np.allclose(one.targets[learnt], other.targets[learnt])


def test_where_a_simulation_changes_some_labels_restored_answers_are_judged_by_its_map(pool):
    """Of three classes, answers of the last one have another label: simulated ones for a sure row, too."""
    clean, _ = told(pool)

    def swapped(rows):
        third = rows.argmax(axis=1) == 2
        return np.where(third[:, None], rows[:, [2, 1, 0]], rows)

    x, every, fold = pool.x[:240], np.ones(240, dtype=bool), np.arange(240) % 3
    arguments = (x, swapped(clean), every, fold, pool.x[240:], Nearest(), 0)
    found = restored(Simulating(swapped, keeps_label=False), *arguments)
    assert np.allclose(found.forward(clean), swapped(clean))
    right = Interpretation("restored", clean, every, found.forward)
    assert losses(x, swapped(clean), right).mean() < 0.5
    assert losses(x, swapped(clean), replace(right, forward=None)).mean() > 0.5
    assert restored(Simulating(), *arguments).forward is None

    class Shared(Simulating):
        def simulate(self, known, shadow):
            return self

    assert restored(Shared(swapped, keeps_label=False), *arguments).forward is None


def test_inputs_that_were_not_queried_come_in_random_order_and_none_is_a_test_input(pool):
    queried = np.arange(0, 200, 2)
    found = not_queried(pool, queried, 1)
    assert sorted(found) == sorted(set(range(len(pool.x))) - set(queried))
    assert (np.diff(found) < 0).any()
    assert (
        found.tobytes() == not_queried(pool, queried, 1).tobytes() != not_queried(pool, queried, 2).tobytes()
    )
    assert not len(not_queried(replace(pool, overlaps="test"), queried, 1))


def test_a_restored_interpretation_is_judged_by_what_was_left_out(pool):
    x, y = pool.x[:60], pool.y[:60]
    every, right, wrong = np.ones(60, dtype=bool), np.eye(CLASSES)[y], np.eye(CLASSES)[(y + 1) % CLASSES]
    candidate = Interpretation("restored", right, every, left_out=[wrong, wrong, wrong])
    plain = Interpretation("as_is", right, every)
    assert losses(x, right, candidate).mean() > 1
    assert losses(x, right, plain).mean() < 0.01

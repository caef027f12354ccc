"""The contract that every membership attack keeps, tomorrow's included, and what each one does beyond it."""

import random
from itertools import product

import numpy as np
import pytest
import torch
from art.attacks.inference.membership_inference import MembershipInferenceBlackBox
from art.estimators.classification import BlackBoxClassifier
from cases import slow_unless
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from attacks.base import MembershipInference, RandomSeeds, Records
from attacks.common.thresholding import best_threshold
from attacks.membership_label_only import offsets, translated
from bench.errors import UsageError
from bench.inputs import InputSpace
from bench.plugins import attacks
from bench.seeds import legacy_numpy

CLASSES, SIDE, HALF = 4, 9, 60
SCORES = ("confidence", "entropy", "modified_entropy", "loss")
EVERY = [
    *(name for name in attacks.names() if issubclass(attacks.get(name), MembershipInference)),
    *(f"membership_black_box(model={model})" for model in ("nn", "rf", "gb", "softmax_lr")),
    *(f"membership_threshold(score={score})" for score in SCORES),
    "membership_label_only(shift=3)",
]
QUICK = [text for text in EVERY if "nn" not in text]
"""Those that take no seconds to train."""
COSTLY = ("model=nn)", "model=rf)", "model=gb)")
QUICK_FIRST = slow_unless(QUICK.__contains__, EVERY)
STREAMS = RandomSeeds(order=11, choices=12)


def records(first, n=HALF, y=None, seed=0):
    """Return n members and n others, shuffled; each is one pixel, whose value is the record's number."""
    number = np.arange(first, first + 2 * n)
    x = np.zeros((2 * n, 1, SIDE, SIDE), np.float32)
    x[:, 0, SIDE // 2, SIDE // 2] = (number + 1) / 10_000
    labels = number // 2 % CLASSES if y is None else np.full(2 * n, y)
    order = np.random.default_rng(seed).permutation(2 * n)
    return Records(x[order], labels.astype(np.int64)[order], (number % 2 == 0)[order])


def hidden(asked):
    return Records(asked.x, asked.y, np.zeros(len(asked), dtype=bool))


KNOWN, ASKED = records(0), records(1_000)


class Answering(BlackBoxClassifier):
    """An API that knows each record by number: even numbers are members, half of the number is the class."""

    budget = 10**9
    inputs = InputSpace((1, SIDE, SIDE))

    def __init__(self, answer):
        super().__init__(self.predict, (1, SIDE, SIDE), CLASSES, clip_values=(0.0, 1.0))
        self.answer, self.sent = answer, 0

    def predict(self, x, batch_size=256):
        self.sent += len(x)
        assert x.dtype == np.float32
        number = np.round(x.max(axis=(1, 2, 3)) * 10_000).astype(int) - 1
        moved = (number >= 0) & (x[:, 0, SIDE // 2, SIDE // 2] == 0)
        return self.answer(number, number // 2 % CLASSES, number % 2 == 0, moved)


def sure(label, confidence):
    """Return (n, classes) answers with ``confidence`` (n,) on the label, the rest spread evenly."""
    answers = np.tile((1 - np.asarray(confidence)[:, None]) / (CLASSES - 1), CLASSES)
    answers[np.arange(len(answers)), label] = confidence
    return answers


def noise(number, salt=0):
    """Return (n,) values in [0, 1) that depend on the record and on nothing else."""
    return np.random.default_rng(salt).random(10_001)[number + 1]


def leaking(number, label, member, _moved):
    """More confidence on members."""
    return sure(label, np.where(member, 0.9, 0.6) + 0.09 * noise(number))


def silent(number, label, _member, moved):
    """Nothing about membership: right for three in four, more or less sure, whoever it is."""
    right = noise(number, 1) < np.where(moved, 0.5, 0.75)
    return sure(np.where(right, label, (label + 1) % CLASSES), 0.4 + 0.5 * noise(number))


def wrong_on_others(number, label, member, _moved):
    return sure(
        np.where(member | (noise(number) < 0.3), label, (label + 1) % CLASSES), np.full(len(label), 0.9)
    )


def fragile_on_others(_number, label, member, moved):
    return sure(np.where(member | ~moved, label, (label + 1) % CLASSES), np.full(len(label), 0.9))


def refusing(answer, whom):
    def refuse(number, label, member, moved):
        answers = answer(number, label, member, moved)
        answers[whom(number)] = np.nan
        return answers

    return refuse


ANSWERS = {
    "leaking": leaking,
    "silent": silent,
    "one-hot": lambda _, label, *__: np.eye(CLASSES)[label],
    "uniform": lambda number, *_: np.full((len(number), CLASSES), 1 / CLASSES),
    "zeros": lambda number, *_: np.zeros((len(number), CLASSES)),
    "constant": lambda number, *_: np.eye(CLASSES)[np.zeros(len(number), int)],
    "unnormalised": lambda number, label, *_: np.round(sure(label, noise(number)), 1) * 1.3,
    "some refused": refusing(leaking, lambda number: number % 3 == 0),
    "all refused": refusing(leaking, lambda number: number > -2),
    "no members answered": refusing(leaking, lambda number: number % 2 == 0),
}


def run(text, answer, known=KNOWN, asked=ASKED, streams=STREAMS):
    attack = attacks.build(text) if isinstance(text, str) else text
    return attack.infer(Answering(answer), known, hidden(asked), streams)


def auc(text, answer, known=KNOWN, asked=ASKED):
    return roc_auc_score(asked.member, run(text, answer, known, asked))


def accuracy(text, answer, known=KNOWN, asked=ASKED):
    return float(((run(text, answer, known, asked) > 0.5) == asked.member).mean())


# --- the contract


@pytest.mark.parametrize(
    ("kind", "text"),
    slow_unless(lambda kind, text: not text.endswith(COSTLY) or kind == "silent", product(ANSWERS, EVERY)),
)
def test_scores_are_shares_whatever_is_answered(kind, text):
    scores = run(text, ANSWERS[kind], records(0, 12), records(1_000, 12))
    assert scores.shape == (24,)
    assert scores.dtype == np.float64
    assert np.all((scores >= 0) & (scores <= 1))


@pytest.mark.parametrize("text", QUICK_FIRST)
def test_a_score_depends_on_its_own_record_and_the_known_ones(text):
    known, order = records(0, 12), np.random.default_rng(3).permutation(2 * HALF)[:50]
    part = Records(ASKED.x[order], ASKED.y[order], ASKED.member[order])
    # A network's batches add up in another order, which moves the last bits of float32.
    assert run(text, silent, known, part) == pytest.approx(run(text, silent, known)[order], abs=1e-6)


@pytest.mark.parametrize("text", QUICK_FIRST)
def test_what_is_asked_about_is_not_looked_up(text):
    known = records(0, 12)
    told = attacks.build(text).infer(Answering(silent), known, ASKED, STREAMS)
    assert (told == run(text, silent, known)).all()


@pytest.mark.parametrize("text", QUICK_FIRST)
def test_two_runs_are_equal_and_leave_global_generators_alone(text):
    def states():
        return [repr(random.getstate()), repr(np.random.get_state()), torch.get_rng_state().numpy().tobytes()]

    known, before = records(0, 12), states()
    one = run(text, silent, known)
    assert states() == before
    np.random.seed(77)
    torch.manual_seed(77)
    try:
        assert (run(text, silent, known) == one).all()
    finally:
        np.random.seed(None)
        torch.seed()


@pytest.mark.parametrize("text", QUICK_FIRST)
def test_the_budget_is_what_is_asked(text):
    attack = attacks.build(text)
    attack.members = 2 * HALF
    api = Answering(silent)
    attack.infer(api, KNOWN, hidden(ASKED), STREAMS)
    assert attack.budgets([17]) == [api.sent]
    attack.target = "surrogate"
    assert attack.budgets([17]) == [17]


@pytest.mark.parametrize("text", QUICK_FIRST)
def test_where_nothing_leaks_it_finds_nothing(text):
    # The area's standard error with 400 and 400 records is .02.
    known = records(0, 60 if "nn" in text else 400)
    assert auc(text, silent, known, records(2_000, 400)) == pytest.approx(0.5, abs=0.085)


@pytest.mark.parametrize(
    "text",
    slow_unless(
        QUICK.__contains__,
        [
            *(f"membership_black_box(model={model})" for model in ("nn", "rf", "gb")),
            *(f"membership_threshold(score={score})" for score in SCORES),
        ],
    ),
)
def test_confidence_on_members_is_found(text):
    known = records(0, 200) if "nn" in text else KNOWN
    assert auc(text, leaking, known) > 0.95


@pytest.mark.parametrize("model", ["lr", "softmax_lr"])
def test_logistic_regression_finds_confidence_where_it_is_linear_and_nowhere_else(model):
    text = f"membership_black_box(model={model})"
    one_class = [Records(r.x, r.y * 0, r.member) for r in (KNOWN, ASKED)]

    def on_one_class(number, label, member, moved):
        return leaking(number, label * 0, member, moved)

    assert accuracy(text, on_one_class, *one_class) > 0.95
    assert auc(text, leaking, records(0, 400), records(2_000, 400)) == pytest.approx(0.5, abs=0.085)


@pytest.mark.parametrize("text", ["membership_rule_based", *(t for t in EVERY if "label_only" in t)])
def test_wrong_labels_of_others_are_found(text):
    assert accuracy(text, wrong_on_others) == pytest.approx(0.85, abs=0.08)


def test_only_translations_find_labels_that_others_lose_when_moved():
    assert accuracy("membership_label_only", fragile_on_others) == 1
    assert accuracy("membership_rule_based", fragile_on_others) == 0.5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("membership_rule_based(members=0)", "members=0; integer in .20, inf. is allowed"),
        ("membership_label_only(shift=0)", "shift=0; integer in .1, 7. is allowed"),
        ("membership_threshold(score=size)", "one of confidence, entropy, modified_entropy, loss"),
        ("membership_black_box(model=svm)", "one of lr, nn, rf, gb, softmax_lr"),
        ("membership_black_box(target=both)", "one of victim, surrogate"),
    ],
)
def test_bad_parameters_are_named_with_what_is_allowed(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        attacks.build(text)


@pytest.mark.parametrize("name", [text for text in EVERY if "(" not in text])
@pytest.mark.parametrize("key", ["members=0", "target=both"])
def test_every_attack_checks_what_all_have(name, key):
    with pytest.raises(UsageError, match=key.partition("=")[0]):
        attacks.build(f"{name}({key})")


# --- black box


@pytest.mark.parametrize("model", ["lr", "rf", "gb"])
def test_it_is_arts(model):
    art = MembershipInferenceBlackBox(Answering(silent), attack_model_type=model)
    known, member = KNOWN, KNOWN.member
    with legacy_numpy(STREAMS.choices):
        art.fit(known.x[member], known.y[member], known.x[~member], known.y[~member])
        expected = art.infer(ASKED.x, ASKED.y, probabilities=True)[:, 0]
    assert run(f"membership_black_box(model={model})", silent) == pytest.approx(expected, abs=1e-5)


def test_the_published_recipe_is_logistic_regression_on_the_answers_alone():
    def answers(asked):
        return Answering(silent).predict(asked.x).astype(np.float32)

    model = LogisticRegression(max_iter=1_000).fit(answers(KNOWN), KNOWN.member)
    expected = model.predict_proba(answers(ASKED))[:, 1]
    assert run("membership_black_box(model=softmax_lr)", silent) == pytest.approx(expected, abs=1e-5)


def test_a_forest_learns_from_who_is_rejected():
    assert accuracy("membership_black_box(model=rf)", refusing(silent, lambda n: n % 2 == 1)) > 0.95


# --- thresholds


@pytest.mark.parametrize("text", [t for t in EVERY if "threshold" in t or "rule" in t])
def test_a_rejected_record_is_no_member_and_no_outsider(text):
    refused = refusing(leaking, lambda number: number % 3 == 0)
    scores = run(text, refused)
    where = np.isnan(Answering(refused).predict(ASKED.x)).any(axis=1)
    assert (scores[where] == 0.5).all()
    assert (scores[~where] != 0.5).all()


def statistic(score, answers, y=(0,)):
    asked = Records(np.zeros((len(y), 1, SIDE, SIDE), np.float32), np.array(y), np.ones(len(y), bool))
    api = Answering(lambda *_: np.array(answers, dtype=float))
    return attacks.build(f"membership_threshold(score={score})").statistic(api, asked)


def test_scores_are_those_of_the_papers():
    p = np.array([0.7, 0.2, 0.1, 0.0])
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    modified = -(0.8 * np.log(0.2) + 0.7 * np.log(0.3) + 0.1 * np.log(0.9))
    assert statistic("entropy", [p]) == pytest.approx(-np.log(entropy))
    assert statistic("modified_entropy", [p], [1]) == pytest.approx(-np.log(modified))
    assert statistic("confidence", [p], [1]) == pytest.approx(np.log(0.7 / 0.3))
    assert statistic("loss", [p], [1]) == pytest.approx(np.log(0.2 / 0.8))


@pytest.mark.parametrize("score", SCORES)
def test_answers_that_all_round_to_certain_still_have_an_order(score):
    small = [1e-16, 1e-18, 1e-20]
    told = statistic(score, [[1.0, each, 0, 0] for each in small], [0, 0, 0])
    assert np.all(np.diff(told) > 1)
    assert statistic(score, [[1.0, 0, 0, 0]]) > told[-1]


def test_modified_entropy_is_precise_where_the_right_answer_rounds_to_certain():
    # With q in one other entry: -q log(1 - q) - q log(1 - q), which is 2 q² for small q.
    assert statistic("modified_entropy", [[1.0, 1e-18, 0, 0]]) == pytest.approx(-np.log(2e-36))


@pytest.mark.parametrize("score", ["loss", "modified_entropy"])
def test_certain_and_wrong_is_the_least_evidence(score):
    told = statistic(score, [[0, 1.0, 0, 0], [1e-9, 1 - 1e-9, 0, 0], [0.5, 0.5, 0, 0]], [0, 0, 0])
    assert np.isfinite(told).all()
    assert np.all(np.diff(told) > 0)


def test_no_other_threshold_separates_better():
    rng = np.random.default_rng(0)
    for _ in range(30):
        member = rng.permutation(np.repeat([True, False], rng.integers(1, 8, 2)))
        values = rng.integers(0, 6, len(member)) / 7
        best = max(balanced_accuracy_score(member, values > t) for t in np.r_[-1, np.unique(values)])
        found = best_threshold(values, member)
        assert balanced_accuracy_score(member, values > found) == pytest.approx(best)


def test_a_threshold_lies_halfway_and_beyond_all_where_one_side_is_best():
    assert best_threshold(np.array([1.0, 3.0]), np.array([False, True])) == 2
    assert best_threshold(np.array([1.0, 3.0]), np.array([True, False])) < 1
    assert best_threshold(np.array([1.0, np.nan, 3.0]), np.array([False, True, True])) == 2
    assert best_threshold(np.array([np.nan, 3.0]), np.array([False, True])) == 0


def test_neighbouring_floats_are_kept_apart():
    low, high = 1.0, np.nextafter(1.0, 2)
    threshold = best_threshold(np.array([low, high]), np.array([False, True]))
    assert low <= threshold < high


@pytest.mark.parametrize("text", [t for t in QUICK if "threshold" in t or "label_only" in t])
def test_a_half_is_where_the_known_records_separate_best(text):
    attack = attacks.build(text)
    told = attack.statistic(Answering(silent), KNOWN)
    best = max(balanced_accuracy_score(KNOWN.member, told > t) for t in np.r_[-np.inf, np.unique(told)])
    found = run(text, silent, KNOWN, KNOWN) > 0.5
    assert balanced_accuracy_score(KNOWN.member, found) == pytest.approx(best)


# --- labels only


@pytest.mark.parametrize("distance", range(1, 8))
def test_the_translations_are_all_of_one_city_block_distance(distance):
    moves = offsets(distance)
    assert moves[0] == (0, 0)
    assert len(set(moves)) == len(moves) == 4 * distance + 1
    assert {abs(down) + abs(across) for down, across in moves[1:]} == {distance}


@pytest.mark.parametrize(
    ("down", "across"), [(0, 0), (1, 0), (-2, 0), (0, 3), (0, -1), (2, -2), (9, 0), (0, -12)]
)
def test_a_translation_moves_by_whole_pixels_and_fills_with_black(down, across):
    x = np.random.default_rng(0).random((2, 3, SIDE, SIDE), dtype=np.float32) + 1
    wide = np.pad(x, ((0, 0), (0, 0), (12, 12), (12, 12)))
    expected = np.roll(wide, (down, across), axis=(2, 3))[:, :, 12:-12, 12:-12]
    assert (translated(x, down, across, np.float32(0)) == expected).all()


def test_the_number_of_right_answers_is_the_evidence():
    attack = attacks.build("membership_label_only")
    told = attack.statistic(Answering(fragile_on_others), ASKED)
    assert (told == np.where(ASKED.member, 5, 1)).all()


def test_a_rejected_query_is_not_read_as_the_first_class():
    attack, asked = attacks.build("membership_label_only"), records(1_000, y=0)
    assert (attack.statistic(Answering(ANSWERS["all refused"]), asked) == 0).all()


# --- rule based


def test_a_member_is_what_is_labelled_right():
    told = run("membership_rule_based", silent)
    right = Answering(silent).predict(ASKED.x).argmax(axis=1) == ASKED.y
    assert 0 < right.mean() < 1
    assert (told == right).all()


def test_it_takes_records_of_a_few_classes():
    assert run("membership_rule_based", silent, asked=records(1_000, y=3)).shape == (2 * HALF,)


def test_a_rejection_is_not_read_as_the_first_class():
    asked = records(1_000, y=0)
    assert (run("membership_rule_based", ANSWERS["all refused"], asked=asked) == 0.5).all()

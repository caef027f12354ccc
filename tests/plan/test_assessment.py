"""What an assessment runs fits the model and the time, and is a matrix that can be read."""

import tomllib
from dataclasses import replace

import pytest

from bench.models.victim_options import VictimOptions
from bench.plan import assessment
from bench.plan.assessment import CONFIRM, FEW_CONFIRM, Subject, chosen, everything, matrix_text, smallest

TABLE = Subject("mine", "table", (14,), 2, pool=10_000, calibration=2_000)
IMAGES = Subject("mine", "images", (3, 32, 32), 10, pool=600, calibration=200)
LABELS = replace(TABLE, labels_only=True)
SEQUENCES = Subject("mine", "sequences", (20, 3), 4, pool=1_000, calibration=300)
OPTIONS = VictimOptions(model="../../m.py:f", data="../../x.csv")


@pytest.mark.parametrize("subject", [TABLE, IMAGES, LABELS, SEQUENCES], ids=lambda each: each.layout)
def test_the_whole_scope_is_a_matrix_that_names_the_victim_in_every_block(subject):
    text = matrix_text(subject, everything(subject), OPTIONS, head="two\nlines", description='"quoted"')
    values = tomllib.loads(text)
    assert values["victims"]["mine"] == {"model": "../../m.py:f", "data": "../../x.csv"}
    assert values["description"] == '"quoted"'
    assert {block["victim"] for block in values["block"]} == {"mine"}
    assert text.startswith("# two\n# lines\n")


@pytest.mark.parametrize(
    ("pool", "reference"), [(10_000, 1_000), (1_200, 500), (600, 200), (300, 200), (110, 110)]
)
def test_the_reference_budget_is_within_the_pool_and_enough_to_adapt_by(pool, reference):
    subject = replace(TABLE, pool=pool)
    assert subject.reference == reference
    assert all(number <= pool for number in everything(subject).budgets)


def test_budgets_that_the_user_asks_for_are_the_only_ones():
    subject = replace(TABLE, budgets=(50, 300, 900))
    assert subject.reference == 300
    assert everything(subject).budgets == (50, 300, 900)
    assert smallest(subject).budgets == (300,)


def test_nothing_is_chosen_where_the_smallest_scope_does_not_fit():
    assert chosen(TABLE, "mlp", (), lambda _: False) is None


def test_what_does_not_fit_is_left_out_and_later_additions_are_still_tried():
    def fits(scope):
        return "mahalanobis" not in str(scope.defenses) and scope.confirm < CONFIRM

    scope = chosen(TABLE, "mlp", (), fits)
    assert "mahalanobis" not in str(scope.defenses)
    assert scope.confirm == FEW_CONFIRM, "more than the least, since that fits"
    assert scope.pools == ("marginals", "noise")
    assert chosen(TABLE, "mlp", (), lambda _: True) == everything(TABLE, "mlp")


def test_the_main_surrogate_is_not_among_the_others():
    scope = everything(TABLE, "sklearn-boosting")
    assert scope.surrogate == "sklearn-boosting"
    assert set(scope.others) == {"mlp", "logistic"}


def test_every_defense_meets_the_attackers_that_it_has_to_meet():
    values = tomllib.loads(matrix_text(TABLE, everything(TABLE), OPTIONS))
    met = {}
    for block in values["block"]:
        attacks = block["attack"] if isinstance(block["attack"], list) else [block["attack"]]
        for defense in block["defense"]:
            met.setdefault(defense, set()).update(each.partition("(")[0] for each in attacks)
    assert all({"auto", "labels", "recover"} <= attacks for attacks in met.values())
    assert "average" in met[assessment.GAUSSIAN]
    assert "evade" in met[TABLE.detector]


def test_a_model_that_answers_labels_is_not_defended_by_changing_probabilities():
    values = tomllib.loads(matrix_text(LABELS, everything(LABELS), OPTIONS))
    defenses = {text for block in values["block"] for text in block["defense"]}
    assert defenses == {"none", LABELS.detector}


def test_an_attacker_knows_no_true_labels_where_the_data_have_none():
    text = matrix_text(replace(TABLE, labelled=False), everything(TABLE), OPTIONS)
    assert "own_labels" not in text
    assert "own_labels" in matrix_text(TABLE, everything(TABLE), OPTIONS)


def test_a_detector_is_aimed_at_what_the_calibration_split_can_hold():
    assert "fpr=0.005" in TABLE.detector
    assert "fpr=0.013," in IMAGES.detector


def test_options_of_the_user_are_in_the_matrix():
    options = VictimOptions(
        model="m.skops", data="x.csv", label="a b", shift={"country": "US"}, threshold=0.3, trust=("a.B",)
    )
    values = tomllib.loads(matrix_text(replace(TABLE, sells="ranking"), everything(TABLE), options))
    assert VictimOptions(**{**values["victims"]["mine"], "trust": ("a.B",)}) == options
    assert values["report"] == {"sells": "ranking", "confirm": CONFIRM, "thresholds": [0.3, 0.9]}

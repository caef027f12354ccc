"""How a report names a threat model: who the attacker is, and how many unlabelled inputs they have."""

from dataclasses import replace

from records import INSIDE, NEAR, NONE, SOFT, cell

from bench.analysis.threat_models import (
    UNLABELLED,
    VictimThreatModel,
    attackers,
    owned_inputs,
    unlabelled_inputs,
)
from bench.records import Info


def record(threat, budget, unlabelled=None):
    made = cell(threat, NONE, SOFT, budget, 0)
    info = made.info if unlabelled is None else made.info.with_values(unlabelled=unlabelled)
    return replace(made, info=info)


def test_the_name_says_how_many_unlabelled_inputs_there_are_at_most():
    records = [record(INSIDE, 50, 450), record(INSIDE, 200, 300), record(INSIDE, 200), record(NEAR, 50)]
    inside, near = (VictimThreatModel.of(each.cell) for each in (records[0], records[-1]))
    assert unlabelled_inputs(records) == {inside: 450}
    names = attackers([inside, near], unlabelled_inputs(records))
    assert names[inside] == "has users' data, does not adapt, with up to 450 unlabelled inputs"
    assert names[near] == "has similar data, does not adapt"


def test_an_attacker_who_adapts_has_the_unlabelled_inputs_of_one_who_does_not():
    """All that the weaker one does is compared there too."""
    plain = VictimThreatModel.of(record(INSIDE, 50).cell)
    full, elsewhere = replace(plain, knowledge="full"), replace(plain, knowledge="full", pool="usps")
    names = attackers([full, plain, elsewhere], {plain: 339, full: 305})
    assert names[full].endswith("adapts, with up to 339 unlabelled inputs")
    assert names[plain].endswith("does not adapt, with up to 339 unlabelled inputs")
    assert "unlabelled" not in names[elsewhere]
    assert attackers([full], {plain: 9_000})[full].endswith("with up to 9,000 unlabelled inputs")
    assert "unlabelled" not in attackers([plain], {full: 305})[plain]


def test_inputs_like_the_users_that_an_attack_owns_besides_are_named():
    """``evade`` sends them first: beside its pool, "no data" would say that nothing like them was sent."""
    evade = "evade(own=100, use_probability=true, blend=None, clients=None)"
    made = cell(NEAR | {"knowledge": "full"}, NONE, evade, 200, 0, share=0.5)
    near = VictimThreatModel.of(made.cell)
    without = cell(NEAR, NONE, "evade(own=0, use_probability=true)", 200, 0, share=0.5)
    inside = cell(INSIDE | {"knowledge": "full"}, NONE, evade, 200, 0, share=0.5)
    assert owned_inputs([made, without, inside, record(NEAR, 200)]) == {near: 100}
    far = replace(near, access="none", pool="noise")
    names = attackers([near, replace(near, knowledge="none"), far], owned={near: 100, far: 100})
    assert list(names.values()) == [
        "has similar data and 100 inputs like the users', adapts",
        "has similar data, does not adapt",
        "has no data but 100 inputs like the users', adapts",
    ]


def test_none_that_is_left_is_not_named():
    threat = VictimThreatModel.of(record(INSIDE, 50).cell)
    assert unlabelled_inputs([record(INSIDE, 50, 0)]) == {threat: 0}
    assert attackers([threat], {threat: 0}) == attackers([threat])


def test_attacks_that_use_unlabelled_inputs_themselves_count_too():
    """``auto`` and ``restore`` say so by a fact; trainings in the record. Both are of the same pool."""
    made = record(INSIDE, 50, 300)
    records = [replace(made, metrics=made.metrics | {UNLABELLED: number}) for number in (200.0, 350.0, None)]
    assert unlabelled_inputs(records[:1]) == {VictimThreatModel.of(made.cell): 300}
    assert unlabelled_inputs(records) == {VictimThreatModel.of(made.cell): 350}


def test_thousands_are_separated():
    threat = VictimThreatModel.of(record(INSIDE, 50).cell)
    assert attackers([threat], {threat: 9_950})[threat].endswith("with up to 9,950 unlabelled inputs")


def test_unlabelled_inputs_of_an_attacker_without_data_are_made_up():
    threat = replace(VictimThreatModel.of(record(INSIDE, 50).cell), access="none", pool="synthetic")
    assert attackers([threat], {threat: 1_805})[threat] == (
        "has no data, does not adapt, with up to 1,805 unlabelled made-up inputs"
    )


def test_records_that_do_not_say_leave_names_as_they_were():
    records = [record(INSIDE, 50)]
    threat = VictimThreatModel.of(records[0].cell)
    assert unlabelled_inputs(records) == {}
    assert attackers([threat], unlabelled_inputs(records)) == attackers([threat])
    assert "unlabelled" not in Info.model_validate({"steps": 1000}).values()
    assert Info.model_validate({"steps": 1000}).rows is None

"""The timing table: what trainings took in stands beside their seconds where some are semi-supervised."""

from dataclasses import replace

from records import INSIDE, NONE, SOFT, cell

from bench.analysis.findings import Findings
from bench.analysis.threat_models import UNLABELLED
from bench.report.run_tables import SIZES, timing_table


def row_of(table, start):
    (line,) = [line for line in table.splitlines() if line.lstrip("| ").startswith(start)]
    return [part.strip() for part in line.strip("|").split("|")]


def with_sizes(record, training, **sizes):
    task = replace(record.task, training=training)
    return replace(record, task=task, info=record.info.with_values(**sizes))


def test_sizes_of_trainings_are_shown_where_one_is_semi_supervised():
    plain = [cell(INSIDE, NONE, SOFT, 50, repeat) for repeat in range(2)]
    taught = [
        with_sizes(each, "rule(unlabelled=fixmatch)", rows=946_000, unlabelled=450 + number)
        for number, each in enumerate(plain)
    ]
    control = [with_sizes(each, "rule(augment=weak)", rows=50_000) for each in plain]
    table = timing_table(Findings([*plain, *taught, *control], {}))
    header = row_of(table, "surrogate")
    assert header[-3:] == list(SIZES)
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    found = {row[1]: row[-3:] for row in rows}
    (fixmatch,) = [sizes for name, sizes in found.items() if "fixmatch" in name]
    assert fixmatch == ["1,000", "946,000", "450"]
    (weak,) = [sizes for name, sizes in found.items() if "augment" in name]
    assert weak == ["1,000", "50,000", "–"]


def test_unlabelled_inputs_of_an_attack_stand_there_too():
    plain = [cell(INSIDE, NONE, SOFT, 50, repeat) for repeat in range(2)]
    used = [replace(each, metrics=each.metrics | {UNLABELLED: 1234.0}) for each in plain]
    assert row_of(timing_table(Findings(used, {})), "mlp")[-1] == "1,234"
    none = [replace(each, metrics=each.metrics | {UNLABELLED: 0.0}) for each in plain]
    assert not set(row_of(timing_table(Findings(none, {})), "surrogate")) & set(SIZES)


def test_without_semi_supervised_trainings_the_table_is_as_it_was():
    table = timing_table(Findings([cell(INSIDE, NONE, SOFT, 50, 0)], {}))
    assert not set(row_of(table, "surrogate")) & set(SIZES)

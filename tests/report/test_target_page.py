"""The first page of a campaign against a live target, from a store that nobody bought."""

import re

import campaigns
import numpy as np
import pytest
from records import NEAR, SOFT, cell, stored
from typer.testing import CliRunner

from bench.cli.main import app
from bench.report.page import first_page, write_report
from bench.report.store_report import write_store_report
from bench.report.target_page import duration, money
from bench.run_facts import PurposeFacts

RECORDS = campaigns.records()


def shown(records=RECORDS, **fields):
    return first_page(records, campaigns.meta(**fields))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the records and the facts of a campaign."""
    return stored(tmp_path_factory.mktemp("campaign") / "store.sqlite", RECORDS, campaigns.meta())


def test_the_page_asks_what_it_costs_and_answers_with_inputs_money_and_time():
    text = shown(rate=600.0)
    assert text.startswith("# What does it cost to extract the model behind `http://127.0.0.1:8080`?\n")
    assert re.search(
        r"\*\*800 inputs, \$1\.20 and 1\.3 hours\*\* buy a surrogate that agrees with the deployed model on "
        r"\*\*\d\d\.\d % \(95 % CI \d\d\.\d to \d\d\.\d\)\*\* of test inputs",
        text,
    )


def test_each_budget_has_a_row_with_its_fidelity_and_its_cost():
    rows = re.findall(
        r"^\| ([\d,]+) +\| .* +\| +\d\d\.\d \(.*\) \| +(\S+) \| +(.+?) +\|$", shown(), re.MULTILINE
    )
    assert [(budget, price) for budget, price, _ in rows] == [
        ("50", "$0.075"),
        ("200", "$0.30"),
        ("800", "$1.20"),
    ]


def test_accounts_are_shown_where_a_quota_or_a_detection_is_stated():
    assert "accounts' price" not in shown()
    text = shown(quota=100, detected_after=51, account_price=0.5)
    assert re.search(r"^\| 800 +\| +16 +\| +\$8\.00 +\| +\$9\.20 +\|$", text, re.MULTILINE)
    assert "from 16 accounts" in text


def test_what_a_further_budget_buys_is_told_with_its_interval():
    assert len(re.findall(r"^\| (50 → 200|200 → 800) +\| +-?\d+\.\d \(", shown(), re.MULTILINE)) == 2


def test_evaluation_is_a_row_of_its_own_and_attacks_say_what_they_sent_and_what_was_paid():
    text = shown()
    assert re.search(r"^\| copycat on labels +\| +800 +\| +0 +\| +0 +\| +\$0\.00 +\|$", text, re.MULTILINE)
    assert re.search(r"^\| evaluation: .* +\| +300 +\| +300 +\| +0 +\| +\$0\.45 +\|$", text, re.MULTILINE)
    assert re.search(r"^\| \*\*together\*\* +\| +\*\*1,915\*\* +\| +\*\*1,115\*\* ", text, re.MULTILINE)


def test_what_may_have_been_billed_without_an_answer_is_said():
    assert "**64 inputs may have been billed without an answer**" in shown()
    without = campaigns.facts().purposes | {SOFT: PurposeFacts(sent=800, paid=800, money=1.2)}
    assert "may have been billed" not in shown(purposes=without)


def test_intervals_are_said_to_be_conditional_on_one_purchase_unless_each_repeat_bought_anew():
    assert "conditional on that purchase" in shown()
    assert "each on a purchase of its own" in shown(once=False, buying=5)
    some = shown(once=False, buying=2)
    assert "of which 2 bought inputs of their own; the others learn from the first" in some
    assert "each on a purchase" not in some


def test_what_canary_inputs_showed_is_said():
    assert "their answers did not change; equal inputs sent again differed by up to 0" in shown()
    assert "changed by up to 0.012" in shown(moved=0.0123)
    assert "was not checked" in shown(moved=None)


def test_fidelity_is_balanced_where_the_targets_labels_are_imbalanced():
    labels = np.r_[np.zeros(270), np.ones(30)].astype(np.uint8)
    records = [each for each in campaigns.records() if each.kind == "cell"]
    for record in records:
        record.arrays["victim_label"] = labels
        vars(record.info)["confusion"] = [[1, 0], [0, 1]]
    assert "balanced fidelity" in shown(records)
    assert "balanced fidelity" not in shown()


def test_of_several_attackers_the_one_that_reaches_most_is_shown():
    near = [cell(NEAR, (), SOFT, budget, repeat, share=0.95) for budget in (50, 200, 800)
            for repeat in range(5)]  # fmt: skip
    text = shown([*RECORDS, *near])
    assert "has similar data, does not adapt, the one of 2 that reaches most, a choice for which" in text
    assert text.splitlines()[2] != shown().splitlines()[2]
    assert "Attacker: has users' data, does not adapt." in shown()


def test_a_campaign_without_a_ranked_attack_says_so_and_still_shows_the_bill():
    text = shown(campaigns.records(budgets=()))
    assert "**No attack is ranked.**" in text
    assert "## What was paid" in text


def test_texts_of_a_target_cannot_become_markup():
    evil = "<script>alert(1)</script>`|\n# x"
    text = shown(url=f"http://h/{evil}", notes=[evil])
    assert "\n# x" not in text
    assert "<script>" not in re.sub(r"(`+).*?\1", "", text)


def test_the_page_is_short_and_no_table_is_wide():
    text = shown(quota=100, detected_after=51, account_price=0.5, notes=["One.", "Two."])
    assert len(text.splitlines()) <= 80
    assert all(line.count("|") <= 6 for line in text.splitlines() if line.startswith("|"))


def test_provenance_has_the_target_and_who_allowed_to_test_it(tmp_path):
    allowed = "A. Owner, until 2027-01-31, contract 17"
    write_report(RECORDS, campaigns.meta(permission=allowed), tmp_path)
    text = (tmp_path / "provenance.md").read_text()
    for part in ("`http://127.0.0.1:8080`", "oip", "`digits v1`", allowed):
        assert part in text


def test_all_files_of_a_report_are_written_with_the_figure_in_the_html(store, tmp_path):
    write_store_report(store, tmp_path)
    assert (tmp_path / "figures/cost.svg").is_file()
    assert "![Fidelity of each attack" in (tmp_path / "report.md").read_text()
    html = (tmp_path / "report.html").read_text()
    assert "What does it cost to extract" in html
    assert (tmp_path / "results.parquet").is_file()


def test_show_export_and_compare_take_the_store_of_a_campaign(store, tmp_path):
    for arguments in (["show", store], ["export", store, tmp_path / "x.csv"], ["compare", store, store]):
        result = CliRunner().invoke(app, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
    page = CliRunner().invoke(app, ["show", str(store), "--price", "15"]).output
    assert "What does it cost to extract the model behind" in page
    assert "800 inputs, $12.00" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "$0.00"), (0.00001, "< $0.0001"), (0.0015, "$0.0015"), (0.075, "$0.075"), (1234.5, "$1,234.50")],
)
def test_small_amounts_keep_two_digits(value, text):
    assert money(value) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [(None, "–"), (0.0001, "a second"), (0.001, "4 seconds"), (0.5, "30 minutes"), (13.33, "13.3 hours")],
)
def test_times_are_told_in_the_unit_that_fits(hours, text):
    assert duration(hours) == text

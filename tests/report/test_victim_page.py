"""The page of a victim, from recommendations that nobody concluded from a run."""

import re
from dataclasses import replace

import pytest
import recommendations as made
from records import META, fake_run

from bench.analysis.findings import Findings
from bench.analysis.verdicts import Criterion, DefenseVerdict, VictimRecommendations
from bench.metrics.intervals import Interval
from bench.metrics.query_multiplier import Multiplier
from bench.report import answers, sections, victim_page
from bench.report.context import ReportContext
from bench.report.templates import rendered
from bench.run_facts import ReportOptions

FINDINGS = Findings.of_run(fake_run(), META)
CONFIRMED = VictimRecommendations(made.VICTIM, made.recommendation())


def page(found=CONFIRMED, missing=()):
    context = ReportContext(FINDINGS.records, META, None, FINDINGS, None, missing)
    return rendered("victim", **victim_page.page(context, found), links="")


def of(**fields):
    return page(VictimRecommendations(made.VICTIM, made.recommendation(**fields)))


def row(text, name):
    """The cells of a row of the table."""
    found = next(x for x in text.splitlines() if x.startswith("|") and name in x.split("|")[1])
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_first_paragraph_says_what_is_sold_what_to_use_and_what_it_costs():
    first = page().splitlines()[2]
    assert first == (
        "You sell probabilities. **Recommendation: `top_k(k=1)`.** It lowers the best attack's fidelity from "
        "97.9 % to 95.1 % (2.8 pp, 95 % CI 1.8 to 3.8; 20 fresh repeats) and costs users no accuracy."
    )


def test_what_benign_users_lose_is_in_the_first_paragraph():
    changed = made.criteria(
        accuracy=Criterion("accuracy", "affordable", made.interval(0.004), 0.01),
        changed=Criterion("changed", "affordable", made.interval(0.004, 0.002), 0.02),
        rejected=Criterion("rejected", "affordable", made.interval(0.005, 0.001), 0.01),
    )
    best = replace(made.rows()[1], criteria=changed)
    assert answers.cost_clause(best) == (
        "0.4 pp of accuracy, 0.5 % of their queries and 0.4 % of their threshold decisions"
    )


def test_what_the_defense_does_not_stop_comes_next_with_its_price():
    second = page().splitlines()[4]
    assert second.startswith("**It does not stop extraction:** 200 queries (about $0.30) still buy")
    assert "95.1 % of inputs" in second


def test_every_row_adds_up_to_its_printed_digit():
    for value in (0.0277, 0.0285, 0.0046, -0.0034, 0.1005, 0.82449):
        for undefended in (0.97949, 0.9785, 0.5):
            reduction = made.reduction(value, undefended=undefended)
            before, after, less = map(float, answers.sides(reduction))
            assert round(before - less, 1) == after
            assert less == round(100 * value, 1)
    rows = re.findall(r"(\d+\.\d) → (-?\d+\.\d) \| +(?:\*\*)?(-?\d+\.\d) \(", page())
    assert len(rows) == 7
    for before, after, less in rows:
        assert round(float(before) - float(less), 1) == float(after)


def test_the_table_has_eight_rows_and_five_columns_and_says_what_decides():
    text = page()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 8
    assert all(line.count("|") == 6 for line in table)
    assert row(text, "none") == ["none", "97.9", "", "", ""]
    assert row(text, "top_k(k=1)")[-1] == "**recommended**"
    assert row(text, "label_only")[-1] == "only where labels suffice"
    assert row(text, "gaussian_noise")[-1] == "not usable: users lose 80.3 pp of accuracy"
    # Its other criterion is not decided either, but inputs would not decide what was not measured.
    assert row(text, "top_k(k=2)")[-1].startswith("not shown to be affordable: not measured")
    assert "2 more defenses are in [attacks.md]" in text


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (4_020, "about 4,100 labelled test inputs would tell"),
        (3_671_000, "too near the limit for 100,000 labelled test inputs to tell"),
    ],
)
def test_the_test_inputs_that_would_decide_are_those_of_the_criterion_that_needs_most(needed, expected):
    accuracy = Criterion("accuracy", "not shown", Interval(0.002, -0.006, 0.012), 0.01, 700)
    changed = Criterion("changed", "not shown", Interval(0.005, 0, 0.02), 0.01, needed)
    unclear = made.verdict(("top_k(k=2)",), "not shown", 0.02, accuracy, changed)
    verdicts = [unclear if each.defense == unclear.defense else each for each in made.rows()]
    text = of(verdicts=tuple(verdicts), others=())
    assert row(text, "top_k(k=2)")[-1] == f"not shown to be affordable: {expected}"


def test_both_attacks_are_named_where_they_differ():
    assert "Best attack without a defense: active_thief on probabilities. With one: auto." in page()


def test_a_defense_that_met_no_adaptive_attacker_says_so_and_is_not_recommended():
    verdicts = [each for each in made.rows() if each.conclusion in ("undefended", "no adaptive attacker")]
    text = of(verdicts=tuple(verdicts), others=(), adaptive=0)
    assert "**Nothing is recommended.**" in text
    unmet = "not evaluated against an adaptive attacker: auto does nothing else when told of the defense"
    assert row(text, "script")[-1] == unmet
    assert "adapt" in text.split("## How sure are we")[1]


def test_a_number_that_cannot_be_used_is_marked_with_its_reason():
    verdicts = tuple(each for each in made.rows() if each.conclusion in ("undefended", "invalid"))
    cells = row(of(verdicts=verdicts, others=()), "rounded")
    assert cells[0] == "`rounded(decimals=1)` ⚑"
    assert cells[-1] == "numbers cannot be used: 2 cells failed"


def test_fewer_than_one_row_in_five_is_marked():
    rows = [line for line in page().splitlines() if line.startswith("| ")]
    assert sum("⚑" in line for line in rows) / len(rows) < 0.2


def test_without_a_confirmation_run_there_is_a_candidate_and_no_recommendation():
    text = of(confirmed=False)
    assert "**Candidate, not confirmed: `top_k(k=1)`.**" in text
    assert "Recommendation:" not in text
    assert "nothing is recommended until fresh repeats confirm it" in text
    assert row(text, "top_k(k=1)")[-1] == "candidate, not confirmed"


def test_where_nothing_is_confirmed_the_page_says_what_would_have_been_found():
    text = page(VictimRecommendations(made.VICTIM, made.nothing_helps()))
    assert (
        "**Nothing is recommended.** No defense that your users can afford lowers what the best attack gets, "
        "as far as 20 fresh repeats can tell (a reduction of 2.1 pp would have been found in 90 %)." in text
    )
    assert "Without a defense, 200 queries (about $0.30) buy" in text


def test_a_defense_that_is_confirmed_and_lowers_too_little_is_named_with_its_figure():
    verdicts = (
        DefenseVerdict(made.UNDEFENDED, "undefended"),
        made.verdict(made.TOP_1, "confirmed", 0.0097, fresh=True),
        made.verdict(made.NOISE, "not confirmed", 0.002, fresh=True),
    )
    text = page(VictimRecommendations(made.VICTIM, made.recommendation(verdicts=verdicts, others=())))
    assert "**Nothing is recommended.** `top_k(k=1)` lowers what the best attack gets by 0.97 pp" in text
    assert "less than the 1 pp that are asked for (`least`). No other defense that your users can" in text
    assert row(text, "top_k(k=1)")[-1] == "confirmed, less than 1 pp"


@pytest.mark.parametrize("conclusion", ["recommended", "candidate", "confirmed"])
def test_a_defense_that_did_not_meet_the_best_attack_is_said_to_lower_the_best_that_it_met(conclusion):
    verdicts = (
        DefenseVerdict(made.UNDEFENDED, "undefended"),
        made.verdict(made.TOP_1, conclusion, 0.0097, fresh=conclusion != "candidate"),
    )
    confirmed = conclusion != "candidate"
    met, unmet = (
        of(verdicts=verdicts, others=(), confirmed=confirmed, undefended_attack=attack)
        for attack in ("active_thief on probabilities", "restore(model=table)")
    )
    assert "that it met" not in met
    assert "was not run against" not in met
    assert re.search("the best attack that it met (gets )?(from|by)", unmet.splitlines()[2])
    assert " restore(model=table), the best without a defense, was not run against `top_k(k=1)`." in unmet


def test_where_nothing_is_eligible_the_reasons_are_counted():
    kinds = ("undefended", "not usable", "no adaptive attacker", "not shown")
    verdicts = tuple(each for each in made.rows(confirmed=False) if each.conclusion in kinds)
    rec = made.recommendation(confirmed=False, verdicts=verdicts, others=())
    assert answers.nothing_eligible(rec) == (
        "Of 4 defenses in this run, 1 costs users too much, 1 met no adaptive attacker that is as good as "
        "the others, 1 is not shown to be affordable and 1 answers labels alone."
    )
    assert "Of 4 defenses" in page(VictimRecommendations(made.VICTIM, rec))


def test_where_no_attack_is_ranked_nothing_is_compared():
    verdicts = (DefenseVerdict((), "undefended"), replace(made.rows()[4], reduction=None))
    rec = made.recommendation(confirmed=False, verdicts=verdicts, undefended=None, others=(), smallest=None)
    text = page(VictimRecommendations(made.VICTIM, rec))
    assert "No attack is ranked without a defense" in text
    assert row(text, "none")[1] == "not ranked"


def test_a_run_without_adaptive_attackers_says_so():
    text = of(adaptive=0)
    assert "7 attacks of which 0 adapt" in text
    assert "**No attack in this run is shown to adapt to a defense.**" in text


def test_a_run_without_defenses_does_not_speak_of_a_choice_among_them():
    text = of(verdicts=made.rows()[:1], confirmed=False, adaptive=0)
    assert "This run has no defense under this attacker." in text
    assert "intervals cover repeats and inputs." in text
    assert "adapt" not in text.split("## How sure are we")[1].split("nobody ran")[0]


def test_what_intervals_cover_and_what_is_found_depends_on_fresh_repeats():
    """Intervals of the matrix's repeats are each for itself; what is found was computed for fresh repeats."""
    sure, unsure = (of(confirmed=each).split("## How sure are we")[1] for each in (True, False))
    assert "inputs, those of fresh repeats also the choice among 9 defenses. This run finds a" in sure
    assert "inputs, not the choice among 9 defenses. 20 fresh repeats would find a reduction of 2.1" in unsure


@pytest.mark.parametrize(("confirmed", "repeats"), [(True, "20"), (False, "20, not run")])
def test_how_this_was_made_names_the_repeats_that_find_the_smallest_reduction(confirmed, repeats):
    found = VictimRecommendations(made.VICTIM, made.recommendation(confirmed=confirmed))
    context = ReportContext(FINDINGS.records, META, None, FINDINGS, None, ())
    context.__dict__["recommendations"] = [found]
    assert row(sections.options(context)["smallest"], made.VICTIM)[1:] == ["200", repeats, "2.1"]


@pytest.mark.parametrize("number", [1, 2])
def test_the_table_of_victims_says_whether_there_was_a_defense(number):
    verdicts = made.rows(confirmed=False)[:number]
    found = VictimRecommendations(made.VICTIM, made.recommendation(verdicts=verdicts, confirmed=False))
    context = ReportContext(FINDINGS.records, META, None, FINDINGS, None, ())
    context.__dict__["recommendations"] = [found, found]
    text = rendered("victims", **victim_page.overview(context), title="three", links="")
    assert ("This run has no defense" in text) == (number == 1)
    assert ("For 0 of 2 victims" in text) == (number > 1)


def test_another_way_to_sell_has_a_line_where_its_answer_differs():
    text = page()
    assert "If labels are enough for your users: `label_only`, 5.5 pp (4.5 to 6.5)." in text
    assert "only rank by confidence" not in text, "the answer is the same there"


def test_weaker_attackers_have_a_line_where_their_answer_differs():
    weaker = made.nothing_helps(model=made.threat("none", pool="noise"))
    same = made.recommendation(made.threat(knowledge="none"))
    text = page(VictimRecommendations(made.VICTIM, made.recommendation(), weaker, same))
    assert "Against an attacker without data like your users': nothing is recommended." in text
    assert "who does not know the defense" not in text


def test_without_an_attacker_with_the_users_data_the_page_says_so():
    model = made.threat("far", pool="fashion-mnist")
    assert "No attacker in this run has data like your users'" in of(model=model)
    assert "200 inputs unlike your users' (fashion-mnist)" in of(model=model)


def test_it_is_said_where_the_recommendation_no_longer_holds():
    assert "**no longer holds** at the largest budget: 1.2 pp (95 % CI -0.8 to 3.2)" in page()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "2,000 queries, $3.00"),
        ({"price": 0.2}, "2,000 queries, $0.40"),
        ({"rate": 100.0, "quota": 300}, "2,000 queries, $3.00, 20.0 hours, 7 accounts"),
        ({"quota": 5000}, "2,000 queries, $3.00, 1 account"),
    ],
)
def test_effort_is_said_in_what_people_pay(options, expected):
    assert answers.effort(2000, ReportOptions(**options)) == expected


REACH = float("inf")


@pytest.mark.parametrize(
    ("value", "low", "high", "edge", "expected"),
    [
        (2.0, 1.5, 3.0, "", "It takes 2.0 times the queries (95 % CI 1.5 to 3.0), 400 queries, $0.60"),
        (4.0, 2.0, REACH, "above", "is not reached within the largest budget"),
        (1.4, 0.9, REACH, "", "Budgets up to 800 do not show"),
        (0.2, 0.0, 0.4, "below", "Budgets up to 800 do not show"),
    ],
)
def test_a_multiplier_is_said_only_where_the_budgets_can_tell_it(value, low, high, edge, expected):
    multiplier = Multiplier(value, low, high, edge == "below", edge == "above")
    said = answers.multiplier_text(multiplier, 200, [50, 200, 800], ReportOptions())
    assert expected in said
    assert ("times the queries" in said) == ("It takes" in expected)
    assert answers.multiplier_text(None, 200, [50, 200], ReportOptions()) == ""


def test_a_multiplier_beyond_the_only_budget_is_not_said_to_be_out_of_reach():
    said = answers.multiplier_text(
        Multiplier(1, 1, REACH, below=False, above=True), 200, [200], ReportOptions()
    )
    assert said == "No larger budget was run, so how many more queries make up for it is not known."


def test_rows_that_were_not_confirmed_are_named():
    text = page()
    assert "Not on fresh repeats: `top_k(k=5)`, `top_k(k=2)` and `gaussian_noise(l1=1.7)`." in text
    assert "Not on fresh" not in of(confirmed=False)


def test_no_paragraph_holds_two_dollar_signs_which_github_could_read_as_mathematics():
    for text in (page(), of(confirmed=False), page(made.answers())):
        assert all(line.count("$") < 2 for line in text.splitlines())


def test_names_from_plugins_cannot_become_markup():
    verdicts = (made.rows()[0], replace(made.rows()[6], defense=("a`b|c <script>",)))
    text = of(verdicts=verdicts, others=())
    assert "`` a`b\\|c <script> ``" in text or "``a`b\\|c <script>``" in text
    hostile = page(VictimRecommendations("<script>x</script>", made.recommendation()))
    assert "# &lt;script&gt;x" in hostile


def test_the_names_of_victims_pages_are_never_those_of_other_pages():
    names = victim_page.files(["attacks", "a/b", "a-b", "mine.py:make", "🙂"])
    assert list(names.values()) == [
        "victim-attacks.md",
        "a-b.md",
        "a-b.2.md",
        "mine-py-make.md",
        "victim-.md",
    ]

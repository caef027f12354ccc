from pathlib import Path

from recommendations import LABEL_ONLY, TOP_1, answers, nothing_helps
from records import META, fake_run

from bench.analysis.verdicts import VictimRecommendations
from bench.report.terminal import MOST_LINES, last_lines, recommendation_lines


def name(defense):
    return " + ".join(defense)


def test_the_recommendation_its_figures_and_its_cost_are_in_the_first_line():
    first, *_ = recommendation_lines([answers()], name)
    assert first.startswith("digits/mlp: Recommendation: top_k(k=1).")
    assert "pp, 95 % CI" in first
    assert "costs users" in first
    assert "`" not in first
    assert "*" not in first


def test_another_way_to_sell_has_a_line_where_its_answer_differs():
    found = answers(others=(("labels", LABEL_ONLY), ("ranking", TOP_1)))
    _, *others = recommendation_lines([found], name)
    assert [line.split(",")[0] for line in others] == ["If labels are enough for your users: label_only"]


def test_where_nothing_helps_that_is_the_line():
    (line,) = recommendation_lines([VictimRecommendations("digits/mlp", nothing_helps())], name)
    assert "Nothing is recommended" in line


def test_many_victims_fit_into_the_lines_too():
    for number in (2, 3, 4, 9):
        found = [answers(victim=f"digits/{each}") for each in range(number)]
        lines = recommendation_lines(found, name)
        assert len(lines) <= MOST_LINES - 1
        assert (f"and {number - 2} more victims" in lines) == (number > MOST_LINES - 1)


def test_control_characters_of_names_are_shown_as_escapes():
    first, *_ = recommendation_lines([answers()], lambda _: "evil\x1b[2J")
    assert "\x1b" not in first


def test_a_run_ends_with_the_path_of_its_report():
    lines = last_lines(fake_run(), META, Path("results/tiny/report.md"))
    assert lines[-1] == "results/tiny/report.md"
    assert 1 < len(lines) <= MOST_LINES

import re
from pathlib import Path

import pytest
from in_process import moatbench
from made_claims import META, RECORDS, claim, published

from bench.analysis.claim_records import ClaimRow, ClaimTable, Estimate
from bench.analysis.claim_table import ClaimRun, claim_table
from bench.analysis.published_claims import published_claims
from bench.errors import UsageError
from bench.records import PlannedTask
from bench.report import claims as pages
from bench.report.index import write_index
from bench.store import Store

CLAIMS = published(claim(notes="The constant is not stated."))
TABLE = claim_table(CLAIMS, [ClaimRun("made", RECORDS, META)])


def lines(page, heading):
    """The cells of a table's rows, by the first."""
    part = page.partition(heading)[2]
    table = re.search(r"^\|.*\n\|[-:| ]+\n((?:\|.*\n?)+)", part, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_first_table_compares_losses():
    first, second = lines(pages.claims_page(CLAIMS, TABLE), "# Published")
    assert first[1:3] == ["`rounded(decimals=1)`<br>as published; digits/mlp, in-distribution", "10.0"]
    assert first[3].startswith("10.0 (")
    assert first[4].startswith("3.0 (")
    assert first[5].startswith("7.0 (")
    assert first[6] == "reproduced"
    assert second[1].endswith(
        "<br>default; none that was run on this victim is shown to be affordable; digits/mlp, in-distribution"
    )
    assert (second[2], second[3], second[6]) == ("–", "–", "–")


def test_rows_that_differ_in_their_run_alone_name_it():
    runs = [ClaimRun(name, RECORDS, META) for name in ("made", "again")]
    table = claim_table(CLAIMS, runs)
    labels = [row[1] for row in lines(pages.claims_page(CLAIMS, table), "# Published")]
    assert len(set(labels)) == len(labels) == 4
    assert labels[0] == "`rounded(decimals=1)`<br>as published; digits/mlp, in-distribution (`again`)"
    one = [row[1] for row in lines(pages.claims_page(CLAIMS, TABLE), "# Published")]
    assert not any("made" in label for label in one)


def test_a_default_names_the_strongest_affordable_that_was_run_elsewhere():
    (row,) = TABLE.rows[1:]
    row = row.with_values(strength="default", affordable_elsewhere="rounded(decimals=2)")
    label = lines(pages.claims_page(CLAIMS, ClaimTable(rows=[row])), "# Published")[0][1]
    assert label == (
        "`rounded(decimals=1)`<br>default; the strongest affordable, `rounded(decimals=2)`, was not run with "
        "this threat model and budget; digits/mlp, in-distribution"
    )


def test_the_legend_names_the_defaults_that_are_no_papers_and_no_plugins():
    chosen = {each.name for each in published_claims().defense if "eps=0.95" in each.default}
    method = (Path(__file__).parents[2] / "METHOD.md").read_text().partition("- **Strengths.**")[2]
    for text in (pages.claims_page(CLAIMS, TABLE).partition("- *Default*")[2], method):
        named = re.search(r"may change labels \(([^)]+)\), it is \.95", " ".join(text.split()))[1]
        assert set(named.split(", ")) == {f"`{name}`" for name in chosen}


def test_the_page_says_what_differs_from_a_stated_recipe():
    page = pages.claims_page(CLAIMS, TABLE)
    assert "the paper's attack and training on this machine, as far as they are stated" in " ".join(
        page.split()
    )
    assert "There are no page numbers" in page
    notes = {each.id: each.notes for _, each in published_claims().claims()}
    assert "two trainings differ in this constant" in notes["label-only-mnist"]
    for _, each in published_claims().claims():
        if each.where is not None and each.id.startswith("mad-"):
            assert "SGD" in each.notes
        if each.where is not None and not each.attack:
            assert "Here queries are random" in each.notes


def test_settings_name_everything_that_a_loss_depends_on():
    page = pages.claims_page(CLAIMS, TABLE)
    row = lines(page, "## How the numbers")[0]
    assert row[1] == "digits/mlp, accuracy 96.0 %; accuracy (`made`)"
    assert row[2] == "mlp, in-distribution, 200; knowledge full"
    assert row[3].startswith("L1 0.20 (largest 0.80), 0.0")
    assert row[5] == "91.1 % (auto) → 88.1 % (auto), of 2 attacks"
    assert row[6] == "auto with copycat on probabilities (non-adaptive)"
    source = lines(page, "## Where the published")[0]
    assert source[1] == "Nobody 2026, Table 1"
    assert "accuracy; data set: digits; victim: mlp of 96 % accuracy; surrogate: mlp; pool" in source[2]
    assert source[2].endswith("Not stated in what was read: users' limit, seeds. The constant is not stated.")
    assert source[3:] == ["90 → 80", "text"]
    assert "- `made`: `moatbench run made`, commit " + "a" * 40 in page
    assert "One claim: 1 reproduced." in page


def test_levels_differ_by_the_loss_as_printed():
    for row in TABLE.rows:
        # Levels that would be rounded to 91.1 and 88.1, and a loss that would be rounded to 3.1.
        uneven = row.competent.with_values(undefended=0.9114, defended=0.8806, loss=Estimate(value=0.0308))
        table = ClaimTable(rows=[row.with_values(competent=uneven)])
        page = pages.claims_page(CLAIMS, table)
        assert lines(page, "# Published")[0][4] == "3.1"
        assert "91.1 % (auto) → 88.0 % (auto)" in page


def test_a_warning_by_which_numbers_cannot_be_used_is_said():
    row = TABLE.rows[0]
    warned = row.with_values(same_recipe=row.same_recipe.with_values(warnings=["overlap"]))
    page = pages.claims_page(CLAIMS, ClaimTable(rows=[warned]))
    assert "cannot be used elsewhere: the attacker's inputs overlap the victim's training data" in page
    assert "cannot be used" not in pages.claims_page(CLAIMS, TABLE)


def test_defenses_without_a_row_are_named():
    assert "No row:" not in pages.claims_page(CLAIMS, TABLE)
    more = published_claims()
    page = pages.claims_page(
        more, ClaimTable(rows=[ClaimRow(plugin="mad", defense="mad", strength="default")])
    )
    named = re.search(r"^No row: (.*)\. The runs", page, re.MULTILINE)[1].split(", ")
    assert {f"`{each.name}`" for each in more.defense} - set(named) == {"`mad`"}


def test_rows_are_read_as_they_were_written_and_give_the_same_page(tmp_path):
    path = pages.write_claims(CLAIMS, TABLE, tmp_path)
    assert pages.read_claims(tmp_path) == TABLE
    assert path.read_text() == pages.claims_page(CLAIMS, pages.read_claims(tmp_path)) + "\n"


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 2, "rows": []}', '{"rows": [{"plugin": 1}]}'])
def test_another_file_is_refused(text, tmp_path):
    (tmp_path / pages.DATA).write_text(text)
    with pytest.raises(UsageError, match="no table of claims; write it with moatbench claims"):
        pages.read_claims(tmp_path)


def test_a_row_of_an_unknown_claim_is_refused():
    row = ClaimRow(plugin="rounded", defense="rounded", strength="published", claim="gone")
    with pytest.raises(UsageError, match="no claim 'gone' is known"):
        pages.claims_page(CLAIMS, ClaimTable(rows=[row]))


def test_an_index_writes_the_page_anew_and_links_it(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/report.md").write_text("# One\n")
    path = pages.write_claims(published_claims(), ClaimTable(rows=[]), tmp_path)
    kept = path.read_text()
    path.write_text("edited")
    pages.rewrite_page(tmp_path)
    assert path.read_text() == kept
    assert f"]({pages.PAGE})" in write_index(tmp_path).read_text()


def test_stores_of_one_matrix_keep_names_of_their_own(tmp_path):
    paths = [tmp_path / name for name in ("a.sqlite", "b.sqlite")]
    for path in paths:
        with Store(path, create=True) as store:
            store.set_meta(META)
            store.set_plan(PlannedTask(each.key, each.task) for each in RECORDS)
            for record in RECORDS:
                store.put(record)
    both = pages.claims_of(CLAIMS, paths)
    assert [source.run for source in both.sources] == ["made", f"made ({paths[1]})"]
    assert pages.claims_of(CLAIMS, paths[:1]) == TABLE
    with pytest.raises(UsageError, match="named twice"):
        pages.claims_of(CLAIMS, [paths[0], paths[0]])


def test_the_command_says_what_is_wrong_with_a_store_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "junk.sqlite").write_text("no database")
    for words, fault in (
        ((), "Missing argument"),
        (("gone.sqlite",), "no store"),
        (("junk.sqlite",), "is not"),
    ):
        code, said = moatbench(tmp_path, "claims", *words, "--out", "pages")
        assert (code, "Traceback" in said) == (2, False), said
        assert fault in said
    assert not (tmp_path / "pages").exists()

"""``moatbench show`` and the options of a report."""

import io
import re
from pathlib import Path

import pytest
from programs import program
from records import META, fake_run, stored
from rich.console import Console

from bench.cli import main
from bench.report import store_report
from bench.report.terminal_page import print_page

PAGE = """<!-- study: {} -->
# A page

**Recommendation:** `label_only`. See ![Reduction \\[pp\\] per defense](figures/reduction.svg).

| defense | reduction (pp) |
| --- | ---: |
| an_anaconda_of_a_name_that_has_no_space(at=all,=None) | 5.5 (2.8–8.2) |

[All attacks](attacks.md)
"""
RUN = [each for each in fake_run() if getattr(each.task, "budget", 200) == 200 and each.repeat < 3]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("store") / "store.sqlite", RUN)


def printed(page, *, terminal=False, width=100, **settings):
    file = io.StringIO()
    print_page(page, Console(file=file, force_terminal=terminal, width=width, **settings))
    return file.getvalue()


def words(text):
    return re.sub(r"[\s│┃|]+", " ", text)


def test_show_prints_the_first_page(store, tmp_path):
    done = program(tmp_path, "show", store)
    assert done.returncode == 0, done.stderr
    assert "digits/mlp" in done.stdout
    assert "label_only" in done.stdout
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_read_in_any_width_and_nothing_is_cut_off():
    for width in (20, 24, 40, 200):
        text = printed(PAGE, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        for part in ("Recommendation:", "5.5", "All", "attacks.md"):
            assert part in words(text), (width, part)
        name = re.sub(r"[\s5().82–]", "", text[text.index("an_") : text.index("All")])
        assert "an_anaconda_of_a_name_that_has_no_spaceat=all,=None" in name or "reduction" in name
        assert "study" not in text


def test_colours_are_for_terminals_and_no_color_turns_them_off(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed(PAGE, terminal=True, color_system="standard")
    assert "\x1b" not in printed(PAGE)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = printed(PAGE, terminal=True)
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|38|48)m", plain)


def test_control_characters_of_names_do_not_reach_the_terminal():
    page = "# a\x1b[31mred\x07\x9b2J\u202e\u2028b\n\n| `x\x1b]0;t\x07` |\n| --- |\n| \r\x00\x7f |\n"
    text = printed(page, terminal=True)
    own = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert all(each.isprintable() or each == "\n" for each in own)
    assert r"\x1b[31mred\x07\x9b2J\u202e\u2028b" in own
    assert "[31m" not in re.findall(r"\x1b\[[0-9;]*m", text)


def test_options_of_the_report_replace_those_of_the_matrix(store, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        store_report, "first_page", lambda _records, meta, _missing: seen.append(meta) or "# x"
    )
    command = ["moatbench", "show", str(store), "--sells", "labels", "--accuracy", "0.05", "--quota", "7"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert not stop.value.code, capsys.readouterr().err
    (meta,) = seen
    assert (meta.report.sells, meta.report.accuracy, meta.report.quota) == ("labels", 0.05, 7)
    assert meta.report.rejected == META.report.rejected
    assert meta.matrix == META.matrix


def test_without_out_the_report_goes_where_a_run_writes_it(store):
    assert store_report.default_folder(store) == Path("results/fake")


@pytest.mark.parametrize("name", [None, "", "../up", "/etc", "a/../b", "a/b/c", "~"])
def test_a_store_that_names_no_folder_needs_out(tmp_path, name):
    from bench.errors import UsageError
    from bench.store import Store

    path = stored(tmp_path / "store.sqlite", [])
    with Store(path, create=True) as store:
        store.set_meta(META.model_copy(update={"matrix": name}))
    with pytest.raises(UsageError, match="--out"):
        store_report.default_folder(path)

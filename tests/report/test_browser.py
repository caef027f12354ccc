"""``report.html`` in a real Chromium: it works, and asks nobody for anything."""

import pytest
from browser import chromium, comes_to, errors, opened, requests
from made_report import ROWS, write_report
from records import AUDITS, BUDGETS, DEFENSES, INSIDE, LABELS, SOFT, cell, stored
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from bench.report.html_page import write_html
from bench.report.store_report import write_store_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def of_a_run(tmp_path_factory):
    """The report of a small run."""
    out = tmp_path_factory.mktemp("run")
    cells = [
        cell(INSIDE, defense, attack, budget, repeat)
        for defense in DEFENSES
        for attack in (LABELS, SOFT)
        for budget in BUDGETS
        for repeat in range(2)
    ]
    write_store_report(stored(out / "store.sqlite", [*AUDITS, *cells]), out)
    return out / "report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return write_html(write_report(tmp_path_factory.mktemp("report") / "made"))


def column(table, number):
    """The texts of a column of the rows that are shown, read at once, since it may be drawn meanwhile."""
    texts = "return [...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].innerText.trim())"
    return table.parent.execute_script(texts, table, number)


@pytest.mark.parametrize("page", ["of_a_run", "hostile"])
def test_a_page_asks_nobody_for_anything_and_has_no_error(browser, request, page):
    path = request.getfixturevalue(page)
    opened(browser, path)
    asked = requests(browser)
    assert [url for url in asked if not url.startswith(("file://", "blob:"))] == []
    assert [url for url in asked if url.startswith("file://")] == [path.as_uri()]
    assert errors(browser) == []
    assert int(browser.execute_script("return document.documentElement.dataset.tables")) > 0


def test_texts_run_no_script(browser, hostile):
    opened(browser, hostile)
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2
    assert "<script>alert(1)</script>" in browser.find_element(By.TAG_NAME, "h1").text
    # Even one that came through would not run.
    add = "const one = document.createElement('script'); one.textContent = 'window.ran = 1';"
    browser.execute_script(add + "document.body.append(one)")
    assert browser.execute_script("return window.ran") is None
    browser.get_log("browser")


def test_a_table_is_sorted_by_the_values_of_its_numbers(browser, hostile):
    table = opened(browser, hostile).find_element(By.CSS_SELECTOR, "#report table")
    head = table.find_elements(By.TAG_NAME, "th")[1]
    rising = ["−1,234.5", "2.8 (1.7–3.9)", "> 10.5", "98.5 → 95.1 (2 to 3)"]
    for direction, expected in (("ascending", rising), ("descending", rising[::-1])):
        head.click()
        comes_to(lambda: [text for text in column(table, 1) if text != "–"], expected)
        comes_to(lambda: head.get_attribute("aria-sort"), direction)


def test_a_table_is_filtered_sorted_and_turned_by_keyboard_alone(browser, hostile):
    frame = opened(browser, hostile).find_element(By.CSS_SELECTOR, "#attacks .dt-container")
    table = frame.find_element(By.TAG_NAME, "table")
    assert len(column(table, 0)) == 25
    browser.execute_script("arguments[0].focus()", frame.find_element(By.CSS_SELECTOR, "input[type=search]"))
    typed(browser, "label_only 5")
    expected = [
        attack for attack, defense, number in ROWS if defense == "label_only" and "5" in f"{attack} {number}"
    ]
    comes_to(lambda: column(table, 0), expected)
    typed(browser, Keys.CONTROL + "a")
    typed(browser, Keys.DELETE)
    comes_to(lambda: len(column(table, 0)), 25)
    head = table.find_elements(By.TAG_NAME, "th")[2]
    reached(browser, head)
    typed(browser, Keys.ENTER)
    comes_to(lambda: head.get_attribute("aria-sort"), "ascending")
    typed(browser, Keys.ENTER)
    comes_to(lambda: column(table, 2), [str(number) for _, _, number in reversed(ROWS)][:25])
    reached(browser, frame.find_element(By.CSS_SELECTOR, "button[data-dt-idx=next]"))
    typed(browser, Keys.ENTER)
    comes_to(lambda: column(table, 2), [str(number) for _, _, number in reversed(ROWS)][25:50])


def typed(browser, keys):
    browser.switch_to.active_element.send_keys(keys)


def reached(browser, element):
    """Press the tabulator until the focus is in ``element``."""
    inside = "return arguments[0].contains(document.activeElement)"
    for _ in range(40):
        typed(browser, Keys.TAB)
        if browser.execute_script(inside, element):
            return
    raise AssertionError("the focus never gets there")


def test_figures_are_seen(browser, hostile):
    opened(browser, hostile)
    figures = browser.find_elements(By.CSS_SELECTOR, ".figure svg")
    assert figures
    for figure in figures:
        assert figure.size["width"] > 100
        assert figure.size["height"] > 20
        assert figure.get_attribute("aria-label")


@pytest.mark.parametrize("page", ["of_a_run", "hostile"])
@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_never_scrolls_sideways(browser, request, page, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened(browser, request.getfixturevalue(page))
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_system(browser, of_a_run, scheme, dark):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened(browser, of_a_run)
    found = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color].map("
        "c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3)"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    background, text = found
    assert (background < text) == dark
    assert abs(background - text) > 150


def test_paper_has_every_row(browser, hostile):
    opened(browser, hostile)
    length = "return document.querySelector('#attacks table').tBodies[0].rows.length"
    assert browser.execute_script(length) == 25
    assert browser.execute_script("window.dispatchEvent(new Event('beforeprint'));" + length) == len(ROWS)
    assert browser.execute_script("window.dispatchEvent(new Event('afterprint'));" + length) == 25

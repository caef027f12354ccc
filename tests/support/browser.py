"""A real Chromium for tests of pages, without a window; its traffic and its console are kept."""

import json
import os
import shutil
import time
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "MOATBENCH_REQUIRE_BROWSER"
"""The variable that makes a missing browser a failure."""
OWN = "chrome://"
"""How the addresses of the browser's own pages start; no page from elsewhere can load one."""
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # which root, as in a container, cannot have
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--no-first-run",
    "--window-size=1280,900",
)


@contextmanager
def chromium(folder):
    """A browser whose profile is in ``folder``; skips the test by name where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        reason = "no chromium with chromedriver on PATH (Debian: chromium, chromium-driver)"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{reason}, and {REQUIRED} is set")
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*ARGUMENTS, f"--user-data-dir={folder}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def opened(browser, path):
    """Show a report and wait until its script has done its work."""
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.resolve().as_uri())
    ready = "return document.documentElement.dataset.tables !== undefined"
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(ready))
    return browser


def comes_to(found, expected):
    """Assert that ``found()`` becomes ``expected``: tables are drawn after a key or a click, not at once."""
    deadline = time.monotonic() + 10
    while found() != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found() == expected


def requests(browser):
    """The addresses that pages have asked for since one was opened, without the browser's own."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [each["request"]["url"] for each in sent if not each["documentURL"].startswith(OWN)]


def errors(browser):
    """What pages have written to the console since one was opened."""
    return [entry for entry in browser.get_log("browser") if not entry["message"].startswith(OWN)]

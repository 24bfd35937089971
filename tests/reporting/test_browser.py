"""The report in a real browser: Chromium, where it and its driver are installed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.conftest import Made

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium without a window, which tells what it logs and asks for."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def widths(browser: Any, width: int) -> tuple[int, int]:
    """Of the content and of the window."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    script = "return [document.documentElement.scrollWidth, window.innerWidth]"
    content, window = browser.execute_script(script)
    return content, window


def test_the_page_runs_clean_in_a_browser(made: Made, tmp_path: Path, browser: Any) -> None:
    """No message, no request, nothing of a name runs; it fits 390 and 1280 pixels and paper, sorts,
    is dark at night, and every drawing that is shown has a size.
    """
    file = tmp_path / "report.html"
    file.write_text(made.page, encoding="utf-8")
    browser.get(file.as_uri())
    for width in (1280, 390):
        content, window = widths(browser, width)
        assert content <= window == width
        shown = browser.execute_script(
            "return [...document.querySelectorAll('.chart')].map(c => c.getBoundingClientRect())"
            ".filter(box => box.width).map(box => box.height)"
        )
        assert len(shown) == 6, "one of each two"
        assert min(shown) > 50
    means = (
        "return [...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[2].innerText)"
    )
    press = "[...document.querySelectorAll('.sortable th button')][2].click();"
    falling = [float(text) for text in browser.execute_script(press + means)]
    rising = [float(text) for text in browser.execute_script(press + means)]
    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising) != falling
    head = "return document.querySelectorAll('.sortable th')[2].getAttribute('aria-sort')"
    assert browser.execute_script(head) == "ascending"
    paper = "return getComputedStyle(document.body).backgroundColor"
    day = browser.execute_script(paper)
    night = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": night})
    assert browser.execute_script(paper) != day
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    content, _ = widths(browser, 720)
    assert content <= 720, "as wide as paper"
    assert browser.execute_script("return window.broken === undefined")
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"].split(":")[0]
        for message in sent
        if message["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data"}
    assert len([m for m in sent if m.get("params", {}).get("type") == "Document"]) >= 1

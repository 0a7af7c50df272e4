"""A tab that is opened while the page starts fills itself, also where its first questions are lost."""

from __future__ import annotations

from typing import Any

import pytest

from app.album import open_tab
from app.screenshot import WAIT_S, wait_for

# The first questions never arrive.
LOSE = """
const fetched = window.fetch.bind(window);
window.jpLost = 0;
window.fetch = (what, how) => {
  const url = String(what?.url ?? what);
  if (window.jpHear || !url.includes('queue/join')) return fetched(what, how);
  window.jpLost++;
  return new Promise(() => {});
};
"""
FILLED = {
    "search": "#jp-gallery [data-id]",
    "map": ".jp-map-frame[data-drawn]",
    "probe": "#jp-probe-bench .jp-probe-one",
    "health": ".jp-health-figures, #jp-health-drawn .jp-health-told",
}


@pytest.mark.browser
def test_what_is_asked_before_the_page_answers_is_asked_again(
    driver: Any, digits_page: str
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LOSE})
    try:
        for name, filled in FILLED.items():
            driver.get("about:blank")  # so that the tab opened before is not opened again
            driver.get(digits_page)
            open_tab(driver, name)
            WebDriverWait(driver, WAIT_S).until(lambda d: d.execute_script("return jpLost > 3"))
            assert not driver.find_elements("css selector", filled)
            driver.execute_script("window.jpHear = true")
            wait_for(driver, filled)
    finally:
        told = {"identifier": script["identifier"]}
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", told)

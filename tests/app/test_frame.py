"""The frame of the page in a browser: which tab is open belongs to the place in the browser's history."""

from __future__ import annotations

from typing import Any

import pytest

from app.album import names, open_tab
from app.screenshot import WAIT_S, browser

OPEN = "return document.querySelector('button[role=tab][aria-selected=true]')?.dataset.tabId"


def until(driver: Any, tab: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, WAIT_S).until(lambda d: d.execute_script(OPEN) == tab)


@pytest.mark.browser
def test_the_open_tab_outlives_a_reload_and_back_leads_to_the_one_before(
    driver: Any, digits_page: str
) -> None:
    """In a browser of its own: where 50 places are kept already, one without a person's click goes first."""
    with browser() as own:
        walk(own, digits_page)


def walk(driver: Any, digits_page: str) -> None:
    driver.get(digits_page)
    assert names(driver) == ["search", "map", "probe", "clean", "health"]
    for tab in ("clean", "health"):
        open_tab(driver, tab)
        until(driver, tab)
        driver.refresh()
        until(driver, tab)
    driver.back()
    until(driver, "clean")
    driver.back()
    until(driver, "search")
    driver.forward()
    until(driver, "clean")

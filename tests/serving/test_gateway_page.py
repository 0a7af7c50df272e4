"""The page at /docs, with nothing but this machine at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app import screenshot
from serving.gateway.app import DIALECTS


def test_the_page_names_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    for path in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs-static/{path}" in page.text
        assert http.get(f"/docs-static/{path}").status_code == 200
    assert http.get("/docs-static/../core.py").status_code == 404


@pytest.mark.parametrize("path", DIALECTS)
def test_what_the_page_sends_unless_it_is_changed_is_answered(
    http: httpx.Client, path: str
) -> None:
    told = http.get("/openapi.json").json()["paths"][path]["post"]["requestBody"]["content"]
    answer = http.post(path, json=told["application/json"]["example"])
    assert answer.status_code == 200, answer.text


@pytest.mark.browser
@pytest.mark.skipif(bool(screenshot.missing_browser()), reason=str(screenshot.missing_browser()))
def test_a_browser_without_a_network_shows_every_way_in(gateway: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with screenshot.browser(1200, 1400) as driver:
        driver.get(f"{gateway.url}/docs")
        WebDriverWait(driver, screenshot.WAIT_S).until(
            lambda one: len(one.find_elements(By.CSS_SELECTOR, ".opblock")) > len(DIALECTS)
        )
        shown = [
            one.get_attribute("data-path")
            for one in driver.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")
        ]
        driver.find_element(By.CSS_SELECTOR, ".opblock-summary-control").click()
        WebDriverWait(driver, screenshot.WAIT_S).until(
            lambda one: "on_error" in one.find_element(By.TAG_NAME, "body").text
        )
        driver.save_screenshot(str(tmp_path / "docs.png"))
        asked = [
            urlsplit(event["params"]["request"]["url"])
            for event in (
                json.loads(entry["message"])["message"] for entry in driver.get_log("performance")
            )
            if event["method"] == "Network.requestWillBeSent"
        ]
        problems = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert set(DIALECTS) <= set(shown)
    assert {one.hostname for one in asked if one.scheme.startswith("http")} == {"127.0.0.1"}
    assert not problems

"""Logging in as a person does it: in a browser, and through TLS below a path of a proxy."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from certificates import self_signed
from people import PASSWORD, log_in, web
from pixel_embedder import page_of

from app.screenshot import choose, wait_for


def test_under_tls_the_cookie_is_sent_by_tls_alone_and_a_proxys_place_is_the_pages(
    digits_index: Path, accounts: str, tmp_path: Path
) -> None:
    certificate, key = self_signed(tmp_path)
    door = {
        "host": "127.0.0.1",
        "auth": accounts,
        "tls_cert": str(certificate),
        "tls_key": str(key),
    }
    public = "https://photos.example/jepack"
    context = ssl.create_default_context(cafile=str(certificate))
    with page_of(digits_index, **door, public_url=public) as url:
        assert url.startswith("https://127.0.0.1:")
        with web(url, verify=context) as http:
            cookie = log_in(http).headers["set-cookie"]
            assert cookie.startswith(f"__Host-jepack-{urlsplit(url).port}=")
            for word in ("Secure", "HttpOnly", "Path=/", "SameSite=lax"):
                assert word in cookie
            assert "Domain" not in cookie
            assert http.get("/config").json()["root"] == public
            names = {"Host": "photos.example", "Origin": "https://photos.example"}
            assert http.get("/config", headers=names).status_code == 200
            assert http.get("/config", headers=names | {"Host": "127.0.0.1:1"}).status_code == 200
            wrong = names | {"Origin": "http://photos.example"}
            assert http.get("/config", headers=wrong).status_code == 403


@pytest.mark.browser
def test_a_person_logs_in_searches_and_logs_out(driver: Any, guarded: str) -> None:
    driver.get("about:blank")
    driver.get_log("performance")
    driver.get(guarded + "/#k=4")
    wait_for(driver, "input[name=user]")[0].send_keys("anna")
    wait_for(driver, "input[name=password]")[0].send_keys("a guess")
    wait_for(driver, "form button")[0].click()
    assert "Wrong user name or password." in wait_for(driver, "[role=alert]")[0].text
    wait_for(driver, "input[name=user]")[0].send_keys("anna")
    wait_for(driver, "input[name=password]")[0].send_keys(PASSWORD)
    wait_for(driver, "form button")[0].click()
    assert "anna" in wait_for(driver, ".jp-out bdi:not(:empty)")[0].text
    assert driver.current_url.startswith(guarded + "/#")  # what was asked for is not lost
    choose(driver)
    assert len(wait_for(driver, ".jp-card")) == 10
    assert driver.execute_script("return document.cookie") == ""
    wait_for(driver, ".jp-out button")[0].click()
    wait_for(driver, "input[name=password]")
    assert not driver.find_elements("css selector", ".jp-card")
    asked = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = urlsplit(message["params"]["request"]["url"])
            if address.scheme not in ("data", "blob", "chrome", "about"):
                asked.add(address.netloc)
    assert asked == {urlsplit(guarded).netloc}

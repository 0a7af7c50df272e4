"""The page asked over HTTP, by people who may and by people who must not."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from people import log_in, web
from pixel_embedder import ANSWERED

from app.door.guard import OPEN
from app.visitor import COOKIE


def raw(url: str, method: str, target: str, **headers: str) -> tuple[int, bytes]:
    """(status, body) of a path that is sent as it stands."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
    try:
        connection.putrequest(method, target, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_without_login_every_address_is_closed(guarded: str) -> None:
    asked = set(ANSWERED[guarded])
    assert {("GET", "/jepack/search/full"), ("GET", "/jepack/map/points")} <= asked
    assert {("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/file=x")} <= asked
    assert len(asked) > 80
    with web(guarded) as http:
        for method, path in sorted(asked - {("POST", "/login"), ("POST", "/login/")}):
            answer = http.request(method, path, json={} if method == "POST" else None)
            wanted = 405 if (method, path) == ("GET", "/logout") else 401
            assert answer.status_code == wanted, (method, path)
            assert len(answer.content) < 5000, (method, path)
            assert "digit" not in answer.text.lower(), (method, path)  # the name of the index


def test_with_login_what_the_page_does_not_need_is_closed(anna: httpx.Client, guarded: str) -> None:
    closed = [one for one in ANSWERED[guarded] if not OPEN.fullmatch(one[1])]
    closed = [one for one in closed if one[1] not in ("/login", "/logout")]
    assert ("GET", "/gradio_api/proxy=x") in closed
    assert ("POST", "/gradio_api/component_server") in closed
    for method, path in closed:
        answer = anna.request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == 404, (method, path)


def test_a_login_opens_the_page_and_a_logout_closes_it(guarded: str) -> None:
    with web(guarded) as http:
        first = http.get("/")
        assert first.status_code == 401
        assert 'name="password"' in first.text
        assert "default-src 'none'" in first.headers["content-security-policy"]
        assert "://" not in first.text  # it loads nothing
        wrong = log_in(http, password="a guess")
        assert wrong.status_code == 401
        assert "Wrong user name or password." in wrong.text
        assert not http.cookies
        assert log_in(http, user="nobody").text == wrong.text
        done = log_in(http)
        assert (done.status_code, done.headers["location"]) == (303, "./")
        cookie = done.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert "secure" not in cookie
        assert "path=/" in cookie
        page = http.get("/")
        assert page.status_code == 200
        assert "gradio_config" in page.text
        assert page.headers["cache-control"] == "no-store"
        assert http.get("/jepack/map/points").status_code == 200
        kept = dict(http.cookies)
        out = http.post("/logout")
        assert (out.status_code, out.headers["location"]) == (303, "./")
        assert set(http.cookies) <= {COOKIE}  # which browser it is, and opens nothing
        for cookies in ({}, kept):
            http.cookies.update(cookies)
            assert http.get("/jepack/map/points").status_code == 401
            assert http.get("/config").status_code == 401


def test_a_cookie_that_was_made_up_opens_nothing(anna: httpx.Client, guarded: str) -> None:
    [(name, token)] = anna.cookies.items()
    for made in ("", "x", token[:-1], token + "x", token.swapcase(), "\u00e9"):
        with web(guarded, headers={"Cookie": f"{name}={made}".encode()}) as http:
            assert http.get("/config").status_code == 401


def test_after_four_wrong_passwords_the_right_one_waits_too(guarded: str) -> None:
    """Of one address, which a proxy on this machine tells."""
    with web(guarded, headers={"X-Forwarded-For": "192.0.2.1"}) as http:
        told = [log_in(http, password="a guess").status_code for _ in range(4)]
        assert told == 4 * [401]
        late = [
            log_in(http, password="a guess") for _ in range(3)
        ]  # slower than they wait, at times
        assert {one.status_code for one in late} <= {401, 429}
        for one in late:
            if one.status_code == 429:
                assert int(one.headers["retry-after"]) >= 1
                assert "Too many wrong passwords" in one.text
    with web(guarded, headers={"X-Forwarded-For": "192.0.2.2, 192.0.2.3"}) as http:
        assert log_in(http).status_code == 303


def test_forms_that_are_none_are_refused(guarded: str) -> None:
    with web(guarded) as http:
        for body in (b"", b"user=anna", b"\xff\xfe", b"user=anna&password=" + 20_000 * b"x"):
            assert http.post("/login", content=body).status_code == 400
        assert http.put("/login").status_code == 405


@pytest.mark.parametrize("page", ["digits_page", "guarded"])
def test_a_page_from_elsewhere_is_refused(page: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(page)
    where = urlsplit(url).netloc
    with web(url) as http:
        if page == "guarded":
            log_in(http)
        for path in ("/config", "/jepack/map/points", "/gradio_api/heartbeat/x"):
            for origin in (
                "https://evil.example",
                "null",
                f"https://{where}",
                f"{url}0",
                "http://localhost",
            ):
                assert http.get(path, headers={"Origin": origin}).status_code == 403
            for site in ("cross-site", "same-site"):
                told = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
                assert http.get(path, headers=told).status_code == 403
        linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert http.get("/", headers=linked).status_code == 200
        assert http.get("/config", headers={"Origin": url}).status_code == 200
        for method in ("/login", "/logout", "/gradio_api/queue/join", "/gradio_api/upload"):
            told = {"Origin": "https://evil.example"}
            assert http.post(method, headers=told).status_code == 403
        before = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        answer = http.options("/gradio_api/queue/join", headers=before)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
        for host in (
            "evil.example",
            f"evil.example:{urlsplit(url).port}",
            "203.0.113.7",
            "[",
            "a@b@c",
        ):
            assert http.get("/config", headers={"Host": host}).status_code == 400
        assert http.get("/config", headers={"Host": "localhost:1"}).status_code == 200
    assert raw(url, "GET", "/config", Host="")[0] == 400


TRAVERSALS = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=../../../../etc/passwd",
    "/gradio_api/file=%2Fetc%2Fpasswd",
    "/gradio_api/file=//etc/passwd",
    "/gradio_api/file=file:///etc/passwd",
    "/gradio_api/file=/proc/self/environ",
    "/gradio_api/file/etc/passwd",
    "/file=/etc/passwd",
    "/file/etc/passwd",
    "/gradio_api/file=http://169.254.169.254/latest/meta-data/",
    "/gradio_api/proxy=http://127.0.0.1:CANARY/",
    "/gradio_api/proxy=https://x.hf.space@127.0.0.1:CANARY/",
    "/proxy=http://127.0.0.1:CANARY/",
    "/gradio_api/file=http://127.0.0.1:CANARY/a.png",
    "/gradio_api/file=http:/127.0.0.1:CANARY/a.png",
    "/static/../../../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/static/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/static//etc/passwd",
    "/assets/../../../../../../etc/passwd",
    "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets//etc/passwd",
    "/svelte/../../../../../../etc/passwd",
    "/svelte/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/svelte//etc/passwd",
    "/gradio_api/custom_component/1/client/component/..%2f..%2f..%2fetc%2fpasswd",
    "/jepack/search/full?id=/etc/passwd",
    "/jepack/search/full?id=../../../../../etc/passwd",
    "/jepack/search/full?id=digit-1/../../../../etc/passwd",
    "/jepack/search/full?id=digit-1%2f..%2f..%2findex.json",
    "/jepack/search/full?id=/etc/passwd%00.png",
    "/jepack/search/full?id=http://127.0.0.1:CANARY/a.png",
    "/jepack/map/..%2f..%2fetc%2fpasswd",
    "/jepack/map/points?layout=../../../../etc/passwd",
    "/gradio_api/stream/x/x/1/playlist-file",
    "/gradio_api/deep_link?session_hash=x",
    "/?deep_link=../../../../etc/passwd",
    "/monitoring",
    "/monitoring/summary",
]


@pytest.mark.parametrize("page", ["digits_page", "guarded"])
def test_no_file_and_no_address_is_handed_out(
    page: str, request: pytest.FixtureRequest, canary: tuple[int, Any]
) -> None:
    url, (port, came) = request.getfixturevalue(page), canary
    cookie: dict[str, str] = {}
    if page == "guarded":
        for target in TRAVERSALS:
            assert raw(url, "GET", target)[0] == 401, target
        with web(url) as http:
            log_in(http)
            [(name, token)] = http.cookies.items()
            cookie = {"Cookie": f"{name}={token}"}
    for target in TRAVERSALS:
        status, body = raw(url, "GET", target.replace("CANARY", str(port)), **cookie)
        ignored = target.startswith(("/?", "/jepack/map/points?"))  # what is asked so means nothing
        assert status == 200 if ignored else status in (400, 403, 404), target
        assert b"root:" not in body, target
    assert not came()

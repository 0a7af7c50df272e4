"""Requests without room, told by their heads: as the application tells them, and the connection goes on."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h11
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import data_url, png
from slow_engine import Slow, wait_until

from serving.gateway import Gateway, Keys, Limits
from serving.gateway.door import head_of

BODY = {"input": data_url(png())}
KEY = "a-key-of-sixteen-characters"
FEW = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def full(embedded: Any, keys: Keys | None = None) -> Iterator[tuple[Gateway, Slow]]:
    """A gateway with one request at the engine and one that waits, as many as it takes."""
    slow, head = Slow(embedded), {"authorization": f"Bearer {KEY}"}
    with (
        Gateway(slow, port=0, limits=Limits(workers=1, waiting=1), keys=keys) as one,
        ThreadPoolExecutor(2) as pool,
        httpx.Client(base_url=one.url, trust_env=False, timeout=60, headers=head) as http,
    ):
        try:
            pool.submit(http.post, "/v1/embeddings", json=BODY)
            assert slow.begun.acquire(timeout=300)
            pool.submit(http.post, "/v1/embeddings", json=BODY)
            wait_until(lambda: "jepack_waiting 1.0" in http.get("/metrics").text)
            yield one, slow
        finally:
            slow.let.set()


@pytest.fixture
def busy(embedded: Any) -> Iterator[tuple[Gateway, Slow]]:
    with full(embedded) as found:
        yield found


def answer_of(line: socket.socket) -> tuple[int, dict[str, str], Any]:
    """(status, headers, JSON) of the next answer; nothing beyond it is read."""
    with line.makefile("rb", buffering=0) as stream:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = stream.read(1)
            assert byte, head
            head += byte
        first, *lines = head.decode().strip().split("\r\n")
        headers = {k.lower(): v for k, v in (one.split(": ", 1) for one in lines)}
        body = b""
        while len(body) < int(headers["content-length"]):
            body += stream.read(int(headers["content-length"]) - len(body)) or b""
    return int(first.split()[1]), headers, json.loads(body)


def post(body: bytes, host: str = "127.0.0.1", *more: str) -> bytes:
    lines = ["POST /v1/embeddings HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    head = "\r\n".join([*lines, "Content-Type: application/json", *more, "", ""])
    return head.encode() + body


def connected(one: Gateway) -> socket.socket:
    return socket.create_connection((one.host, one.port), timeout=60)


def test_the_answer_is_that_of_the_application(busy: Any) -> None:
    one, _ = busy
    body = json.dumps(BODY).encode()
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    plain = post(body, "127.0.0.1", "X-Request-Id: mine")
    the_long_way = plain[: -len(body)].replace(
        b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"
    )
    answers = []
    for request in (plain, the_long_way + chunks):
        with connected(one) as line:
            line.sendall(request)
            answers.append(answer_of(line))
    (status, short, told), (also, long, said) = answers
    assert status == also == 429
    assert told == said
    assert (told["error"]["code"], told["request_id"]) == ("overloaded", "mine")
    assert short.keys() == long.keys()
    assert 1 <= int(short["retry-after"]) <= 60
    page = httpx.get(f"{one.url}/metrics", trust_env=False).text
    assert 'jepack_requests_total{route="none",status="429"} 2.0' in page


def test_the_connection_goes_on_wherever_the_body_is_cut(busy: Any) -> None:
    one, slow = busy
    request = post(b"x" * 5000)
    get = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = len(request) - 5000
    with connected(one) as line:
        for cut in (head, head + 1, head + 4999, len(request)):
            line.sendall(request[:cut])
            assert answer_of(line)[0] == 429
            line.sendall(request[cut:] + get)
            assert answer_of(line)[2] == {"status": "live"}
        line.sendall(request + request + get)  # at once, one after another
        assert [answer_of(line)[0] for _ in range(3)] == [429, 429, 200]
        slow.let.set()
        wait_until(lambda: not one.limits.waiting or room(one))
        line.sendall(post(json.dumps(BODY).encode()))
        status, _, told = answer_of(line)
        assert (status, len(told["data"])) == (200, 1)


def room(one: Gateway) -> bool:
    page = httpx.get(f"{one.url}/metrics", trust_env=False).text
    return "jepack_waiting 0.0" in page and "jepack_working 0.0" in page


def test_who_may_not_ask_is_not_told_how_busy_it_is(embedded: Any, busy: Any) -> None:
    with connected(busy[0]) as line:
        line.sendall(post(b"{}", "evil.example"))
        assert answer_of(line)[0] == 403
    with full(embedded, Keys(text=KEY)) as (one, _):
        for head, want in (("X-Api-Key: wrong", 401), (f"Authorization: Bearer {KEY}", 429)):
            with connected(one) as line:
                line.sendall(post(b"{}", "127.0.0.1", head))
                assert answer_of(line)[0] == want


def test_a_body_too_large_is_told_as_such(busy: Any) -> None:
    one, _ = busy
    with connected(one) as line:
        line.sendall(
            post(b"")[:-4].replace(b"Content-Length: 0", b"Content-Length: 99999999") + b"\r\n\r\n"
        )
        assert answer_of(line)[0] in (413, 429)


LINES = st.sampled_from([
    "Host: a", "Content-Length: 3", "content-length: 3", "Content-Length: +3", "Content-Length: 03", "A:b",
    "A : b", " folded", "Transfer-Encoding: chunked", "Connection: close", "Connection: keep-alive",
    "X: \x00",
    "Expect: 100-continue", "Content-Length: 3, 3", "X:\ty\t", "Upgrade: h2c", "no colon", "",
])  # fmt: skip
FIRST = st.sampled_from([
    "POST /v1/embeddings HTTP/1.1", "POST /a?b=c HTTP/1.1", "GET / HTTP/1.1", "POST / HTTP/1.0",
    "POST  / HTTP/1.1", "POST http://a/ HTTP/1.1", "post / HTTP/1.1", "POST /\u00e9 HTTP/1.1",
    "POST / HTTP/1.1 ",
])  # fmt: skip


@FEW
@given(first=FIRST, lines=st.lists(LINES, max_size=5), ending=st.sampled_from(["\r\n", "\n"]))
def test_what_is_read_here_is_what_h11_reads(first: str, lines: list[str], ending: str) -> None:
    data = ending.join([first, *lines, "", ""]).encode("latin-1") + b"xyz"
    head = head_of(data, 16_384)
    if head is None:
        return
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(data)
    event = conn.next_event()
    assert isinstance(event, h11.Request)
    assert event.target.decode().partition("?")[0] == head.path
    assert list(event.headers) == head.headers.raw
    rest = conn.next_event()
    size = len(rest.data) if isinstance(rest, h11.Data) else 0
    assert (size, len(data) - head.size) == (head.body, 3)


def test_an_ordinary_head_is_read() -> None:
    request = httpx.Request("POST", "http://127.0.0.1:8080/v1/embeddings?x=1", json=BODY)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    data = "\r\n".join(["POST /v1/embeddings?x=1 HTTP/1.1", *lines, "", ""]).encode()
    head = head_of(data + request.content, 16_384)
    assert head is not None
    assert (head.path, head.size, head.body) == ("/v1/embeddings", len(data), len(request.content))
    assert head_of(data, len(data) - 1) is None
    assert head_of(data[:-1], 16_384) is None

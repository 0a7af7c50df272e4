"""What the gateway refuses before it costs anything, and how it ends."""

from __future__ import annotations

import json
import logging
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import self_signed
from pictures import data_url, png
from slow_engine import LONG_S, Slow, wait_until
from typer.testing import CliRunner

from jepack.cli import app
from jepack.client import Client
from jepack.errors import ConfigError, ServerError
from serving.gateway import Gateway, Keys, Limits
from serving.gateway.server import log_to

ONE = data_url(png(7))
BODY = {"input": ONE}
KEY, OTHER, THIRD = (
    "a-key-of-sixteen-characters",
    "another-key-of-sixteen",
    "a-third-key-of-sixteen",
)


def client(gateway: Gateway, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, trust_env=False, timeout=LONG_S, **options)


@pytest.fixture
def slow(embedded: Any) -> Iterator[Slow]:
    engine = Slow(embedded)
    yield engine
    engine.let.set()


@pytest.fixture(scope="module")
def small(embedded: Any) -> Iterator[httpx.Client]:
    limits = Limits(body=100_000, items=3, image=5_000, pixels=10_000, header=4_096)
    with Gateway(embedded, port=0, limits=limits) as one, client(one) as http:
        yield http


def padded(size: int) -> bytes:
    """A sound request of exactly so many bytes."""
    body = json.dumps(BODY).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_taken_up_to_the_limit_and_not_one_byte_more(
    small: httpx.Client, chunked: bool
) -> None:
    def post(size: int) -> httpx.Response:
        data: Any = padded(size)
        content = iter([data[:50_000], data[50_000:]]) if chunked else data
        return small.post(
            "/v1/embeddings", content=content, headers={"content-type": "application/json"}
        )

    assert post(100_000).status_code == 200
    refused = post(100_001)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
    assert post(99_999).status_code == 200


def test_a_compressed_body_is_not_unpacked(small: httpx.Client) -> None:
    answer = small.post("/v1/embeddings", content=b"x", headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "compressed_body")


@pytest.mark.parametrize(
    ("items", "code", "param"),
    [
        ([ONE] * 4, "too_many_items", None),
        ([ONE, data_url(b"x" * 5_001)], "image_too_large", "input[1]"),
        ([ONE, data_url(png(1, (101, 100)))], "too_many_pixels", "input[1]"),
    ],
)
def test_items_have_limits_in_number_bytes_and_pixels(
    small: httpx.Client, items: list[str], code: str, param: str | None
) -> None:
    answer = small.post("/v1/embeddings", json={"input": items})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (413, code, param)


def test_a_form_has_the_same_limits(small: httpx.Client) -> None:
    answer = small.post("/v1/embeddings", files=[("f", png())] * 4)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_items")


def raw(http: httpx.Client, data: bytes) -> bytes:
    """What comes back on a connection that sends this and no more, until the server closes it."""
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=LONG_S) as one:
        one.sendall(data)
        found = b""
        while part := one.recv(65_536):
            found += part
    return found


def test_a_client_that_never_ends_its_headers_is_given_up(embedded: Any) -> None:
    with Gateway(embedded, port=0, limits=Limits(header_s=0.3)) as one, client(one) as http:
        assert raw(http, b"GET /v1/models HTTP/1.1\r\nhost: 127") == b""


def test_a_client_that_never_sends_its_body_is_told_so(embedded: Any) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 50\r\n\r\n{"
    limits = Limits(header_s=LONG_S, body_s=0.3)
    with Gateway(embedded, port=0, limits=limits) as one, client(one) as http:
        answer = raw(http, head)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"slow_body" in answer


def test_a_client_that_goes_on_after_its_answer_is_given_up(embedded: Any) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 50\r\n\r\n{"
    with Gateway(embedded, port=0, limits=Limits(header_s=2)) as one, client(one) as http:
        assert raw(http, head).startswith(b"HTTP/1.1 404")


def test_a_client_that_takes_nothing_of_its_answer_is_given_up(embedded: Any) -> None:
    """More of it than the system holds for a connection."""
    ask = b"GET /docs-static/swagger-ui-bundle.js HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with (
        Gateway(embedded, port=0, limits=Limits(unread_s=0.3)) as one,
        socket.create_connection(("127.0.0.1", one.port), timeout=LONG_S) as unread,
        client(one) as http,
    ):
        unread.sendall(ask * 20)
        wait_until(lambda: cannot_send(unread, b"\r\n"))
        assert http.get("/health/live").status_code == 200


def cannot_send(connection: socket.socket, data: bytes) -> bool:
    """Whether the other side has ended it."""
    try:
        connection.sendall(data)
    except ConnectionError:
        return True
    return False


def test_connections_beyond_the_limit_are_told_so(embedded: Any) -> None:
    with Gateway(embedded, port=0, limits=Limits(connections=1)) as one, client(one) as http:
        assert http.get("/health/live").status_code == 200
        answer = raw(http, b"")
        assert answer.startswith(b"HTTP/1.1 503")
        assert (
            json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
        )
        assert http.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"a" * 8_000,
        b"NOT HTTP AT ALL\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_json_too(small: httpx.Client, data: bytes) -> None:
    head, _, body = raw(small, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "invalid_http"


def test_requests_beyond_the_queue_are_told_when_to_come_again(slow: Slow) -> None:
    limits = Limits(workers=1, waiting=1, request_s=LONG_S)
    with (
        Gateway(slow, port=0, limits=limits) as one,
        ThreadPoolExecutor(2) as pool,
        client(one) as http,
    ):
        first = pool.submit(http.post, "/v1/embeddings", json=BODY)
        assert slow.begun.acquire(timeout=LONG_S)
        second = pool.submit(http.post, "/v1/embeddings", json=BODY)
        wait_until(lambda: "jepack_waiting 1.0" in http.get("/metrics").text)
        third = http.post("/v1/embeddings", json=BODY)
        assert (third.status_code, third.json()["error"]["code"]) == (429, "overloaded")
        assert 1 <= int(third.headers["retry-after"]) <= 60
        slow.let.set()
        assert (first.result().status_code, second.result().status_code) == (200, 200)
        assert http.post("/v1/embeddings", json=BODY).status_code == 200


def test_bodies_together_have_a_limit(slow: Slow) -> None:
    limits = Limits(bodies=len(json.dumps(BODY)) + 100, request_s=LONG_S)
    with (
        Gateway(slow, port=0, limits=limits) as one,
        ThreadPoolExecutor(1) as pool,
        client(one) as http,
    ):
        first = pool.submit(http.post, "/v1/embeddings", json=BODY)
        assert slow.begun.acquire(timeout=LONG_S)
        assert http.post("/v1/embeddings", json=BODY).status_code == 429
        slow.let.set()
        assert first.result().status_code == 200
        assert http.post("/v1/embeddings", json=BODY).status_code == 200
        assert "jepack_body_bytes 0.0" in http.get("/metrics").text


def test_a_deadline_answers_while_the_engine_is_left_to_end(slow: Slow) -> None:
    limits = Limits(workers=1, request_s=0.3)
    with Gateway(slow, port=0, limits=limits) as one, client(one) as http:
        late = http.post("/v1/embeddings", json=BODY)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")
        waited = http.post("/v1/embeddings", json=BODY)
        assert (waited.status_code, waited.json()["error"]["code"]) == (503, "deadline")
        slow.let.set()
        wait_until(lambda: "jepack_working 0.0" in http.get("/metrics").text)


def test_requests_in_flight_are_answered_when_it_stops(slow: Slow) -> None:
    one = Gateway(slow, port=0, limits=Limits(request_s=LONG_S)).start()
    with ThreadPoolExecutor(2) as pool, client(one) as http:
        first = pool.submit(http.post, "/v1/embeddings", json=BODY)
        assert slow.begun.acquire(timeout=LONG_S)
        stopping = pool.submit(one.stop)
        wait_until(lambda: refuses(one))
        slow.let.set()
        stopping.result()
        assert first.result().status_code == 200
    assert not one.running()


def refuses(gateway: Gateway) -> bool:
    try:
        socket.create_connection(("127.0.0.1", gateway.port), timeout=LONG_S).close()
    except OSError:
        return True
    return False


def test_clients_that_vanish_harm_nobody(gateway: Gateway, http: httpx.Client) -> None:
    body = json.dumps(BODY).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    for number in range(30):
        with socket.create_connection(("127.0.0.1", gateway.port)) as one:
            sent = head + f"content-length: {len(body)}\r\n\r\n".encode() + body
            one.sendall(sent if number % 2 else sent[: len(sent) // 2])
    wait_until(lambda: http.post("/v1/embeddings", json=BODY).status_code == 200)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# of the team\n{KEY}\n\n{OTHER}\n")
    return path


def status(http: httpx.Client, **headers: str) -> int:
    return http.get(
        "/v1/models", headers={k.replace("_", "-"): v for k, v in headers.items()}
    ).status_code


def test_any_of_the_keys_opens_and_nothing_else(embedded: Any, key_file: Path) -> None:
    with Gateway(embedded, port=0, keys=Keys(key_file)) as one, client(one) as http:
        assert status(http, authorization=f"Bearer {KEY}") == 200
        assert status(http, authorization=f"bearer {OTHER}") == 200
        assert status(http, x_api_key=KEY) == 200
        for wrong in (
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            KEY,
            "Bearer",
            "Basic abc",
            "Bearer # of",
        ):
            assert status(http, authorization=wrong) == 401
        answer = http.get("/v1/models")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "authentication_error"
        assert [status_of(http, path) for path in ("/metrics", "/openapi.json", "/nowhere")] == [
            401
        ] * 3
        assert [status_of(http, path) for path in ("/health/live", "/health/ready")] == [200] * 2


def status_of(http: httpx.Client, path: str) -> int:
    return http.get(path).status_code


def test_a_large_body_with_a_wrong_key_gets_its_answer(
    embedded: Any, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.gateway.stream.DRAINED_S", LONG_S)
    with Gateway(embedded, port=0, keys=Keys(key_file)) as one, client(one) as http:
        assert http.post("/v1/embeddings", content=b"x" * 20_000_000).status_code == 401


def test_a_body_without_a_key_is_not_waited_for(
    embedded: Any, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.gateway.stream.DRAINED_S", 0.2)
    with Gateway(embedded, port=0, keys=Keys(key_file)) as one, client(one) as http:
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
        assert raw(http, head).startswith(b"HTTP/1.1 401")


def test_a_key_file_that_is_not_taken_is_told_once_and_without_its_text(
    embedded: Any, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "jepack.gateway"),
        Gateway(embedded, port=0, keys=Keys(key_file)) as one,
        client(one) as http,
    ):
        for text, told in (("short", "key 1 is not one"), (None, "No such file"), (THIRD, None)):
            caplog.clear()
            key_file.unlink() if text is None else key_file.write_text(text)
            for _ in range(3):
                assert status(http, authorization=f"Bearer {KEY}") == (200 if told else 401)
            lines = [one.getMessage() for one in caplog.records]
            assert len(lines) == (1 if told else 0)
            assert all(told in line and "the keys stay" in line for line in lines)
            assert all("short" not in line for line in lines)


def test_keys_are_changed_without_a_restart(embedded: Any, key_file: Path) -> None:
    with Gateway(embedded, port=0, keys=Keys(key_file)) as one, client(one) as http:
        new = key_file.with_name("new")
        new.write_text(f"{THIRD}\n")
        new.replace(key_file)
        assert status(http, authorization=f"Bearer {THIRD}") == 200
        assert status(http, authorization=f"Bearer {KEY}") == 401
        key_file.write_text("short\n")  # half-written: what was known stays
        assert status(http, authorization=f"Bearer {THIRD}") == 200
        key_file.unlink()
        assert status(http, authorization=f"Bearer {THIRD}") == 200
        key_file.write_text("")
        assert status(http, authorization=f"Bearer {THIRD}") == 401


@pytest.mark.parametrize(
    ("text", "word"), [("", "no key"), ("# none\n", "no key"), ("short\n", "16"), ("a b" * 9, "16")]
)
def test_a_file_without_good_keys_is_refused_at_the_start(
    tmp_path: Path, text: str, word: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        Keys(path)


def test_keys_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    monkeypatch.delenv("JEPACK_KEYS", raising=False)
    assert Keys.chosen(None) is None
    monkeypatch.setenv("JEPACK_KEYS", f"{THIRD},{OTHER}")
    chosen = Keys.chosen(None)
    assert chosen is not None
    assert chosen.open_to(THIRD)
    assert not chosen.open_to(KEY)
    with pytest.raises(ConfigError, match="nowhere"):
        Keys.chosen(key_file.with_name("nowhere"))


def test_a_certificate_makes_it_https(embedded: Any, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with Gateway(embedded, port=0, certificate=certificate) as one:
        assert one.url.startswith("https://")
        with httpx.Client(base_url=one.url, trust_env=False, verify=context) as http:
            assert http.post("/v1/embeddings", json=BODY).status_code == 200
        plain = Client(one.url.replace("https", "http"), timeout_s=60)
        assert f"it speaks TLS: {one.url}" in (plain.diagnose(timeout_s=60) or "")
        done = CliRunner().invoke(app, ["drift", one.url])
        assert "JEPACK_CA_FILE=FILE" in str(done.exception)
        assert "Start it" not in str(done.exception)


def test_other_machines_need_a_key(embedded: Any, key_file: Path) -> None:
    with pytest.raises(ConfigError, match="--key-file"):
        Gateway(embedded, host="0.0.0.0", port=0)
    Gateway(embedded, host="0.0.0.0", port=0, keys=Keys(key_file))  # not started


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("host", "attacker.example", "host_not_here"),
        ("host", "127.0.0.1.attacker.example:80", "host_not_here"),
        ("origin", "https://attacker.example", "origin_not_here"),
        ("origin", "null", "origin_not_here"),
    ],
)
def test_a_web_page_from_elsewhere_cannot_ask_this_machine(
    http: httpx.Client, name: str, value: str, code: str
) -> None:
    answer = http.get("/v1/models", headers={name: value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    here = {"host": "localhost:1", "origin": "http://localhost:3000"}
    assert http.get("/v1/models", headers=here).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "options", "told"),
    [
        ("GET", "/", {}, "/docs lists what there is"),
        ("GET", "/v1/embeddings", {}, "it takes POST"),
        (
            "POST",
            "/v1/embeddings",
            {"data": {"input": ONE}},
            "needs -H 'content-type: application/json'",
        ),
    ],
)
def test_what_a_first_try_gets_wrong_is_told_with_the_way_out(
    http: httpx.Client, method: str, path: str, options: dict[str, Any], told: str
) -> None:
    assert told in http.request(method, path, **options).json()["error"]["message"]


def test_a_port_that_is_taken_is_told(embedded: Any, gateway: Gateway) -> None:
    with pytest.raises(ServerError, match="another port"):
        Gateway(embedded, port=gateway.port).start()


def test_the_log_tells_each_request_and_neither_image_nor_key(
    embedded: Any, key_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "log" / "gateway.log"
    handler = log_to(file)
    try:
        head = {"authorization": f"Bearer {KEY}"}
        with (
            Gateway(embedded, port=0, keys=Keys(key_file)) as one,
            client(one, headers=head) as http,
        ):
            http.post("/v1/embeddings", json=BODY, headers={"x-request-id": "mine"})
            http.post("/v1/embeddings", json={"input": [ONE, "word"]})
    finally:
        logging.getLogger("jepack.gateway").removeHandler(handler)
        logging.getLogger("uvicorn.error").removeHandler(handler)
        handler.close()
    text = file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in lines] == [200, 400]
    assert (lines[0]["request_id"], lines[0]["images"]) == ("mine", 1)
    assert KEY not in text
    assert ONE[-30:-10] not in text

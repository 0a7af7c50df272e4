"""What nobody waits for any more is not computed, and its caller is told."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from pictures import data_url, png
from PIL import Image
from slow_engine import Slow, wait_until

from jepack.bundle import Bundle
from jepack.client import BusyError
from serving.gateway import Gateway, Limits, TritonEngine

BODY = {"input": data_url(png(7))}


@pytest.fixture
def slow(embedded: Any) -> Iterator[Slow]:
    engine = Slow(embedded)
    yield engine
    engine.let.set()


def client(gateway: Gateway) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, trust_env=False, timeout=300)


@pytest.mark.parametrize("name", ["x-request-timeout", "x-stainless-read-timeout"])
def test_a_caller_says_how_long_it_waits(slow: Slow, name: str) -> None:
    with Gateway(slow, port=0, limits=Limits(workers=1)) as one, client(one) as http:
        late = http.post("/v1/embeddings", json=BODY, headers={name: "0.2"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")
        behind = http.post("/v1/embeddings", json=BODY, headers={name: "0.2"})
        assert (behind.status_code, behind.json()["error"]["code"]) == (503, "deadline")
        assert int(behind.headers["retry-after"]) >= 1
        slow.let.set()
        wait_until(lambda: "jepack_working 0.0" in http.get("/metrics").text)
        assert http.post("/v1/embeddings", json=BODY, headers={name: "600"}).status_code == 200


@pytest.mark.parametrize("value", ["soon", "0", "-1", "inf", "nan"])
def test_a_time_that_is_none_is_refused(http: httpx.Client, value: str) -> None:
    answer = http.post("/v1/embeddings", json=BODY, headers={"x-request-timeout": value})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400, "invalid_header", "x-request-timeout",
    )  # fmt: skip
    theirs = {"x-stainless-read-timeout": value}  # a client's own, whatever it writes
    assert http.post("/v1/embeddings", json=BODY, headers=theirs).status_code == 200


def test_nothing_is_begun_for_a_caller_who_left_while_waiting(slow: Slow) -> None:
    body = json.dumps(BODY).encode()
    sent = (
        b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        + f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    with (
        Gateway(slow, port=0, limits=Limits(workers=1, waiting=5)) as one,
        ThreadPoolExecutor(1) as pool,
        client(one) as http,
    ):
        first = pool.submit(http.post, "/v1/embeddings", json=BODY)
        assert slow.begun.acquire(timeout=300)
        leaving = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(5)]
        for connection in leaving:
            connection.sendall(sent)
        wait_until(lambda: "jepack_waiting 5.0" in http.get("/metrics").text)
        for connection in leaving:
            connection.close()
        wait_until(
            lambda: "jepack_waiting 0.0" in http.get("/metrics").text
        )  # their places are free
        slow.let.set()
        assert first.result().status_code == 200
        wait_until(lambda: "jepack_working 0.0" in http.get("/metrics").text)
        assert not slow.begun.acquire(blocking=False)
        assert http.post("/v1/embeddings", json=BODY).status_code == 200


def noise(side: int) -> bytes:
    """A picture that takes its decoder some 10 ns a pixel."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@pytest.mark.triton
def test_triton_drops_from_its_queue_what_nobody_waits_for(
    triton_server: Any, exported_bundle: Bundle
) -> None:
    """Six callers keep the model busy, so that what follows waits behind them."""
    import tritonclient.grpc as triton

    big, small, enough = noise(700), png(7), threading.Event()
    engine = TritonEngine(triton_server.url, exported_bundle)
    counter = triton.InferenceServerClient(triton_server.url)

    def counts() -> tuple[int, int]:
        """Images that the model computed, requests that it dropped."""
        found = counter.get_inference_statistics("embed").model_stats[0]
        return int(found.inference_count), int(found.inference_stats.fail.count)

    def busy() -> int:
        done = 0
        while not enough.is_set():
            done += len(engine.embed([big] * 16, limit_s=300).rows["embedding"])
        return done

    def late() -> int:
        try:
            return len(engine.embed([small], limit_s=0.05).rows["embedding"])
        except BusyError:
            return 0

    computed, dropped = counts()
    answered = 0
    with ThreadPoolExecutor(6) as pool, Gateway(engine, port=0) as one, client(one) as http:
        busy_ones = [pool.submit(busy) for _ in range(6)]
        try:
            while counts()[1] - dropped < 3:
                answered += late()
            head = {"x-request-timeout": "0.05"}
            while (told := http.post("/v1/embeddings", json=BODY, headers=head)).is_success:
                answered += 1  # in time after all
            assert (told.status_code, told.json()["error"]["code"]) == (504, "deadline")
        finally:
            enough.set()
        answered += sum(request.result() for request in busy_ones)
        wait_until(lambda: "jepack_working 0.0" in http.get("/metrics").text)
    assert counts()[0] - computed - answered in (
        0,
        1,
    )  # the gateway's one request may have been begun
    counter.close()
    engine.close()

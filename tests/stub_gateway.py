"""A small server that answers as the gateway does, or fails as it is told: for faults and their timing.

An image's embedding is what its bytes are, so every row is known: `row_of`.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from jepack.machine import HOST, loopback

FINGERPRINTS = {"embedding": "00000000000000ee", "projection": "00000000000000ff"}
HEAD = "inference-header-content-length"
REFUSED = b"refused"  # in an image


def row_of(image: bytes) -> list[float]:
    return [len(image), zlib.crc32(image) % 10_007]


class Stub:
    """`script`: what comes of each request for embeddings in turn, before all others are answered well."""

    def __init__(self) -> None:
        self.script: list[Callable[[Any], bool]] = []  # True: the request is answered already
        self.began: list[float] = []  # time.monotonic() of every request for embeddings
        self.keys: list[str | None] = []
        self.fingerprints = dict(FINGERPRINTS)
        self.let_go = threading.Event()
        self.url = ""


def status(code: int, told: str, **headers: str) -> Callable[[Any], bool]:
    """Answered with an error; `retry_after="3"`."""

    def answer(handler: Any) -> bool:
        error = {"error": {"code": told, "message": f"told {told}", "param": None}}
        handler.tell(code, json.dumps(error).encode(), **headers)
        return True

    return answer


def reset(handler: Any) -> bool:
    """The connection ends without an answer."""
    handler.close_connection = True
    return True


def slow(seconds: float) -> Callable[[Any], bool]:
    def wait(handler: Any) -> bool:
        time.sleep(seconds)
        return False

    return wait


def held(handler: Any) -> bool:
    """Answered when the stub lets go."""
    handler.server.stub.let_go.wait(300)
    return False


@contextmanager
def running() -> Iterator[Stub]:
    with ThreadingHTTPServer((HOST, 0), Handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = loopback.hold(0)  # never let go, so that nobody else takes it
        server.server_activate()
        server.daemon_threads, server.block_on_close = True, False
        server.stub = stub = Stub()  # type: ignore[attr-defined]
        stub.url = f"http://{HOST}:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield stub
        finally:
            stub.let_go.set()
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *told: Any) -> None:
        pass

    def tell(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        prints = self.server.stub.fingerprints  # type: ignore[attr-defined]
        common = {"root": "stub", "promises": [], "notes": [], "window": None, "max_batch_size": 4,
                  "max_body_bytes": 1 << 20}  # fmt: skip
        rows = [("stub", "embedding", 2), ("stub:embedding", "embedding", 2),
                ("stub:projection", "projection", 1)]  # fmt: skip
        data = [
            {"id": name, "output": output, "dimensions": dims, "fingerprint": prints[output], **common}
            for name, output, dims in rows
        ]  # fmt: skip
        self.tell(200, json.dumps({"data": data}).encode())

    def do_POST(self) -> None:
        stub = self.server.stub  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"]))
        stub.began.append(time.monotonic())
        stub.keys.append(self.headers["authorization"])
        if stub.script and stub.script.pop(0)(self):
            return
        size = int(self.headers[HEAD])
        head, images = json.loads(body[:size]), list(unpacked(body[size:]))
        for number, image in enumerate(images):
            if REFUSED in image:
                param = f"image[{number}]"
                told = {"code": "invalid_image", "message": f"{param}: no picture", "param": param}
                self.tell(400, json.dumps({"error": told}).encode())
                return
        told, rows = answered(head, images, stub.fingerprints)
        self.tell(200, told + rows, **{HEAD: str(len(told))})


def unpacked(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def answered(head: Any, images: list[bytes], prints: dict[str, str]) -> tuple[bytes, bytes]:
    """JSON, and the rows of the outputs that were asked for."""
    rows = np.array([row_of(image) for image in images], "<f4")
    found = {"embedding": rows, "projection": np.ascontiguousarray(rows[:, :1])}
    names = [one["name"] for one in head["outputs"]]
    outputs = [
        {"name": name, "datatype": "FP32", "shape": list(found[name].shape),
         "parameters": {"binary_data_size": found[name].nbytes}}
        for name in names
    ]  # fmt: skip
    told = {"outputs": outputs, "parameters": {f"fingerprint_{k}": v for k, v in prints.items()}}
    text = json.dumps(told).encode()
    return text, b"".join(found[name].tobytes() for name in names)

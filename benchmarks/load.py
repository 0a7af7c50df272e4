"""Callers of a server, for benchmarks: each posts one request after another on a connection of its own.

    python -m benchmarks.load URL IMAGES --clients 32 --seconds 4 [--way base64 --batch 16] [--pause 0.1]

A process of its own, so that its work is not done in the server's. Prints JSON: the seconds of every answer
by status, of broken connections and of requests that got no answer in two minutes ("lost"); images that were
embedded, seconds to the last answer, and processor seconds of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.dialects import DIALECTS, request_in

ANSWER_S = 120.0  # what has no answer after that is lost
GRPC = "grpc"


class Told:
    """What was answered: (status, seconds) of each request, from any thread."""

    def __init__(self, batch: int) -> None:
        self.batch, self.answers = batch, list[tuple[str, float]]()
        self.began = time.monotonic()

    def add(self, status: str, began: float) -> None:
        self.answers.append((status, round(time.monotonic() - began, 4)))

    def to_json(self) -> dict[str, Any]:
        answers: dict[str, list[float]] = defaultdict(list)
        for status, took in self.answers:
            answers[status].append(took)
        return {
            "seconds": round(time.monotonic() - self.began, 3),
            "images": self.batch * len(answers["200"]),
            "client_cpu_s": time.process_time(),
            "answers": dict(answers),
        }


async def post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bool]:
    """(status, whether the connection goes on)."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    size = int(head.partition("\r\ncontent-length: ")[2].split("\r\n")[0])
    await reader.readexactly(size)
    return int(head.split()[1]), "connection: close" not in head


async def caller(
    place: tuple[str, int], requests: Iterator[bytes], end: float, pause_s: float, told: Told
) -> None:
    """Asks until the time is over; after an answer that is no embedding it waits `pause_s`."""
    streams = None
    while time.monotonic() < end:
        request = next(requests)
        began = time.monotonic()
        try:
            if streams is None:
                streams = await asyncio.open_connection(*place)
            status, goes_on = await asyncio.wait_for(post(*streams, request), ANSWER_S)
        except asyncio.TimeoutError:
            told.add("lost", began)
            streams = None
            continue
        except (OSError, asyncio.IncompleteReadError):
            told.add("broken", began)
            streams = None
            await asyncio.sleep(pause_s)
            continue
        told.add(str(status), began)
        if not goes_on:
            streams[1].close()
            streams = None
        if status != 200:
            await asyncio.sleep(pause_s)


def by_turns(values: list[Any]) -> Iterator[Any]:
    """Each in its turn, for all callers together."""
    return (values[number % len(values)] for number in count())


async def load(
    url: str, batches: list[list[bytes]], way: str, clients: int, seconds: float, pause_s: float
) -> Told:
    place = urlsplit(url)
    requests = by_turns([request_in(way, place.netloc, batch) for batch in batches])
    told = Told(len(batches[0]))
    await asyncio.gather(
        *(
            caller((str(place.hostname), int(place.port or 80)), requests,
                   told.began + seconds, pause_s, told)
            for _ in range(clients)
        )
    )  # fmt: skip
    return told


def load_grpc(url: str, batches: list[list[bytes]], clients: int, seconds: float) -> Told:
    """The same through jepack's client, a thread a caller."""
    from jepack.client import Client  # only here: its import takes longer than a short load
    from jepack.errors import ServerError

    with Client(url, timeout_s=ANSWER_S) as client, ThreadPoolExecutor(clients) as pool:
        client.infer(batches[0], timeout_s=ANSWER_S)  # connected
        told = Told(len(batches[0]))

        def ask(first: int) -> None:
            turn = first
            while time.monotonic() < told.began + seconds:
                began = time.monotonic()
                try:
                    client.infer(batches[turn % len(batches)], timeout_s=ANSWER_S)
                    told.add("200", began)
                except ServerError as error:
                    told.add(type(error).__name__, began)
                turn += clients

        list(pool.map(ask, range(clients)))
    return told


def batches_of(path: Path, batch: int) -> list[list[bytes]]:
    """The folder's files, `batch` a request; from the first again where the last request is not full."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    turns = by_turns([file.read_bytes() for file in files])
    return [[next(turns) for _ in range(batch)] for _ in range(max(1, len(files) // batch))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("images", type=Path, help="a file, or a folder of nothing but images")
    parser.add_argument("--way", default="raw", choices=[GRPC, *DIALECTS])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--pause", type=float, default=0.1)
    asked = parser.parse_args()
    batches = batches_of(asked.images, asked.batch)
    if asked.way == GRPC:
        told = load_grpc(asked.url, batches, asked.clients, asked.seconds)
    else:
        told = asyncio.run(
            load(asked.url, batches, asked.way, asked.clients, asked.seconds, asked.pause)
        )
    print(json.dumps(told.to_json()))


if __name__ == "__main__":
    main()

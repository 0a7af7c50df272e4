"""Callers of a gateway, for benchmarks: each posts one image after another on a connection of its own.

    python -m benchmarks.load URL IMAGE --clients 32 --seconds 4 [--pause 0.1]

A process of its own, so that its work is not done in the server's. Prints JSON: the seconds of every answer
by status, of broken connections and of requests that got no answer in two minutes ("lost").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ANSWER_S = 120.0  # what has no answer after that is lost


async def post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bool]:
    """(status, whether the connection goes on)."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    size = int(head.partition("content-length: ")[2].split("\r\n")[0])
    await reader.readexactly(size)
    return int(head.split()[1]), "connection: close" not in head


async def caller(
    place: tuple[str, int], request: bytes, end: float, pause_s: float, told: Any
) -> None:
    """Asks until the time is over; after an answer that is no embedding it waits `pause_s`."""
    streams = None
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            if streams is None:
                streams = await asyncio.open_connection(*place)
            status, goes_on = await asyncio.wait_for(post(*streams, request), ANSWER_S)
        except asyncio.TimeoutError:
            told["lost"].append(round(time.monotonic() - began, 4))
            streams = None
            continue
        except (OSError, asyncio.IncompleteReadError):
            told["broken"].append(round(time.monotonic() - began, 4))
            streams = None
            await asyncio.sleep(pause_s)
            continue
        told[str(status)].append(round(time.monotonic() - began, 4))
        if not goes_on:
            streams[1].close()
            streams = None
        if status != 200:
            await asyncio.sleep(pause_s)


async def load(
    url: str, image: bytes, clients: int, seconds: float, pause_s: float
) -> dict[str, Any]:
    place = urlsplit(url)
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: image/png\r\n"
        f"content-length: {len(image)}\r\n\r\n"
    )
    told: dict[str, list[float]] = defaultdict(list)
    began = time.monotonic()
    await asyncio.gather(
        *(
            caller((str(place.hostname), int(place.port or 80)), head.encode() + image,
                   began + seconds, pause_s, told)
            for _ in range(clients)
        )
    )  # fmt: skip
    return {"seconds": round(time.monotonic() - began, 3), "answers": dict(told)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("image", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--pause", type=float, default=0.1)
    asked = parser.parse_args()
    found = asyncio.run(
        load(asked.url, asked.image.read_bytes(), asked.clients, asked.seconds, asked.pause)
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""What a server on a network gets beside good requests: broken files and requests that are none."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable

from PIL import Image

from benchmarks.dialects import DIALECTS, ONE, request, request_in


def picture(kind: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 77).save(stream, kind)
    return stream.getvalue()


def cut(image: bytes, draw: random.Random) -> bytes:
    return image[: draw.randrange(1, len(image))]


def flipped(image: bytes, draw: random.Random) -> bytes:
    data = bytearray(image)
    for _ in range(20):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def bomb(image: bytes, draw: random.Random) -> bytes:
    """A PNG whose header tells 60,000 x 60,000 pixels."""
    data = bytearray(picture("PNG", (1, 1)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(data)


FILES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut off": cut,
    "bytes changed": flipped,
    "random bytes": lambda image, draw: draw.randbytes(draw.randrange(1, 50_000)),
    "no bytes": lambda image, draw: b"",
    "bomb": bomb,
    "text": lambda image, draw: b"a photograph of a cat",
    "1 x 1": lambda image, draw: picture("PNG", (1, 1)),
    "GIF": lambda image, draw: picture("GIF", (30, 40), "P"),
    "strip": lambda image, draw: picture("PNG", (2, 6000)),
}
BODIES: dict[str, Callable[[random.Random], bytes]] = {
    "no JSON": lambda draw: draw.randbytes(300),
    "nested": lambda draw: b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "no input": lambda draw: b'{"model": "another"}',
    "a text": lambda draw: json.dumps({"input": "a cat"}).encode(),
    "tokens": lambda draw: json.dumps({"input": [[1, 2, 3]]}).encode(),
    "an address": lambda draw: json.dumps({"input": "http://127.0.0.1:1/a.jpg"}).encode(),
    "many": lambda draw: json.dumps({"input": ["aaaa"] * 1000}).encode(),
}


def broken(place: str, images: list[bytes], draw: random.Random) -> tuple[str, bytes]:
    """(what it is, the request): half of them broken files beside a good one, half broken bodies."""
    way = draw.choice(list(DIALECTS))
    if draw.random() < 0.5:
        kind = draw.choice(list(FILES))
        files = [FILES[kind](draw.choice(images), draw)]
        if way not in ONE and draw.random() < 0.5:
            files.append(draw.choice(images))
        return f"file: {kind}", request_in(way, place, files)
    kind = draw.choice([*BODIES, "media"])
    path = draw.choice(["/v1/embeddings", "/v2/embed", "/v1/multimodalembeddings", "/vectors",
                        "/v2/models/embed/infer", "/v1/none", "/v2/models/none/infer"])  # fmt: skip
    if kind == "media":
        return "body: media", request(place, path, "text/html", b"<html>")
    return f"body: {kind}", request(place, path, "application/json", BODIES[kind](draw))

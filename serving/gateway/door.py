"""A request that has no room is told so by its head alone, before HTTP and the application have worked on it.

That takes a tenth of the processor's time, and decides how soon it is told when hundreds ask. Only what reads
in one way is answered here; whatever is unusual goes the long way, where h11 judges it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers

from serving.gateway.errors import Refusal

REQUEST = re.compile(rb"POST (/[\x21-\x7e]*) HTTP/1\.1")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
LONG_WAY = ("transfer-encoding", "expect", "upgrade")


@dataclass(frozen=True)
class Head:
    """Of a POST with a body of known length."""

    path: str
    headers: Headers
    size: int  # bytes of the head
    body: int  # bytes of the body


def head_of(data: bytes, most: int) -> Head | None:
    """Of a request that begins here; None where it is not whole, longer than `most`, or unusual."""
    end = data.find(b"\r\n\r\n", 0, most)
    first, *lines = data[: max(end, 0)].split(b"\r\n")
    asked = REQUEST.fullmatch(first)
    if asked is None:
        return None
    raw = []
    for line in lines:
        found = HEADER.fullmatch(line)
        if found is None:
            return None
        raw.append((found[1].lower(), found[2]))
    headers = Headers(raw=raw)
    lengths = headers.getlist("content-length")
    if (
        len(lengths) != 1
        or not re.fullmatch(r"[0-9]{1,15}", lengths[0])
        or len(headers.getlist("host")) != 1
        or headers.get("connection", "keep-alive").lower() != "keep-alive"
        or any(name in headers for name in LONG_WAY)
    ):
        return None
    path = asked[1].decode("ascii").partition("?")[0]
    return Head(path, headers, end + 4, int(lengths[0]))


def written(refusal: Refusal, body: bytes, more: list[tuple[bytes, bytes]]) -> bytes:
    """The whole answer as it goes over the line; `more` are headers beside its own."""
    headers = [
        *more,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    status = HTTPStatus(refusal.status)
    head = b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
    return head + b"".join(b"%s: %s\r\n" % one for one in headers) + b"\r\n" + body

"""The Open Inference Protocol's bytes, the same over gRPC and HTTP: images in, rows out.

N images, D numbers in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jepack.client.answers import Endpoint, Rows

MODEL = "embed"
INPUT = "image"
PROBE = "probe:"  # and a probe's name: the gateway's output of its probabilities


@dataclass(frozen=True)
class Answer:
    """The rows of one request, [N, D] each, and the spaces they are of where the answer tells."""

    rows: dict[str, Rows]
    fingerprints: dict[str, str] | None = None


class Door(Protocol):
    """A way to an endpoint; called from several threads and event loops.

    Each call raises BusyError, UnreachableError, RequestError or ImageError, and ServerError for what no
    other request would change. The server is told `limit_s`; over gRPC an answer is waited for `grace_s`
    longer. A cancelled `asend` leaves the server's work alone.
    """

    def describe(self, limit_s: float) -> Endpoint: ...

    def send(
        self, images: Sequence[bytes], outputs: Sequence[str], limit_s: float, grace_s: float = 0.0
    ) -> Answer: ...

    async def adescribe(self, limit_s: float) -> Endpoint: ...

    async def asend(
        self, images: Sequence[bytes], outputs: Sequence[str], limit_s: float, grace_s: float = 0.0
    ) -> Answer: ...

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def packed(images: Sequence[bytes]) -> bytes:
    """Each file after its length."""
    return b"".join(part for one in images for part in (len(one).to_bytes(4, "little"), one))


def unpacked(data: bytes, shape: Sequence[int]) -> Rows:
    """Little-endian float32. Raises ValueError where the bytes do not fill the shape."""
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(tuple(shape))

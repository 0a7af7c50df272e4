"""Who embeds: Triton over gRPC, or ONNX Runtime in this process. The same call, the same answers.

N images, E and D dimensions of the two outputs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from jepack.bundle import ONNX_NAMES, Bundle, difference, golden_file
from jepack.client import BusyError, Client, Endpoint, ImageError
from jepack.errors import DataError, ServerError
from jepack.inprocess import Embedded, InProcess, Rows, no_rows
from jepack.machine.threads import cores
from jepack.measures.codes import Kept
from serving.gateway.limits import Limits
from serving.served import ALONE

GRACE_S = 60.0  # a request on its way to Triton is waited for beyond its deadline, not cancelled


class Engine(Protocol):
    """What the gateway needs of whoever embeds; called from several threads."""

    endpoint: Endpoint

    def embed(self, images: Sequence[bytes], *, limit_s: float, skip_bad: bool = False) -> Embedded:
        """Raises ImageError with the number of the first bad image, unless they are skipped; BusyError
        when there was no time; ServerError."""
        ...

    def problem(self) -> str | None:
        """What is wrong, seen by a real inference; None when all is well or the engine is merely busy."""
        ...

    def close(self) -> None: ...


def in_chunks(
    engine: Engine, images: Sequence[bytes], limit_s: float, skip_bad: bool, one: Any
) -> Embedded:
    """`one(images, left_s, skip_bad)` on as many images at once as the engine takes."""
    end, most = time.monotonic() + limit_s, engine.endpoint.max_batch_size
    parts: list[dict[str, Rows]] = []
    bad: dict[int, str] = {}
    for start in range(0, len(images), most):
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise BusyError(f"no answer within {limit_s:g} s")
        try:
            found = one(images[start : start + most], left_s, skip_bad)
        except ImageError as error:
            raise ImageError(str(error), start + error.number) from error
        parts.append(found.rows)
        bad |= {start + number: reason for number, reason in found.bad.items()}
    rows = {output: np.concatenate([part[output] for part in parts]) for output in ONNX_NAMES}
    return Embedded(rows, bad)


class TritonEngine:
    """Triton's `model` at `url` by gRPC; with its bundle at hand, golden images tell whether it works.

    `name` is what callers know it by; "" for its bundle's own.
    """

    def __init__(
        self, url: str, bundle: Bundle | None = None, *, model: str = ALONE, name: str = ""
    ) -> None:
        self._client, self.bundle = Client(url, model=model), bundle
        told = self._client.endpoint()
        self.endpoint = replace(told, bundle=name or told.bundle)
        self._probe = probe_of(bundle) if bundle is not None else None

    def embed(self, images: Sequence[bytes], *, limit_s: float, skip_bad: bool = False) -> Embedded:
        return in_chunks(self, images, limit_s, skip_bad, self._chunk)

    def _chunk(self, images: Sequence[bytes], left_s: float, skip_bad: bool) -> Embedded:
        try:
            return Embedded(self._client.infer(images, timeout_s=left_s, grace_s=GRACE_S))
        except ImageError:
            if not skip_bad:
                raise
        # Triton tells of the first bad image only, so ask one by one.
        bad: dict[int, str] = {}
        rows = [no_rows(self.endpoint)]
        for number, image in enumerate(images):
            try:
                rows.append(self._client.infer([image], timeout_s=left_s, grace_s=GRACE_S))
            except ImageError as error:
                bad[number] = str(error)
        return Embedded({name: np.concatenate([r[name] for r in rows]) for name in ONNX_NAMES}, bad)

    def problem(self) -> str | None:
        try:
            if self._probe is None:
                return self._client.diagnose(timeout_s=GRACE_S)
            image, golden = self._probe
            wrong = difference(self._client.infer([image], timeout_s=GRACE_S), golden)
        except BusyError:
            return None
        except (ServerError, DataError) as error:
            return str(error)
        return wrong and f"the golden image comes back wrong: {wrong}"

    def close(self) -> None:
        self._client.close()


class EmbeddedEngine:
    """The bundle's ONNX graph in this process, for machines where Triton's binary does not run.

    A file that crashes a decoder ends this process; with Triton it ends one that is started again.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        name: str = "",
        version: int = 1,
        max_batch_size: int = 16,
        threads: int | None = None,
    ) -> None:
        """`threads`: every core, unless told."""
        self._encoder = InProcess(bundle, max_batch_size=max_batch_size, threads=threads or cores())
        told = self._encoder.endpoint()
        self.bundle, self.endpoint = (
            bundle,
            replace(told, bundle=name or told.bundle, version=version),
        )

    def embed(self, images: Sequence[bytes], *, limit_s: float, skip_bad: bool = False) -> Embedded:
        return in_chunks(self, images, limit_s, skip_bad, self._chunk)

    def _chunk(self, images: Sequence[bytes], left_s: float, skip_bad: bool) -> Embedded:
        return self._encoder.infer(images, skip_bad=skip_bad)

    def problem(self) -> str | None:
        return self._encoder.diagnose()

    def close(self) -> None:
        self._encoder.close()


def probe_of(bundle: Bundle) -> tuple[bytes, dict[str, Any]]:
    """A golden image as a file, and what must come back."""
    golden = bundle.golden()
    return golden_file(golden["images"][0], bundle.preprocessing), golden


def kept_by(engine: Engine) -> dict[str, Kept | None]:
    """What the engine's bundle measured of shorter rows, of each output; {} where no bundle is at hand."""
    bundle = engine.bundle if isinstance(engine, (TritonEngine, EmbeddedEngine)) else None
    measured = bundle.isotropy() if bundle is not None else {}
    return {output: Kept.of(measured, output) for output in (bundle.dimensions if bundle else {})}


def limits_for(engine: Engine) -> Limits:
    """How many requests it is given at once, and how many wait, by benchmarks/overload.py.

    Triton gathers the images of several into a batch; in this process more than a request a core take turns
    at the same core, while the caller who is to come again waits for it too.
    """
    if isinstance(engine, EmbeddedEngine):
        return Limits(workers=cores(), waiting=4 * cores())
    return Limits()

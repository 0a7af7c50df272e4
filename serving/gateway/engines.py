"""Who embeds: Triton over gRPC, or ONNX Runtime in this process. The same call, the same answers.

N images, E and D dimensions of the two outputs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jepack.bundle import ONNX_NAMES, Bundle, standing
from jepack.client import BusyError, Client, Endpoint, ImageError
from jepack.decoding import load
from jepack.errors import DataError, DependencyError, ServerError
from serving.golden import difference, golden_file

Rows = npt.NDArray[np.float32]
GRACE_S = 60.0  # a request on its way to Triton is waited for beyond its deadline, not cancelled


@dataclass(frozen=True)
class Embedded:
    """Rows of the good images in their order, and why the others were refused."""

    rows: dict[str, Rows]  # {"embedding": [N, E], "projection": [N, D]}
    bad: dict[int, str] = field(default_factory=dict)


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


def empty(endpoint: Endpoint) -> dict[str, Rows]:
    return {output: np.empty((0, dims), np.float32) for output, dims in endpoint.dimensions.items()}


class TritonEngine:
    """Triton's `embed` at `url` by gRPC; with its bundle at hand, golden images tell whether it works."""

    def __init__(self, url: str, bundle: Bundle | None = None) -> None:
        self._client = Client(url)
        self.endpoint = self._client.endpoint()
        self._probe = probe_of(bundle) if bundle is not None else None

    def embed(self, images: Sequence[bytes], *, limit_s: float, skip_bad: bool = False) -> Embedded:
        return in_chunks(self, images, limit_s, skip_bad, self._chunk)

    def _chunk(self, images: Sequence[bytes], left_s: float, skip_bad: bool) -> Embedded:
        try:
            return Embedded(self._client.infer(images, timeout_s=left_s + GRACE_S))
        except ImageError:
            if not skip_bad:
                raise
        # Triton tells of the first bad image only, so ask one by one.
        bad: dict[int, str] = {}
        rows = [empty(self.endpoint)]
        for number, image in enumerate(images):
            try:
                rows.append(self._client.infer([image], timeout_s=left_s + GRACE_S))
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

    def __init__(self, bundle: Bundle, *, max_batch_size: int = 16, threads: int = 2) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise DependencyError(
                "the embedded engine needs onnxruntime, which is not installed. "
                "Install it: pip install 'jepack[serve]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(bundle.onnx()), options, providers=["CPUExecutionProvider"]
        )
        self._preprocessing = bundle.preprocessing
        self.endpoint = Endpoint(
            bundle=bundle.name,
            fingerprints=bundle.fingerprints,
            dimensions=bundle.dimensions,
            max_batch_size=max_batch_size,
            default_output=bundle.default_output,
            promises=tuple(name for name, kept in bundle.promises.items() if kept),
            window=bundle.preprocessing.window,
            notes=tuple(standing.notes(bundle)),
        )
        self._probe = probe_of(bundle)
        if problem := self.problem():
            raise ServerError(f"{bundle.folder}: {problem}")

    def embed(self, images: Sequence[bytes], *, limit_s: float, skip_bad: bool = False) -> Embedded:
        return in_chunks(self, images, limit_s, skip_bad, self._chunk)

    def _chunk(self, images: Sequence[bytes], left_s: float, skip_bad: bool) -> Embedded:
        crops, bad = [], {}
        for number, image in enumerate(images):
            try:
                crops.append(load(image, self._preprocessing))
            except DataError as error:
                bad[number] = str(error).removeprefix("image: ")
                if not skip_bad:
                    raise ImageError(bad[number], number) from error
        if not crops:
            return Embedded(empty(self.endpoint), bad)
        found = self._session.run(list(ONNX_NAMES.values()), {"pixel_values": np.stack(crops)})
        return Embedded(dict(zip(ONNX_NAMES, found, strict=True)), bad)

    def problem(self) -> str | None:
        image, golden = self._probe
        wrong = difference(self._chunk([image], GRACE_S, False).rows, golden)
        return wrong and f"the golden image comes back wrong: {wrong}"

    def close(self) -> None:
        pass


def probe_of(bundle: Bundle) -> tuple[bytes, dict[str, Any]]:
    """A golden image as a file, and what must come back."""
    golden = bundle.golden()
    return golden_file(golden["images"][0], bundle.preprocessing), golden

"""A bundle's encoder in this process: its ONNX graph behind the decoder of training. No server, no torch.

Where a bundle lies on this machine, pages and gateways need no endpoint. `InProcess` answers `embed` as
`jepack.client.Client` does. A file that crashes a decoder ends this process; with Triton it ends one that is
started again.

N images, E and D dimensions of the two outputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.bundle import ONNX_NAMES, Bundle, difference, golden_file, standing
from jepack.client import Embeddings, Endpoint, ImageError, Item, batches_of, listed, name_of
from jepack.decoding import load
from jepack.errors import DataError, DependencyError, ServerError

Rows = npt.NDArray[np.float32]
Crops = list[npt.NDArray[np.uint8]]  # [H, W, C] each
PIECE = 4  # images of a run: at most, and two at least; see model_repository/encoder
LARGE = 256 * 2**20  # bytes of a graph that is not held twice


@dataclass(frozen=True)
class Embedded:
    """Rows of the good images in their order, and why the others were refused."""

    rows: dict[str, Rows]  # {"embedding": [N, E], "projection": [N, D]}
    bad: dict[int, str] = field(default_factory=dict)


class InProcess:
    """ONNX Runtime on a bundle's graph; called from several threads, which share `threads` cores.

    Images go in pieces to runs of one thread each, and of all requests together `threads` pieces are decoded
    or run at a time. Few images of a request that is alone are run by all threads, to be there sooner.
    Raises ArtifactError where the bundle has no ONNX export, DependencyError without onnxruntime,
    ServerError when its golden images come back wrong.
    """

    def __init__(self, bundle: Bundle, *, max_batch_size: int = 16, threads: int = 2) -> None:
        graph = bundle.onnx()
        self.threads, self._together = threads, session(graph, threads)
        self._alone = self._together if threads == 1 else None
        if threads > 1 and graph.stat().st_size <= LARGE:
            self._alone = session(graph, 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="jepack-embed")
        self._run_of_all = threading.Lock()  # a run takes all threads
        self._count, self._counting = 0, threading.Lock()  # of requests that are here
        self.bundle = bundle
        self._preprocessing = bundle.preprocessing
        self._endpoint = Endpoint(
            bundle=bundle.name,
            fingerprints=bundle.fingerprints,
            dimensions=bundle.dimensions,
            max_batch_size=max_batch_size,
            default_output=bundle.default_output,
            promises=tuple(name for name, kept in bundle.promises.items() if kept),
            window=bundle.preprocessing.window,
            crop_pct=bundle.preprocessing.crop_pct,
            crop_mode=bundle.preprocessing.crop_mode,
            notes=tuple(standing.notes(bundle)),
        )
        self._golden = bundle.golden()
        self._probe = golden_file(self._golden["images"][0], self._preprocessing)
        if problem := self.diagnose():
            raise ServerError(f"{bundle.folder}: {problem}")

    @property
    def url(self) -> str:
        """Where the vectors come from, for messages."""
        return str(self.bundle.folder)

    def endpoint(self) -> Endpoint:
        """What it serves, as an endpoint would tell it."""
        return self._endpoint

    def diagnose(self) -> str | None:
        """What is wrong, seen by a real inference; None when all is well."""
        wrong = difference(self.infer([self._probe]).rows, self._golden)
        return wrong and f"the golden image comes back wrong: {wrong}"

    def infer(self, images: Sequence[bytes], *, skip_bad: bool = False) -> Embedded:
        """One batch. Raises ImageError with the number of the first bad image, unless they are skipped."""
        count, least = len(images), min(2, len(images))
        with self._counted() as alone:
            if self._alone is None or (alone and count < 2 * self.threads):
                return self._whole(images, skip_bad)
            size = max(min(PIECE, count // self.threads), least, 1)
            parts = list(
                self._pool.map(
                    lambda at: self._piece(at, images[at : at + size], skip_bad),
                    range(0, count, size),
                )
            )
        return joined(parts, self._endpoint)

    def _whole(self, images: Sequence[bytes], skip_bad: bool) -> Embedded:
        """Images decoded side by side, then run together by all threads."""
        parts = list(
            self._pool.map(
                lambda at: self._decoded(at, images[at : at + 1], skip_bad), range(len(images))
            )
        )
        crops = [crop for some, _ in parts for crop in some]
        rows = no_rows(self._endpoint)
        if crops:
            with self._run_of_all:
                rows = self._pool.submit(run, self._together, crops).result()
        return Embedded(rows, {number: why for _, bad in parts for number, why in bad.items()})

    def _piece(self, first: int, images: Sequence[bytes], skip_bad: bool) -> Embedded:
        crops, bad = self._decoded(first, images, skip_bad)
        return Embedded(run(self._alone, crops) if crops else no_rows(self._endpoint), bad)

    def _decoded(
        self, first: int, images: Sequence[bytes], skip_bad: bool
    ) -> tuple[Crops, dict[int, str]]:
        """The good ones, and why others are refused by their numbers, which count from `first`."""
        crops, bad = [], {}
        for number, image in enumerate(images, first):
            try:
                crops.append(load(image, self._preprocessing))
            except DataError as error:
                bad[number] = str(error)
                if not skip_bad:
                    raise ImageError(bad[number], number) from error
        return crops, bad

    @contextmanager
    def _counted(self) -> Iterator[bool]:
        """Whether no other request is here."""
        with self._counting:
            self._count += 1
            alone = self._count == 1
        try:
            yield alone
        finally:
            with self._counting:
                self._count -= 1

    def embed(
        self,
        items: Item | Iterable[Item],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        skip_bad: bool = False,
    ) -> Embeddings:
        """Embed images: what an item may be, and what is returned and raised, as `Client.embed` tells.

        The files of the next batch are read while one is computed.
        """
        items = listed(items)
        rows = {
            output: np.full((len(items), dims), np.nan, np.float32)
            for output, dims in self._endpoint.dimensions.items()
        }
        errors: dict[int, str] = {}
        done = 0
        batches = batches_of(items, self._endpoint.max_batch_size)
        with ThreadPoolExecutor(1, thread_name_prefix="jepack-read") as reader:
            ahead = reader.submit(next, batches, None)
            while (batch := ahead.result()) is not None:
                ahead = reader.submit(next, batches, None)
                numbers, found = (
                    list(batch.images),
                    self.infer(list(batch.images.values()), skip_bad=True),
                )
                bad = {numbers[at]: reason for at, reason in found.bad.items()} | batch.unread
                if bad and not skip_bad:
                    number, reason = min(bad.items())
                    raise DataError(f"{name_of(items[number], number)}: {reason}")
                errors.update(bad)
                kept = [number for number in numbers if number not in bad]
                for output, values in found.rows.items():
                    rows[output][kept] = values
                done += len(batch.images) + len(batch.unread)
                if on_progress is not None:
                    on_progress(done, len(items))
        return Embeddings(
            rows["embedding"],
            rows["projection"],
            dict(self._endpoint.fingerprints),
            dict(sorted(errors.items())),
            self._endpoint.default_output,
            tuple(name_of(item, number) for number, item in enumerate(items)),
        )

    def close(self) -> None:
        """Nothing to let go of: one engine serves every visitor of a page."""


def no_rows(endpoint: Endpoint) -> dict[str, Rows]:
    return {output: np.empty((0, dims), np.float32) for output, dims in endpoint.dimensions.items()}


def joined(parts: Sequence[Embedded], endpoint: Endpoint) -> Embedded:
    every = [no_rows(endpoint), *(part.rows for part in parts)]
    rows = {output: np.concatenate([one[output] for one in every]) for output in ONNX_NAMES}
    return Embedded(rows, {number: why for part in parts for number, why in part.bad.items()})


def run(graph: Any, crops: Crops) -> dict[str, Rows]:
    found: list[Any] = graph.run(list(ONNX_NAMES.values()), {"pixel_values": np.stack(crops)})
    return dict(zip(ONNX_NAMES, found, strict=True))


def session(graph: Path, threads: int) -> Any:
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
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

"""Ask a running endpoint for embeddings: `Client().embed(["a.jpg", picture, pixels])`. No torch here.

N items, E embedding dims, D projection dims.
"""

from __future__ import annotations

import json
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.client.items import Batch, Item, batches_of, grey_png, listed, name_of
from jepack.client.transport import (
    BusyError,
    Home,
    RequestError,
    channel,
    check_address,
    queue_is_full,
    translate,
)
from jepack.decoding import Window, checked_window
from jepack.errors import ConfigError, DataError, DependencyError, ServerError

__all__ = ["BusyError", "Client", "Embeddings", "Endpoint", "Item"]

MODEL = "embed"
DEFAULT_URL = "127.0.0.1:8001"
Rows = npt.NDArray[np.float32]
HOME = Home()


@dataclass(frozen=True)
class Endpoint:
    """What a running endpoint serves."""

    bundle: str  # name of the bundle
    fingerprints: dict[str, str]  # of each output's space
    dimensions: dict[str, int]  # {"embedding": E, "projection": D}
    max_batch_size: int  # images per request
    default_output: str = "embedding"  # the one that search should use
    promises: tuple[str, ...] = ()  # what the projection allows: "drift", "atypicality"
    window: Window = None  # the values it shows as 0..255; None where it has none, or does not tell
    crop_pct: float = 1.0  # side of the seen square over the shorter side, see Preprocessing
    crop_mode: str = "center"
    notes: tuple[str, ...] = ()  # what its user must know, a sentence each; see jepack.standing


@dataclass(frozen=True)
class Embeddings:
    """The rows of a call, in the order of its items; the row of a skipped bad image is NaN."""

    embedding: Rows  # [N, E]
    projection: Rows  # [N, D]
    fingerprints: dict[str, str]  # {"embedding": ..., "projection": ...}
    errors: dict[int, str] = field(default_factory=dict)  # item: why it was refused
    default_output: str = "embedding"  # the one that search should use, says the bundle

    @property
    def for_search(self) -> Rows:
        """The rows that search should use, [N, E] or [N, D]."""
        return self.projection if self.default_output == "projection" else self.embedding

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """[N], True where the row is an embedding."""
        mask = np.ones(len(self.embedding), dtype=bool)
        mask[list(self.errors)] = False
        return mask


class Client:
    """A synchronous gRPC client of `jepack serve`; safe to share between threads.

    `timeout_s` bounds every request, retries of a full queue included. gRPC does not survive a fork: in
    a child of `os.fork` or of multiprocessing's "fork" every call raises ServerError at once.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = 30.0) -> None:
        try:
            import tritonclient.grpc as triton
        except ModuleNotFoundError as error:
            raise DependencyError(
                "the client needs tritonclient, which is not installed. "
                "Install it: pip install 'jepack[client]'"
            ) from error
        check_address(url)
        if not 0 < timeout_s < math.inf:
            raise ConfigError(f"timeout_s is a number of seconds above 0, found {timeout_s}")
        HOME.check()
        self.url, self.timeout_s = url, timeout_s
        self._triton = triton
        self._grpc = triton.InferenceServerClient(url, channel_args=channel(url))
        # Closed before the interpreter takes gRPC apart, also where nobody closes it.
        self._closing = weakref.finalize(self, shut, self._grpc, os.getpid())
        self._endpoint: Endpoint | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closing()

    def endpoint(self) -> Endpoint:
        """What is served there; asked once per client. Raises ServerError."""
        if self._endpoint is None:
            answer = self._call(
                lambda left_s: self._grpc.get_model_config(
                    MODEL, as_json=True, client_timeout=left_s
                )
            )
            config = answer["config"]
            texts = {
                key: value.get("string_value", "") for key, value in config["parameters"].items()
            }
            crop_pct, crop_mode = texts.get("crop", "1 center").split()
            self._endpoint = Endpoint(
                bundle=texts["bundle"],
                fingerprints={
                    key.removeprefix("fingerprint_"): text
                    for key, text in texts.items()
                    if key.startswith("fingerprint_")
                },
                dimensions={one["name"]: int(one["dims"][0]) for one in config["output"]},
                max_batch_size=int(config["max_batch_size"]),
                default_output=texts.get("default_output", "embedding"),
                promises=tuple(name for name in texts.get("promises", "").split(",") if name),
                window=window_of(texts.get("window")),
                crop_pct=float(crop_pct),
                crop_mode=crop_mode,
                notes=tuple(texts.get("notes", "").splitlines()),
            )
        return self._endpoint

    def fingerprints(self) -> dict[str, str]:
        """Identity of each output's space, {"embedding": ..., "projection": ...}."""
        return dict(self.endpoint().fingerprints)

    def health(self) -> bool:
        """Whether a real image comes back embedded; see `diagnose` for the reason when not."""
        return self.diagnose() is None

    def diagnose(self, *, timeout_s: float = 5.0) -> str | None:
        """Why the endpoint cannot be used, None when it can.

        Embeds a small grey image: Triton's own readiness stays true when a model process has died.
        """
        try:
            answer = self.infer([grey_png()], timeout_s=min(timeout_s, self.timeout_s))
        except (ServerError, DataError) as error:
            return str(error)
        if not all(np.isfinite(rows).all() for rows in answer.values()):
            return f"{self.url}: answers with non-finite values"
        return None

    def embed(
        self,
        items: Item | Iterable[Item],
        *,
        batch_size: int = 16,
        on_progress: Callable[[int], None] | None = None,
        concurrency: int = 2,
        skip_bad: bool = False,
    ) -> Embeddings:
        """Embed images; `concurrency` requests of up to `batch_size` images are on their way.

        An image is a path (str or Path), a file's bytes, a PIL image, or an array of uint8, [H, W] or
        [H, W, C]; arrays and PIL images are sent without loss. One image gives one row. Anything else is
        a TypeError. `on_progress` gets the number of items done so far, on the calling thread. A bad
        image raises DataError naming it; with `skip_bad` it becomes an entry of `errors` instead. Raises
        ServerError when the endpoint is missing or overloaded.
        """
        items = listed(items)
        endpoint = self.endpoint()
        batch_size = max(1, min(batch_size, endpoint.max_batch_size))
        rows = {
            output: np.full((len(items), dims), np.nan, np.float32)
            for output, dims in endpoint.dimensions.items()
        }
        errors: dict[int, str] = {}
        done = 0
        for batch, answer, bad in self._answers(items, batch_size, max(1, concurrency)):
            if bad and not skip_bad:
                number, reason = min(bad.items())
                raise DataError(f"{name_of(items[number], number)}: {reason}")
            errors.update(bad)
            kept = [number for number in batch if number not in bad]
            for output, values in answer.items():
                rows[output][kept] = values
            done += len(batch)
            if on_progress is not None:
                on_progress(done)
        return Embeddings(
            rows["embedding"],
            rows["projection"],
            dict(endpoint.fingerprints),
            dict(sorted(errors.items())),
            endpoint.default_output,
        )

    def infer(
        self, images: Sequence[bytes], *, timeout_s: float | None = None, grace_s: float = 0.0
    ) -> dict[str, Rows]:
        """One request: files' bytes -> {"embedding": [N, E], "projection": [N, D]}.

        What the server has not begun after `timeout_s` it drops. An answer is waited for `grace_s` longer,
        because a request that is cancelled on its way can crash Triton 2.51. Raises DataError with the
        server's reason when it refuses an image, which fails the whole request; ServerError otherwise.
        """
        tensor = self._triton.InferInput("image", [len(images), 1], "BYTES")
        tensor.set_data_from_numpy(np.array(images, dtype=np.object_).reshape(-1, 1))
        answer = self._call(
            lambda left_s: self._grpc.infer(
                MODEL,
                [tensor],
                client_timeout=left_s + grace_s,
                timeout=max(int(left_s * 1e6), 1),  # microseconds; 0 is for ever
            ),
            timeout_s,
        )
        return {output: answer.as_numpy(output) for output in ("embedding", "projection")}

    def _answers(
        self, items: Sequence[Item], batch_size: int, concurrency: int
    ) -> Iterator[tuple[list[int], dict[str, Rows], dict[int, str]]]:
        """(item numbers, rows of the good ones, reasons of the bad ones) per batch, as they finish."""
        batches = batches_of(items, batch_size)
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="jepack-embed")
        running: set[Future[tuple[list[int], dict[str, Rows], dict[int, str]]]] = set()
        try:
            for batch in batches:
                running.add(pool.submit(self._embed_batch, batch))
                if len(running) > concurrency:  # one batch read ahead, no more in memory
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield future.result()
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _embed_batch(self, batch: Batch) -> tuple[list[int], dict[str, Rows], dict[int, str]]:
        bad = dict(batch.unread)
        good = dict(batch.images)
        answers: list[dict[str, Rows]] = []
        try:
            answers = [self.infer(list(good.values()))] if good else []
        except (DataError, RequestError) as refusal:
            # One bad image fails its request, so ask one by one to learn which.
            for number, image in good.items():
                try:
                    if len(good) == 1:
                        raise refusal
                    answers.append(self.infer([image]))
                except DataError as error:
                    bad[number] = str(error)
                except RequestError as error:
                    if self.diagnose() is not None:  # no image is answered
                        raise
                    bad[number] = str(error)
        rows = {
            output: np.concatenate([answer[output] for answer in answers])
            for output in (answers[0] if answers else {})
        }
        return sorted([*batch.images, *batch.unread]), rows, bad

    def _call(self, ask: Callable[[float], Any], timeout_s: float | None = None) -> Any:
        """Run one request; a full queue is retried until the time is up. Translates every failure."""
        HOME.check()
        if not self._closing.alive:
            raise ServerError("this client is closed. Make another: Client(...)")
        start, pause_s = time.monotonic(), 0.02
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        while True:
            left_s = limit_s - (time.monotonic() - start)
            try:
                return ask(max(left_s, 0.001))
            except self._triton.InferenceServerException as error:
                failure = translate(error, self.url, limit_s)
                if not queue_is_full(error) or left_s <= pause_s:
                    raise failure from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.5)


def shut(connection: Any, owner: int) -> None:
    """Close a gRPC client; not in a forked child, whose copy of the connection nothing drives."""
    if os.getpid() == owner:
        connection.close()
        connection.close = lambda: None  # its own __del__ closes again, when gRPC may be gone


def window_of(text: str | None) -> Window:
    """A window as the endpoint tells it; None for one that cannot be read."""
    try:
        value = json.loads(text or "null")
        return checked_window(value, len(value) if isinstance(value, list) else 1)
    except ValueError:
        return None

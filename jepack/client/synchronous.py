"""The client for code that waits: `Client`. Its requests run on threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from jepack.client.address import DEFAULT_URL
from jepack.client.answers import OUTPUTS, Embeddings, Endpoint, Output, Rows
from jepack.client.call import Call, Part, begun
from jepack.client.core import Core, Describe, Limit, Pause, Steps
from jepack.client.doors import door_to
from jepack.client.items import Item, listed
from jepack.client.wire import MODEL

T = TypeVar("T")


class Client:
    """Asks `jepack serve` for embeddings, over gRPC or HTTP; safe to share between threads.

    `url`: "host:port" or "grpc://host:port" of gRPC, "http://..." or "https://..." of the gateway, whose
    `key` and `ca_file` (PEM) may also stand in JEPACK_KEY and JEPACK_CA_FILE. `timeout_s` bounds every
    request, its retries included. `fingerprint`: the embedding space that is expected; another one, or one
    that changes meanwhile, is an ArtifactError. `model`: which bundle, where several are served by name, and
    "NAME@2" for one version of it.

    gRPC does not survive a fork: in a child of `os.fork` or of multiprocessing's "fork" every call raises
    ServerError at once. Over HTTP the child asks by connections of its own.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str = MODEL,
        timeout_s: float = 30.0,
        key: str | None = None,
        ca_file: Path | str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self._core = Core(url, timeout_s, fingerprint)
        self._door = door_to(url, key, ca_file, model)
        self.url, self.timeout_s = url, timeout_s

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
        self._door.close()

    def endpoint(self) -> Endpoint:
        """What is served there; asked once. Raises ServerError, ArtifactError for an unexpected space."""
        return self._drive(self._core.endpoint())

    def fingerprints(self) -> dict[str, str]:
        """Identity of each output's space, {"embedding": ..., "projection": ...}."""
        return dict(self.endpoint().fingerprints)

    def health(self) -> bool:
        """Whether a real image comes back embedded; see `diagnose` for the reason when not."""
        return self.diagnose() is None

    def diagnose(self, *, timeout_s: float = 5.0) -> str | None:
        """Why the endpoint cannot be used, None when it can: a small grey image is embedded, once."""
        return self._drive(self._core.diagnose(timeout_s))

    def embed(
        self,
        items: Item | Iterable[Item],
        *,
        output: Output = "both",
        probes: str | Sequence[str] = (),
        batch_size: int = 16,
        concurrency: int = 2,
        deadline_s: float | None = None,
        skip_bad: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Embeddings:
        """Embed images; `concurrency` requests of up to `batch_size` images are on their way.

        An image is a path (str or Path), a file's bytes, a PIL image, or an array of uint8 or uint16, [H, W]
        or [H, W, C]; arrays and PIL images are sent without loss. One image gives one row, a list or a folder
        one for each image, an empty list none, (0, E). Anything else is a TypeError.

        `probes`: names of those that are served (`Endpoint.probes`), over HTTP: their probabilities come
        beside the rows.

        A full queue is waited for and a server that restarts is asked again, up to `timeout_s` a request.
        `deadline_s` bounds the whole call: no request is begun that cannot end in time. `on_progress` gets
        the numbers of items done and in all, on the calling thread; see `jepack.terminal.counter`.

        A bad image raises DataError naming it; with `skip_bad` it becomes an entry of `errors` instead.
        Raises ServerError when the endpoint is missing, BusyError when it does not keep up.
        """
        steps = begun(
            self._core, listed(items), output, probes, batch_size, concurrency, deadline_s, skip_bad
        )
        call, stop = self._drive(steps), threading.Event()
        jobs = (partial(self._drive, call.steps(batch), stop) for batch in call.batches())
        with closing(together(jobs, concurrency, stop, call)) as parts:
            for part in parts:
                call.add(part)
                if on_progress is not None:
                    on_progress(call.done, len(call.items))
        return call.result()

    def infer(
        self, images: Sequence[bytes], *, timeout_s: float | None = None, grace_s: float = 0.0
    ) -> dict[str, Rows]:
        """One request: files' bytes -> {"embedding": [N, E], "projection": [N, D]}.

        What the server has not begun after `timeout_s` it drops. Over gRPC an answer is waited for `grace_s`
        longer, because a request that is cancelled on its way can crash Triton 2.51. A full queue is waited
        for; a server that does not answer is told at once. Raises DataError with the
        server's reason when it refuses an image, which fails the whole request; ServerError otherwise.
        """
        limit = Limit(self.timeout_s if timeout_s is None else timeout_s)
        return self._drive(self._core.infer(images, OUTPUTS, limit, grace_s=grace_s))

    def _drive(self, steps: Steps[T], stop: threading.Event | None = None) -> T:
        """Do what the steps ask for; `stop` ends them between two."""
        stop = stop or threading.Event()
        answer: Any = None
        failure: Exception | None = None
        while True:
            try:
                step = steps.send(answer) if failure is None else steps.throw(failure)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
            answer, failure = None, None
            if stop.wait(step.seconds if isinstance(step, Pause) else 0):
                steps.close()
                raise StoppedError
            try:
                if isinstance(step, Describe):
                    answer = self._door.describe(step.limit_s)
                elif not isinstance(step, Pause):
                    answer = self._door.send(step.images, step.outputs, step.limit_s, step.grace_s)
            except Exception as error:
                failure = error


class StoppedError(Exception):
    """Nobody waits for this batch any more."""


def together(
    jobs: Iterable[Callable[[], Part]], most: int, stop: threading.Event, call: Call
) -> Generator[Part, None, None]:
    """Parts as they come, `most` jobs at once; the next is read ahead.

    On daemon threads: after Ctrl-C, or when the deadline has passed, the program may end at once, and a
    request that is on its way is left to end by itself.
    """
    done: queue.SimpleQueue[Part | Exception] = queue.SimpleQueue()

    def work(job: Callable[[], Part]) -> None:
        try:
            done.put(job())
        except Exception as error:
            done.put(error)

    def take() -> Part:
        left_s = call.limit.left_s()
        try:
            found = done.get(timeout=None if left_s == float("inf") else max(left_s, 0.001))
        except queue.Empty:
            raise call.late() from None
        if isinstance(found, Exception):
            raise found
        return found

    running = 0
    try:
        for job in jobs:
            if running == most:
                yield take()
                running -= 1
            threading.Thread(target=work, args=(job,), daemon=True, name="jepack-embed").start()
            running += 1
        for _ in range(running):
            yield take()
    finally:
        stop.set()

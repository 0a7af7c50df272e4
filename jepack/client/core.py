"""The plan of a request without input and output: how long to wait, when to ask again, whom to believe.

The functions here and in `call` are generators. They yield `Describe`, `Send` or `Pause`, and are given the
answer, or have the failure thrown into them; what they return is the result. `Client` drives them with
threads, `AsyncClient` with tasks: one plan, no event loop below the first and no thread below the second.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from numbers import Integral
from time import monotonic
from typing import TypeVar

import numpy as np

from jepack.client.answers import OUTPUTS, Endpoint, Rows
from jepack.client.failures import BusyError, UnreachableError
from jepack.client.items import grey_png
from jepack.client.wire import Answer
from jepack.errors import ArtifactError, ConfigError, DataError, ServerError

T = TypeVar("T")
FIRST_TRIES = (
    4  # to reach a server that has not answered yet: who forgot to start it is told in a second
)
FRESH_S = 5.0  # an endpoint's description is believed without asking again
PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
LEAST_S = 0.005  # no request is begun with less, before one was answered


@dataclass(frozen=True)
class Describe:
    limit_s: float


@dataclass(frozen=True)
class Send:
    images: Sequence[bytes]
    outputs: Sequence[str]
    limit_s: float
    grace_s: float = 0.0  # an answer is waited for so much longer


@dataclass(frozen=True)
class Pause:
    seconds: float


Steps = Generator[Describe | Send | Pause, "Endpoint | Answer | None", T]


class Limit:
    """A time that ends; no request is begun when less is left than the quickest one took."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.end = seconds, monotonic() + seconds

    def left_s(self) -> float:
        return self.end - monotonic()


class Core:
    """What both clients know of the endpoint at `url`. Raises ConfigError for a limit that is no time."""

    def __init__(self, url: str, timeout_s: float, fingerprint: str | None) -> None:
        check_seconds("timeout_s", timeout_s)
        self.url, self.timeout_s, self.expected = url, timeout_s, fingerprint
        self.known: Endpoint | None = None
        self.asked_at = -math.inf
        self.quickest_s = math.inf  # of the requests that were answered

    def endpoint(self, limit: Limit | None = None, *, fresh: bool = False) -> Steps[Endpoint]:
        """What is served; asked anew where that is `FRESH_S` old and `fresh` is asked for."""
        if self.known is not None and not (fresh and monotonic() - self.asked_at > FRESH_S):
            return self.known
        limit = limit or Limit(self.timeout_s)
        tries = FIRST_TRIES if self.known is None else math.inf
        return (yield from self._patiently(lambda left_s, _: self._described(left_s), limit, tries))

    def _described(self, left_s: float) -> Steps[Endpoint]:
        found = yield Describe(left_s)
        assert isinstance(found, Endpoint)
        self._believe(found)
        return found

    def _believe(self, found: Endpoint) -> None:
        """Raises ArtifactError for another embedding space than the one expected, or than before."""
        if self.expected is not None and self.expected not in found.fingerprints.values():
            serves = ", ".join(f"{name} {text}" for name, text in found.fingerprints.items())
            raise ArtifactError(
                f"{self.url} serves {found.bundle} ({serves}), expected was {self.expected}. "
                "Embeddings of two spaces cannot be compared: serve the other bundle, or embed anew"
            )
        self._same(found.fingerprints)
        self.known, self.asked_at = found, monotonic()

    def _same(self, fingerprints: dict[str, str]) -> None:
        if self.known is None:
            return
        for output, text in fingerprints.items():
            before = self.known.fingerprints.get(output)
            if text != before:
                raise ArtifactError(
                    f"{self.url} serves another encoder than before: {output} {text}, it was {before}. "
                    "Embeddings of two spaces cannot be mixed: make another client, and embed anew"
                )

    def infer(
        self,
        images: Sequence[bytes],
        outputs: Sequence[str],
        limit: Limit,
        tries: float = 1,
        grace_s: float = 0.0,
    ) -> Steps[dict[str, Rows]]:
        """One request; a full queue is waited for, and `tries` are made to reach who does not answer.

        An answer is waited for `grace_s` beyond the limit, which the server is told.
        """

        def ask(left_s: float, lost: bool) -> Steps[dict[str, Rows]]:
            if lost:  # another server may stand there now
                yield from self._described(left_s)
                left_s = limit.left_s()
                if left_s < self.least_s():
                    raise BusyError(
                        f"{self.url}: answers again, too late for this request. Allow more: timeout_s"
                    )
            began = monotonic()
            answer = yield Send(images, outputs, left_s, grace_s)
            assert isinstance(answer, Answer)
            self.quickest_s = min(self.quickest_s, monotonic() - began)
            self._same(answer.fingerprints or {})
            shapes = {name: rows.shape for name, rows in answer.rows.items()}
            if any(
                len(shapes.get(name, ())) != 2 or shapes[name][0] != len(images) for name in outputs
            ):
                raise ServerError(f"{self.url}: {len(images)} images sent, {shapes} came back")
            return {name: answer.rows[name] for name in outputs}

        return (yield from self._patiently(ask, limit, tries))

    def _patiently(
        self, ask: Callable[[float, bool], Steps[T]], limit: Limit, tries: float
    ) -> Steps[T]:
        """Ask until there is an answer, a failure that asking again cannot mend, or no time for more."""
        pause_s, lost = PAUSE_S, False
        full: BusyError | None = None  # what the server said counts more than a short last wait
        while True:
            try:
                return (yield from ask(max(limit.left_s(), 0.001), lost))
            except BusyError as busy:
                if not busy.again:
                    raise (given_up(full, limit) if full else busy) from busy.__cause__
                failure: BusyError | UnreachableError = busy
                full = busy
            except UnreachableError as unreachable:
                tries, lost, failure = tries - 1, True, unreachable
                if tries <= 0:
                    raise
            # Never sooner than told; all clients at once would meet again.
            wait_s = (failure.after_s or 0.0) + pause_s * random.uniform(0.5, 1.0)
            if limit.left_s() - wait_s < self.least_s():
                if failure.after_s is None or failure.after_s < limit.left_s():
                    raise given_up(failure, limit)
                raise BusyError(
                    f"{failure} It asks to come again in {failure.after_s:g} s, and "
                    f"{max(limit.left_s(), 0):.1f} s are left. Allow more: timeout_s"
                ) from failure
            yield Pause(wait_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def least_s(self) -> float:
        """No request ends sooner."""
        return LEAST_S if math.isinf(self.quickest_s) else self.quickest_s

    def diagnose(self, timeout_s: float) -> Steps[str | None]:
        """Why the endpoint cannot be used, None when it can. By a small grey image: Triton's own readiness
        stays true when a model process has died."""
        try:
            limit = Limit(min(timeout_s, self.timeout_s))
            answer = yield from self.infer([grey_png()], OUTPUTS, limit)
        except (ArtifactError, ServerError, DataError) as error:
            return str(error)
        if not all(np.isfinite(rows).all() for rows in answer.values()):
            return f"{self.url}: answers with non-finite values"
        return None


def given_up(failure: BusyError | UnreachableError, limit: Limit) -> BusyError | UnreachableError:
    """A full queue with how long it was asked; nobody waits longer than that."""
    if isinstance(failure, UnreachableError):
        return failure
    return BusyError(f"{failure} It was asked again for {limit.seconds:.3g} s.", again=True)


def check_count(name: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name} is a whole number above 0, found {value!r}")


def check_seconds(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is a number of seconds above 0, found {value}")

"""The gateway watches what it embeds: every projection beside the bundle's null, and each one on request.

N images, D projection dims, K looks, W windows, C channels.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from prometheus_client.registry import Collector

from jepack.client import Endpoint
from jepack.errors import ConfigError
from jepack.measures import DriftReport, Null, Sample, Watcher, samples
from jepack.measures.drift import IMAGES_PER_FALSE_ALARM
from jepack.measures.null import BLOCK
from jepack.measures.scoring import Floats
from serving.gateway.errors import invalid
from serving.gateway.front import LOG
from serving.gateway.verdicts import History, families, iso, promise_of, state_of, verdict_of

HELD = 4096  # images that wait to be watched; more pass by unwatched, and are counted
GATHER_S = 0.05  # images that come one by one are watched together: .02 ms of CPU each, alone .17
NO_NULL = (
    "this bundle keeps no null, the picture of ordinary images that strange ones are judged by. Write it: "
    "jepack export BUNDLE --data IMAGES (or jepack import) with 64 held-out images or more, and serve it anew"
)


class Watch:
    """One model version beside its null. Without a null or a rate of false alarms nothing is watched.

    `see` puts rows into a bounded line and returns; a thread of its own takes them out. So watching slows no
    request and fails none, and each image is counted once, whichever thread embedded it. All of it is in
    memory and begins anew with the process.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        null: Null | None = None,
        *,
        images_per_false_alarm: float | None = IMAGES_PER_FALSE_ALARM,
    ) -> None:
        width = endpoint.dimensions["projection"]
        if null is not None and null.dimensions != width:
            raise ConfigError(
                f"the null is of {null.dimensions} dimensions, {endpoint.bundle} projects to {width}. "
                "Take the null of the bundle that is served"
            )
        self.endpoint, self.null = endpoint, null
        self.watcher: Watcher | None = None
        if null is not None and images_per_false_alarm is not None:
            self.watcher = Watcher(null, images_per_false_alarm=images_per_false_alarm)
            self._history = History(len(null.windows))
        self.alarm = False
        self.began = self.since = time.time()  # since when it is as it is
        self.missed = 0  # images that passed by unwatched
        self._images = self._over_at = 0
        self._seconds = 0.0  # of CPU
        self._line: deque[Floats] = deque()
        self._held = 0  # images in it
        self._wake = threading.Condition()  # guards the line
        self._taking = (
            threading.RLock()
        )  # one thread at a time takes from it, and reads what was found
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    # What requests ask.

    def check(self, wanted: bool) -> None:
        """Refuse atypicality before any work where there is nothing to judge by."""
        if wanted and self.null is None:
            raise invalid("no_null", NO_NULL, "atypicality")

    def atypicality(self, x_ND: Floats) -> list[float]:
        """[N] conformal p-values: at most a share p of ordinary images has a value <= p."""
        assert self.null is not None
        return [float(p) for p in self.null.p_values(x_ND)]

    def see(self, x_ND: Floats) -> None:
        """Called with the rows of every request; never waits for the watcher and never raises."""
        if self.watcher is None:
            return
        with self._wake:
            if self._held and self._held + len(x_ND) > HELD:
                self.missed += len(x_ND)
                return
            self._line.append(x_ND)
            self._held += len(x_ND)
            self._wake.notify()

    # The thread.

    def start(self) -> None:
        if self.watcher is not None and self._thread is None:
            self._closing.clear()
            self._thread = threading.Thread(target=self._run, name="jepack-watch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """What waits is watched before this returns."""
        if self._thread is not None:
            self._closing.set()
            with self._wake:
                self._wake.notify()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._line or self._closing.is_set())
                if not self._line:
                    return
            self._closing.wait(GATHER_S)
            self._take()

    def _take(self) -> None:
        """Watch all that waits now."""
        with self._taking:
            with self._wake:
                waiting = list(self._line)
                self._line.clear()
                self._held = 0
            if not waiting:
                return
            assert self.watcher is not None
            began, images = time.thread_time(), sum(map(len, waiting))
            try:
                for z_WC in self.watcher.add(np.concatenate(waiting)):
                    self._look(z_WC)
            except Exception:  # told, and no request suffers by it
                with self._wake:
                    self.missed += images
                LOG.exception("%d images could not be watched", images)
            self._seconds += time.thread_time() - began

    def _look(self, z_WC: Floats) -> None:
        """A look of the watcher, every 16 images. The alarm clears when none exceeded the threshold for as
        long as the shortest window is."""
        assert self.watcher is not None
        assert self.null is not None
        self._images += BLOCK
        z_W = np.fmax.reduce(z_WC, axis=1)  # NaN where nothing is known
        self._history.add(self._images, z_W)
        over = bool((z_W > self.watcher.threshold).any())  # NaN is not
        if over:
            self._over_at = self._images
        if over != self.alarm and (over or self._images - self._over_at >= self.null.windows[0]):
            self.alarm, self.since = over, time.time()
            self._tell(z_W)

    def _tell(self, z_W: Floats) -> None:
        """A line in the log: the alarm has risen, or cleared."""
        assert self.watcher is not None
        assert self.null is not None
        place = int(np.nanargmax(z_W))
        line = {
            "time": iso(self.since),
            "level": "warning" if self.alarm else "info",
            "event": "drift_alarm" if self.alarm else "drift_cleared",
            **self._who(),
            "images": self._images,
            "window": int(self.null.windows[place]),
            "z": round(float(z_W[place]), 3),
            "threshold": round(self.watcher.threshold, 3),
            "images_per_false_alarm": self.watcher.images_per_false_alarm,
        }
        LOG.info(json.dumps(line))

    # What is told.

    def _who(self) -> dict[str, str]:
        return {
            "model": self.endpoint.bundle,
            "fingerprint": self.endpoint.fingerprints["projection"],
        }

    def _which(self) -> dict[str, Any]:
        return {**self._who(), "version": self.endpoint.version}

    def offers(self) -> dict[str, Any]:
        """For /v1/models: what may be asked, and what the alarm promises."""
        watcher = self.watcher
        return {
            "atypicality": self.null is not None,
            "watching": watcher is not None,
            "images_per_false_alarm": watcher.images_per_false_alarm if watcher else None,
        }

    def report(self) -> DriftReport:
        """Of all that was seen before the call."""
        assert self.watcher is not None
        with self._taking:
            self._take()
            return replace(self.watcher.report(), alarm=self.alarm)

    def told(self, history: bool = False) -> dict[str, Any]:
        """What GET /v1/drift says of this model version. Not for the event loop: it may take some 50 ms."""
        if self.watcher is None:
            why = "switched off with --no-watch" if self.null is not None else NO_NULL
            verdict = f"cannot tell: nothing is watched, {why}"
            return {**self._which(), "watching": False, "state": "unknown", "verdict": verdict}
        with self._taking:
            report = self.report()
            found = {
                **self._which(),
                "watching": True,
                "state": state_of(report),
                "verdict": verdict_of(report, iso(self.since)),
                "since": iso(self.since),
                "watched_since": iso(self.began),
                "promise": promise_of(report),
                "missed": self.missed,
                "cpu_ms_per_image": round(1000 * self._seconds / max(report.images, 1), 4),
                **report.to_json(),
            }
            return {**found, "history": self._history.to_json()} if history else found

    def samples(self) -> Iterator[Sample]:
        """The same for Prometheus."""
        who = self._who()
        on = float(self.watcher is not None)
        yield Sample("jepack_drift_watching", "gauge", "1 while images are watched.", who, on)
        if self.watcher is None:
            return
        yield from samples(self.report(), who)
        for name, text, value in (
            ("missed", "Images that passed by unwatched.", self.missed),
            ("cpu_seconds", "Processor time that watching took.", self._seconds),
        ):
            yield Sample(f"jepack_drift_{name}_total", "counter", text, who, value)


class Watches(Collector):
    """Those of a gateway, one for each model version."""

    def __init__(self, every: Sequence[Watch] = ()) -> None:
        self.every = list(every)

    def of(self, endpoint: Endpoint) -> Watch:
        """That of this model version; one without a null where none was given."""
        found = next((one for one in self.every if one.endpoint == endpoint), None)
        if found is None:
            self.every.append(found := Watch(endpoint))
        return found

    def start(self) -> None:
        for one in self.every:
            one.start()

    def close(self) -> None:
        for one in self.every:
            one.close()

    def told(self, history: bool = False) -> list[dict[str, Any]]:
        return [one.told(history) for one in self.every]

    def collect(self) -> Iterator[Any]:
        """For Prometheus."""
        return families(sample for one in self.every for sample in one.samples())

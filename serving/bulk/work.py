"""Workers share the images that are left; rows are written a frame at a time.

A frame is as many images of the listing, in its order, as a part has rows. A few are open at once, so that a
worker that is slow or lost holds up none of the others; what is done of them is written when the frame is
whole, when a minute has passed, or when the run ends early.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic, time_ns

import numpy as np

from jepack.bundle import Probe
from jepack.client import Embeddings
from jepack.errors import JepackError, ServerError
from jepack.sources import ImageFile
from serving.bulk.job import Job
from serving.bulk.rows import Rows
from serving.bulk.saying import said_by
from serving.bulk.spool import Listed
from serving.bulk.store import Store
from serving.bulk.workers import Worker

OPEN_FRAMES = 8
WRITE_S = 60.0  # so much work is lost at most where a frame takes longer
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a lost worker is asked again

Place = tuple[int, int]  # number of a frame, first image of a batch in it


@dataclass(frozen=True)
class Told:
    """What a worker's thread tells: rows, that the worker is lost or back, or an error that ends the run."""

    worker: Worker
    place: Place | None = None
    rows: Embeddings | None = None
    lost: ServerError | None = None
    back: bool = False
    error: BaseException | None = None


class Frame:
    """Rows of some images as they come, in any order."""

    def __init__(self, number: int, listed: Listed, job: Job) -> None:
        count = len(listed.files)
        self.number, self.listed = number, listed
        self.outputs = {
            output: np.empty((count, job.dimensions[output]), np.float32) for output in job.outputs
        }
        self.bad: dict[int, str] = {}
        self.here = np.zeros(count, bool)  # came, not written yet
        self.left = count  # not come yet
        self.opened = monotonic()
        self.began_ns = time_ns()  # before any of its images is read

    def add(self, start: int, found: Embeddings) -> int:
        """The number of images that came."""
        count = len(found.embedding)
        for output, values in self.outputs.items():
            values[start : start + count] = getattr(found, output)
        self.bad.update({start + number: reason for number, reason in found.errors.items()})
        self.here[start : start + count] = True
        self.left -= count
        return count

    def take(self) -> Rows | None:
        """What came since the last time; None for nothing."""
        numbers: list[int] = np.flatnonzero(self.here).tolist()
        if not numbers:
            return None
        self.here[:] = False
        self.opened = monotonic()
        good = [number for number in numbers if number not in self.bad]
        files, names = self.listed.files, self.listed.names
        return Rows(
            frame=self.number,
            names=[names[number] for number in good],
            labels=[files[number].label or "" for number in good],
            outputs={output: values[good] for output, values in self.outputs.items()},
            bad=[
                (names[number], files[number].label or "", self.bad[number])
                for number in numbers
                if number in self.bad
            ],
            places=good,
            began_ns=self.began_ns,
        )


def work(
    frames: Iterator[Listed],
    workers: Sequence[Worker],
    store: Store,
    job: Job,
    *,
    batch_size: int,
    heads: Sequence[Probe] = (),
    on_rows: Callable[[int], None] = lambda count: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> None:
    """Embed every frame and store its rows. What is done is stored also when this raises.

    A worker that raises ServerError is lost: its batch goes to whoever is free, and it is asked again until
    it is back. `heads` answer beside the rows. Raises ServerError when no worker is left, and whatever else a
    worker raises.
    """
    Work(workers, store, job, batch_size, heads, on_rows, on_note).run(frames)


class Work:
    def __init__(
        self,
        workers: Sequence[Worker],
        store: Store,
        job: Job,
        batch_size: int,
        heads: Sequence[Probe],
        on_rows: Callable[[int], None],
        on_note: Callable[[str], None],
    ) -> None:
        self.workers, self.store, self.job, self.batch_size = workers, store, job, batch_size
        self.heads, self.on_rows, self.on_note = heads, on_rows, on_note
        self.open: dict[int, Frame] = {}
        self.todo: queue.PriorityQueue[Place] = queue.PriorityQueue()  # the oldest frame first
        self.told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.lost: dict[int, ServerError] = {}  # number of a worker: why

    def run(self, frames: Iterator[Listed]) -> None:
        numbered = enumerate(frames)
        self.feed(numbered)
        for worker in self.workers if self.open else ():
            # Daemons: after Ctrl-C the program may end, and a request on its way ends by itself.
            threading.Thread(target=self.serve, args=(worker,), daemon=True).start()
        try:
            while self.open:
                self.hear(self.told.get())
                self.feed(numbered)
        finally:
            self.stop.set()
            for frame in self.open.values():
                self.write(frame)

    def feed(self, numbered: Iterator[tuple[int, Listed]]) -> None:
        """Open frames until there are batches for all workers."""
        while self.todo.qsize() < 2 * len(self.workers) and len(self.open) < OPEN_FRAMES:
            number, listed = next(numbered, (-1, None))
            if listed is None:
                return
            self.open[number] = Frame(number, listed, self.job)
            for start in range(0, len(listed.files), self.batch_size):
                self.todo.put((number, start))

    def hear(self, told: Told) -> None:
        if told.error is not None:
            raise told.error
        if told.lost is not None:
            assert told.place is not None
            self.todo.put(told.place)
            self.lost[id(told.worker)] = told.lost
            self.check_somebody_is_left(told)
        elif told.back:
            self.lost.pop(id(told.worker), None)
            self.on_note(f"{told.worker.place} answers again")
        elif told.rows is not None and told.place is not None:
            number, start = told.place
            frame = self.open[number]
            count = frame.add(start, told.rows)
            if not frame.left or monotonic() - frame.opened > WRITE_S:
                self.write(frame)
            if not frame.left:
                del self.open[number]
            self.on_rows(count)

    def check_somebody_is_left(self, told: Told) -> None:
        """Raises ServerError naming every place that is lost."""
        if len(self.lost) < len(self.workers):
            self.on_note(f"{told.worker.place} is lost, the others go on ({told.lost})")
            return
        reasons = {str(reason): None for reason in self.lost.values()}
        if len(reasons) == 1 and told.lost is not None:
            raise told.lost
        raise ServerError("nobody is left to embed: " + "; ".join(reasons))

    def write(self, frame: Frame) -> None:
        rows = frame.take()
        if rows is not None:
            said = said_by(self.heads, rows.outputs) if self.heads else {}
            self.store.add(replace(rows, said=said))

    def serve(self, worker: Worker) -> None:
        """The thread of one worker: a batch at a time until the run is over."""
        while not self.stop.is_set():
            try:
                place = self.todo.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                rows = worker.embed(self.batch(place))
            except ServerError as error:
                self.told.put(Told(worker, place, lost=error))
                if self.wait_for(worker):
                    self.told.put(Told(worker, back=True))
            except BaseException as error:
                self.told.put(Told(worker, error=error))
                return
            else:
                self.told.put(Told(worker, place, rows))

    def batch(self, place: Place) -> list[ImageFile]:
        number, start = place
        return self.open[number].listed.files[start : start + self.batch_size]

    def wait_for(self, worker: Worker) -> bool:
        """Ask a lost worker until it is well; False where the run ended before."""
        pause_s = PAUSE_S
        while not self.stop.wait(pause_s):
            try:
                if worker.diagnose() is None:
                    return True
            except JepackError:
                pass
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return False

"""A CPU's threads for one call: each computes tiles of its own, as many threads as are fastest now.

torch's own threads share every operation instead. A tile's operations take microseconds, so they meet
hundreds of times, and where other processes want the cores each meeting can wait for the scheduler.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch
from torch import Tensor

from jepack.machine import threads

ONE_THREAD_ELEMENTS = 1 << 18  # views x images x slices up to which one thread is as fast as many
# Calls of so many seconds are timed together: one is a few of the scheduler's slices long, and says little
# beside a busy loop.
TOGETHER_S = 1.0

_most: ContextVar[int] = ContextVar("most", default=1)  # threads that `share` may take

Job = tuple[int, slice]  # a view, and a part of its images or slices
Work = Callable[[Iterator[Job]], None]


@contextmanager
def alone(z: Tensor) -> Iterator[None]:
    """torch's operations inside run on this thread alone, if `z` is on a CPU; afterwards as before.

    Also the small ones: beside a busy loop each of them that is split costs milliseconds. A thread that
    another part of the program starts meanwhile finds the number 1 too, as torch keeps it.
    """
    if z.device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    token = _most.set(before)
    if before != 1:
        torch.set_num_threads(1)  # of this thread, and of those that start now
    try:
        yield
    finally:
        _most.reset(token)
        if before != 1:
            torch.set_num_threads(before)


def share(work: Work, name: str, jobs: Sequence[Job], shape: tuple[int, ...]) -> None:
    """Have `work` do all jobs, in as many threads as are fastest now. Called inside `alone`.

    Each thread calls `work` once, with an iterator that takes a job after the other until none is left.
    Calls of the same `name` and `shape` (views, images, slices) cost the same, so they are what is
    compared; a number of threads that was asked for stays (`jepack.machine.threads.Chooser`).
    """
    most = 1 if math.prod(shape) <= ONE_THREAD_ELEMENTS else min(_most.get(), len(jobs))
    if most == 1:
        work(iter(jobs))
        return
    asked = most if threads.fixed() else 0
    with chooser(threading.get_ident(), name, shape, most).turn(number=asked) as number:
        together(work, jobs, number)


def together(work: Work, jobs: Sequence[Job], number: int) -> None:
    """`work` in this thread and `number` - 1 others; raises what any of them raised."""
    left = deque(jobs)
    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(taken(left))

    with ThreadPoolExecutor(max(1, number - 1), thread_name_prefix="sigreg") as pool:
        others = [pool.submit(run) for _ in range(number - 1)]
        run()
    for other in others:
        other.result()


def taken(jobs: deque[Job]) -> Iterator[Job]:
    """Jobs until none is left; several threads take from one queue."""
    while True:
        try:
            job = jobs.popleft()
        except IndexError:
            return
        yield job


@lru_cache(maxsize=64)  # shapes of a program, and threads that call
def chooser(thread: int, name: str, shape: tuple[int, ...], most: int) -> threads.Chooser:
    """One for each: the times of two shapes, and of threads that disturb each other, say nothing."""
    return threads.Chooser(Threads(most), turn_s=TOGETHER_S)


class Threads:
    """What a Chooser asks of a library: how many threads there may be. It sets none."""

    def __init__(self, number: int) -> None:
        self.number = number

    def get_num_threads(self) -> int:
        return self.number

    def set_num_threads(self, number: int) -> None:
        pass

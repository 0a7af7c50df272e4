"""SIGReg's threads on a CPU: how many take tiles, and what that changes nothing of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jepack.machine import threads
from jepack.sigreg import random_directions, sharing, sigreg, tiles

# More than ONE_THREAD_ELEMENTS, and parts of tiles at both ends.
VIEWS, IMAGES, SLICES, DIMENSIONS = 2, 700, 300, 6

OUTSIDE = {"detach.default", "ones_like.default"}  # autograd's own, of views and of one number


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def both_ways() -> tuple[Tensor, Tensor]:
    """The statistic and its gradient."""
    z = torch.randn(VIEWS, IMAGES, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    loss = sigreg(z, random_directions(DIMENSIONS, SLICES, step=0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    return loss.detach(), z.grad


def taking(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> list[int]:
    """Threads of each call from now on, by a clock that runs as `seconds` says of a number of threads."""
    numbers: list[int] = []
    now = 0.0
    together = sharing.together

    def watched(work: sharing.Work, jobs: list[sharing.Job], number: int) -> None:
        nonlocal now
        now += seconds(number)
        numbers.append(number)
        together(work, jobs, number)

    made: dict[object, threads.Chooser] = {}

    def chooser(*key: object) -> threads.Chooser:
        return made.setdefault(
            key, threads.Chooser(sharing.Threads(int(str(key[-1]))), lambda: now)
        )

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(sharing, "chooser", chooser)
    monkeypatch.setattr(sharing, "together", watched)
    return numbers


def test_any_number_of_threads_gives_the_same_bits() -> None:
    """Each thread computes tiles of its own, so no sum is split in another way."""
    torch.set_num_threads(1)
    value, grad = both_ways()
    for number in (2, 5):
        torch.set_num_threads(number)
        with threads.fixing(number):
            again, again_grad = both_ways()
        assert torch.equal(again, value)
        assert torch.equal(again_grad, grad)


def test_where_more_threads_are_slower_later_calls_take_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(2)
    numbers = taking(monkeypatch, lambda number: number / 10)
    for _ in range(12):
        both_ways()
    assert set(numbers[:2]) == {2}  # sums and gradient of the first
    assert set(numbers[-8:]) == {1}


def test_where_more_threads_are_faster_they_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    numbers = taking(monkeypatch, lambda number: 0.1 / number)
    for _ in range(12):
        both_ways()
    assert set(numbers[-8:]) == {2}


def test_a_number_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    numbers = taking(monkeypatch, lambda number: number / 10)
    with threads.fixing(2):
        for _ in range(6):
            both_ways()
    assert set(numbers) == {2}


def test_torchs_own_threads_share_no_operation_and_have_their_number_afterwards() -> None:
    torch.set_num_threads(3)
    z = torch.zeros(VIEWS, IMAGES, DIMENSIONS).requires_grad_()
    directions = random_directions(DIMENSIONS, SLICES, step=0)
    with NumbersOfThreads() as seen, threads.fixing(2):
        sigreg(z, directions).backward()  # type: ignore[no-untyped-call]
    assert torch.get_num_threads() == 3
    assert len(seen.numbers) > 20
    assert {name for name, number in seen.numbers if number != 1} <= OUTSIDE


def test_the_number_is_as_before_when_a_tile_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    torch.set_num_threads(3)
    monkeypatch.setattr(tiles, "project", fails)
    with pytest.raises(MemoryError):
        both_ways()
    assert torch.get_num_threads() == 3


class NumbersOfThreads(TorchDispatchMode):
    """Notes of every operation of this thread how many of torch's threads may share it."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.numbers.append((func.__name__, torch.get_num_threads()))
        return func(*args, **(kwargs or {}))

"""A figure that takes a while is made once, and again for another index."""

from __future__ import annotations

import threading

import pytest

from app.job import Job
from app.work import Work

LONG = 300  # s, on a machine however busy


def test_it_is_made_once_for_a_key_and_again_for_another() -> None:
    made: list[int] = []

    def make(work: Work) -> int:
        made.append(1)
        return len(made)

    job = Job("Counting", make)
    for key, found in (("a", 1), ("a", 1), ("b", 2)):
        job.begin(key)
        job.wait(LONG)
        assert job.found == found
        assert not job.running


def test_a_stopped_one_has_found_nothing_and_can_be_begun_again() -> None:
    go = threading.Event()

    def make(work: Work) -> str:
        go.wait(LONG)
        work.advance(0.5)
        return "done"

    job = Job("Waiting", make)
    job.begin("a")
    job.cancel()
    go.set()
    job.wait(LONG)
    assert job.found is None
    assert job.problem is None
    job.begin("a")
    job.wait(LONG)
    assert job.found == "done"


def test_what_failed_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    def make(work: Work) -> str:
        raise ValueError("the disk is gone")

    job = Job("Failing", make)
    job.begin("a")
    job.wait(LONG)
    assert job.found is None
    assert job.problem == "the disk is gone"

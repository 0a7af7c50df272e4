"""How many threads: the cores there are, and the number that is fastest while others want them."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jepack.machine import threads


class Machine:
    """A library's threads and a clock that runs while work is done: no real time is in these tests."""

    def __init__(self, cores: int, seconds: Callable[[int], float]) -> None:
        self.number, self.seconds, self.now = cores, seconds, 0.0
        self.turns: list[int] = []

    def get_num_threads(self) -> int:
        return self.number

    def set_num_threads(self, number: int) -> None:
        self.number = number

    def clock(self) -> float:
        return self.now

    def work(self, chooser: threads.Chooser, turns: int) -> list[int]:
        """The number of threads of each turn."""
        done = []
        for _ in range(turns):
            with chooser.turn() as number:
                assert self.number == number
                self.now += self.seconds(number)
            done.append(number)
        return done


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Machine, threads.Chooser]]:
    def make(cores: int, seconds: Callable[[int], float]) -> tuple[Machine, threads.Chooser]:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(threads, "cores", lambda: cores)
        found = Machine(cores, seconds)
        return found, threads.Chooser(found, found.clock)

    return make


def quiet(number: int) -> float:
    return 1.0 / number


def crowded(number: int) -> float:
    """Others want the cores: threads that meet wait for the scheduler."""
    return 1.0 if number == 1 else 10.0


def test_on_a_quiet_machine_the_work_keeps_all_cores(machine) -> None:
    here, chooser = machine(8, quiet)
    done = here.work(chooser, 2000)
    assert done.count(8) > 0.9 * len(done)
    assert here.now < 1.05 * 2000 / 8


@pytest.mark.parametrize("cores", [2, 8])
def test_where_threads_wait_for_each_other_the_work_goes_on_with_one(machine, cores) -> None:
    here, chooser = machine(cores, crowded)
    here.work(chooser, 30)
    before = here.now
    assert here.work(chooser, 400).count(1) > 380
    assert here.now - before < 400 / 0.8


def test_a_machine_that_becomes_busy_and_quiet_again_is_followed(machine) -> None:
    here, chooser = machine(2, quiet)
    here.work(chooser, 100)
    here.seconds = crowded
    here.work(chooser, 20)
    assert here.work(chooser, 50).count(1) > 45
    here.seconds = quiet
    here.work(chooser, 400)
    assert here.work(chooser, 50).count(2) > 45


def test_a_single_slow_turn_changes_nothing(machine) -> None:
    here, chooser = machine(2, quiet)
    turn = iter(range(10_000))
    here.seconds = lambda number: quiet(number) * (5 if next(turn) % 9 == 0 else 1)
    assert here.work(chooser, 500).count(2) > 450


def test_turns_too_short_to_time_are_timed_together(machine) -> None:
    here, chooser = machine(2, lambda number: crowded(number) / 10_000)
    here.work(chooser, 3000)
    assert here.work(chooser, 1000).count(1) > 900


def test_short_turns_that_vary_much_are_judged_by_many(machine) -> None:
    """Beside a busy loop some calls wait for the scheduler as long as they last."""
    here, _ = machine(2, quiet)
    chance = random.Random(0)
    here.seconds = lambda number: (0.02 if number == 1 else 0.027) * chance.choice([0.5, 0.5, 2])
    chooser = threads.Chooser(here, here.clock, turn_s=1.0)
    here.work(chooser, 1000)
    assert here.work(chooser, 4000).count(1) > 3300  # 2800 where each is judged alone


def test_a_number_that_was_asked_for_is_kept(machine, monkeypatch) -> None:
    here, chooser = machine(4, crowded)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert set(here.work(chooser, 50)) == {3}
    with threads.fixing(2):
        assert set(here.work(chooser, 50)) == {2}
    with threads.fixing(0):
        assert set(here.work(chooser, 50)) == {3}
    assert here.number == 4  # as it was found


def test_no_more_threads_are_taken_than_the_library_was_given(machine) -> None:
    here, chooser = machine(8, quiet)
    here.number = 2
    assert max(here.work(chooser, 50)) == 2


def test_the_number_is_as_before_when_the_work_fails(machine) -> None:
    here, chooser = machine(4, quiet)
    with pytest.raises(KeyError), chooser.turn(number=1):
        raise KeyError
    assert here.number == 4


V2 = {"proc/self/cgroup": "0::/pod/box\n"}
V1 = {"proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, float("inf")),
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n"}, float("inf")),
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                **V2,
                "sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/pod/box/cpu.max": "400000 100000\n",
            },
            2.0,
        ),
        ({**V2, "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),  # the mount is the group itself
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            },
            float("inf"),
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
    ],
)
def test_a_containers_quota_is_read(tmp_path: Path, files: dict[str, str], wanted: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.quota(tmp_path) == wanted
    assert threads.cores(tmp_path) == math.ceil(min(wanted, len(os.sched_getaffinity(0))))


def test_a_command_has_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    code = """
import os, sys
import jepack.cli
sys.argv[1:] = ["--version"]
try:
    jepack.cli.main()
except SystemExit:
    pass
print(os.environ["OMP_WAIT_POLICY"], os.environ["OPENBLAS_NUM_THREADS"])
assert not {"numpy", "torch"} & set(sys.modules)  # they read it when they are loaded
"""
    found = []
    for given in ({}, {"OMP_WAIT_POLICY": "ACTIVE", "OPENBLAS_NUM_THREADS": "2"}):
        environment = {k: v for k, v in os.environ.items() if k not in threads.CALM}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, **given},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        found.append(run.stdout.splitlines()[-1])
    assert found == ["PASSIVE 1", "ACTIVE 2"]

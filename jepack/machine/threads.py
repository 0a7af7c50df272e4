"""Processor threads: how many cores there are, how threads wait for each other, how many are fastest now.

Threads that work on one operation meet at its end. Where other processes want the cores, one of them is
not running when the others arrive, and a training step meets thousands of times. Two things help: waiting
threads sleep instead of holding a core that the missing one needs (`calm`), and the number of threads
follows what is measured (`Chooser`). Imports nothing heavy: a command calls `calm` before numpy and torch.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read once by the libraries, when they are loaded. With two busy loops on two cores, two threads that spin
# while they wait took 5.8 s for SIGReg's 1024 x 1024 and two that sleep 0.14 s; numpy's BLAS, which spins
# whatever it is told, 12 s for an isotropy report with two threads and 1.5 s with one.
CALM = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}

WARM_TURNS = 1  # the first allocates and is not judged
PAIRS = 3  # turns with the present number and with another, alternating
GAIN = 0.92  # of the present time, or the number stays
FLAT = 1.15  # half as many cost next to nothing: where threads wait, only one may be free of it
CLEAR = 1.8  # times slower or faster in the first pair: no second one
SLOWER = 1.5  # times the time at the last trial: the next one comes early
TURN_S = 0.03  # shorter turns are timed together, unless told otherwise
TRIAL_S = 10.0  # between trials at least
EARLY_S = 3.0
SHARE = 30  # a trial that lost a second is followed by 30 without one ...
LONGEST_S = 900.0  # ... but not by more than this

_fixed = 0


def calm(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have waiting threads sleep, in this process and those it starts. What the user set stays."""
    for name, value in CALM.items():
        environ.setdefault(name, value)


def cores(root: Path = Path("/")) -> int:
    """The cores this process may use: its affinity, and a container's quota (cgroup v1 and v2)."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(count, quota(root))))


def quota(root: Path = Path("/")) -> float:
    """Cores' worth of time that the control groups above this process allow; infinity without one."""
    least = math.inf
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return least
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mount / controllers if controllers else mount
        base = base if base.is_dir() else mount / "cpu"
        # In a container the name may be the host's, and the mount is the group itself.
        inside = Path(name.lstrip("/"))
        for folder in (base / inside, *(base / parent for parent in inside.parents), base):
            least = min(least, allowed(folder))
    return least


def allowed(group: Path) -> float:
    """Cores' worth of time of one control group; infinity where it has no limit."""
    try:
        if (group / "cpu.max").is_file():
            most, period = (group / "cpu.max").read_text().split()
        else:
            most = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(most) / int(period) if int(most) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max": no limit
        return math.inf


def fixed() -> int:
    """The number of threads that was asked for: `fixing`, else OMP_NUM_THREADS; 0 when it is free."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return _fixed or (int(asked) if asked.isdigit() else 0)


@contextmanager
def fixing(number: int) -> Iterator[None]:
    """Every chooser of this process stays with `number`; 0 changes nothing."""
    global _fixed
    before = _fixed
    _fixed = number or before
    try:
        yield
    finally:
        _fixed = before


class Chooser:
    """The number of threads for work that comes in turns, such as steps or batches.

    Starts with all there may be. Now and then, sooner when the work has become slower, it gives turns to
    half and to twice as many, each beside a turn with the present number, and changes when the median
    gain is worth it; then it goes on that way. A trial costs a few percent of the time at most.

    `library` is torch, or whatever has `get_num_threads` and `set_num_threads`: more threads than it has
    when a turn begins are never used, and it has as many when the turn is over. Turns are timed together
    until they took `turn_s`: longer where a single one says little.
    """

    def __init__(
        self,
        library: Any,
        clock: Callable[[], float] = time.perf_counter,
        turn_s: float = TURN_S,
    ) -> None:
        self.library, self.clock, self.turn_s = library, clock, turn_s
        self.number = self.cores = 0  # threads now, and there may be; 0 before the first turn
        self.used: set[int] = set()  # numbers whose first turn, which sets things up, is over
        self.warm = WARM_TURNS
        self.rivals: list[int] = []  # to be tried
        self.pairs: list[tuple[float, float]] = []  # seconds a unit: present number, rival
        self.half: float | None = None  # the present number's half of a pair
        self.seconds = self.units = 0.0  # of turns that are timed together
        self.recent: deque[float] = deque(maxlen=5)
        self.pace = math.inf  # seconds a unit at the last trial
        self.lost = 0.0  # seconds the last trial cost
        self.tried_at: float | None = None  # when the last trial began or ended

    @contextmanager
    def turn(self, units: float = 1.0, number: int = 0) -> Iterator[int]:
        """Do one turn's work inside; gives its number of threads. `units` of work, such as images.

        `number` repeats a turn that was done before with as many.
        """
        before = int(self.library.get_num_threads())
        self.cores = self.cores or cores()
        most = min(before, self.cores)
        free = not number and not fixed() and most > 1
        number = min(most, self.next(most)) if free else number or fixed() or most
        self.library.set_num_threads(number)
        started = self.clock()
        try:
            yield number
            if free:
                self.took(number, self.clock() - started, units, most)
        finally:
            self.library.set_num_threads(before)

    def next(self, most: int) -> int:
        """Threads of the next turn."""
        if self.number == 0 or self.number > most:
            self.number, self.rivals, self.pairs, self.half = most, [], [], None
        if not self.rivals:
            return self.number
        return self.rivals[0] if self.half is not None else self.number

    def took(self, number: int, seconds: float, units: float, most: int) -> None:
        """Take note of a turn with `number` threads."""
        self.seconds, self.units = self.seconds + seconds, self.units + units
        if self.seconds < self.turn_s:
            return
        spent, each = self.seconds, self.seconds / self.units
        self.seconds = self.units = 0.0
        new = number not in self.used
        self.used.add(number)
        now = self.clock()
        if self.tried_at is None:
            self.tried_at = now
        if self.rivals:
            if not new or (self.half is not None and each < self.half / CLEAR):
                self.compare(number, each, spent, most)
            return
        if self.warm:
            self.warm -= 1
            if not self.warm:
                self.begin(most)
            return
        self.recent.append(each)
        slower = len(self.recent) >= 3 and statistics.median(self.recent) > SLOWER * self.pace
        wait = max(EARLY_S if slower else TRIAL_S, min(SHARE * self.lost, LONGEST_S))
        if now - self.tried_at > wait:
            self.begin(most)

    def begin(self, most: int) -> None:
        """Start a trial of the neighbours: half as many, twice as many."""
        self.cores = cores()  # a container's quota may have changed
        others = (self.number // 2, min(most, 2 * self.number))
        self.rivals = [other for other in others if other not in (0, self.number)]
        self.pairs, self.half, self.lost = [], None, 0.0

    def compare(self, number: int, each: float, seconds: float, most: int) -> None:
        """One more half of a pair; after enough of them the rival wins or goes."""
        rival = self.rivals[0]
        if number != rival:
            self.half = each
            return
        assert self.half is not None
        self.lost += max(0.0, seconds * (1 - self.half / each))
        self.pairs.append((self.half, each))
        self.half = None
        ratios = [other / present for present, other in self.pairs]
        if len(ratios) < PAIRS and 1 / CLEAR < ratios[0] < CLEAR:
            return
        self.pace = statistics.median(present for present, _ in self.pairs)
        if statistics.median(ratios) < GAIN:
            self.pace = statistics.median(other for _, other in self.pairs)
            further = rival // 2 if rival < self.number else min(most, 2 * rival)
            self.number, self.rivals = rival, [further] if further not in (0, rival) else []
        elif rival < self.number and rival > 1 and statistics.median(ratios) < FLAT:
            self.rivals[0] = rival // 2
        else:
            self.rivals = self.rivals[1:]
        self.pairs = []
        if not self.rivals:
            self.tried_at = self.clock()
            self.recent.clear()

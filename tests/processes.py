"""Real processes that begin where torch is imported already: each costs its work, not seconds of imports.

Python's forkserver imports the training stage once and forks a process for each call: killed, signalled and
given an environment like any other. What torchrun and the shell add is shown where tests start those.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from jepack.cli import COMMANDS
from jepack.machine import HOST

FORKSERVER: Any = multiprocessing.get_context("forkserver")
OF_TRAINING = sorted({module for module, *_ in COMMANDS.values() if module.startswith("training.")})
FORKSERVER.set_forkserver_preload(["training.train", *OF_TRAINING])
WAIT_S = 300


@dataclass
class Started:
    """A process and the files that hold what it said."""

    process: Any
    log: Path

    def ended(self) -> int:
        """Waits for its end; its exit code, -signal where one ended it."""
        self.process.join(WAIT_S)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still at work after {WAIT_S} s: {self.errors[-3000:]}")
        return int(code)

    @property
    def output(self) -> str:
        return Path(f"{self.log}.out").read_text()

    @property
    def errors(self) -> str:
        return Path(f"{self.log}.err").read_text()


def spawn(function: Callable[..., None], arguments: tuple[object, ...], count: int) -> None:
    """`function(rank, *arguments)` in `count` processes; raises what one of them raised."""
    torch.multiprocessing.start_processes(
        function, args=arguments, nprocs=count, start_method="forkserver"
    )


def start(
    words: Sequence[object],
    log: Path,
    environment: dict[str, str] | None = None,
    before: tuple[Any, ...] = (),
) -> Started:
    """`jepack WORDS`, if any; `before` is a function of a test module and its arguments, called first."""
    arguments = (list(map(str, words)), str(log), {**os.environ, **(environment or {})}, before)
    process = FORKSERVER.Process(target=jepack, args=arguments, daemon=True)
    process.start()
    return Started(process, log)


def jepack(
    words: list[str], log: str, environment: dict[str, str], before: tuple[Any, ...]
) -> None:
    """What the new process does."""
    for number, kind in ((1, "out"), (2, "err")):
        target = os.open(f"{log}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, number)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    if before:
        before[0](*before[1:])
    if words:
        sys.argv = ["jepack", *words]
        importlib.import_module("jepack.cli").main()


def run(
    *words: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`jepack WORDS` to its end, like subprocess.run."""
    with TemporaryDirectory() as folder:
        started = start(words, Path(folder) / "said", environment)
        code = started.ended()
        return subprocess.CompletedProcess(words, code, started.output, started.errors)


def start_ranks(
    words: Sequence[object],
    ranks: int,
    log: Path,
    environment: dict[str, str] | None = None,
    before: tuple[Any, ...] = (),
) -> tuple[list[Started], Any]:
    """The same as `ranks` ranks of one run, as torchrun would start them; hold the second value, where they
    meet, until they have ended."""
    # It is ours, so no port is let go for somebody else to take.
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": HOST, "MASTER_PORT": str(store.port), "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    started = [
        start(
            words,
            log.with_name(f"{log.name}-{rank}"),
            {**(environment or {}), **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            before,
        )
        for rank in range(ranks)
    ]
    return started, store


def run_ranks(
    words: Sequence[object],
    ranks: int,
    log: Path,
    environment: dict[str, str] | None = None,
    before: tuple[Any, ...] = (),
) -> None:
    """All of them to a good end."""
    started, _store = start_ranks(words, ranks, log, environment, before)
    codes = [one.ended() for one in started]
    assert codes == [0] * ranks, [one.errors[-2000:] for one in started]

"""Real processes that begin where torch is imported already: each costs its work, not seconds of imports.

Python's forkserver imports the training stage once and forks a process for each call: killed, signalled and
given an environment like any other. What torchrun and the shell add is shown where tests start those.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jepack.loopback import HOST

FORKSERVER: Any = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["training.train", "training.cli", "sklearn.linear_model"])
WAIT_S = 300

Before = Callable[..., None]


@dataclass
class Started:
    """A process and the file that holds what it said."""

    process: Any
    log: Path

    def ended(self) -> int:
        """Waits for its end; its exit code, -signal where one ended it."""
        self.process.join(WAIT_S)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still at work after {WAIT_S} s: {self.said()[-3000:]}")
        return int(code)

    def said(self) -> str:
        return self.log.read_text()


def start(
    words: Sequence[object],
    log: Path,
    environment: dict[str, str] | None = None,
    before: tuple[object, ...] = (),
) -> Started:
    """`jepack WORDS`; `before` is a function of a test module and its arguments, called first."""
    arguments = (list(map(str, words)), str(log), {**os.environ, **(environment or {})}, before)
    process = FORKSERVER.Process(target=jepack, args=arguments, daemon=True)
    process.start()
    return Started(process, log)


def jepack(
    words: list[str], log: str, environment: dict[str, str], before: tuple[Any, ...]
) -> None:
    """What the new process does."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    if before:
        before[0](*before[1:])
    sys.argv = ["jepack", *words]
    importlib.import_module("jepack.cli").main()


def run(words: Sequence[object], log: Path, environment: dict[str, str] | None = None) -> str:
    """`jepack WORDS` to its end, which must be a good one; what it said."""
    started = start(words, log, environment)
    assert started.ended() == 0, started.said()[-3000:]
    return started.said()


def start_ranks(
    words: Sequence[object], ranks: int, log: Path, environment: dict[str, str] | None = None
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
        )
        for rank in range(ranks)
    ]
    return started, store


def run_ranks(
    words: Sequence[object], ranks: int, log: Path, environment: dict[str, str] | None = None
) -> None:
    """All of them to a good end."""
    started, _store = start_ranks(words, ranks, log, environment)
    codes = [one.ended() for one in started]
    assert codes == [0] * ranks, [one.said()[-2000:] for one in started]

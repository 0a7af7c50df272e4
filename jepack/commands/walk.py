"""One quickstart: its places, and its stages as processes that end when it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from jepack.errors import JepackError, ServerError
from jepack.machine import Tether

console = Console()
GRACE_S = 20.0  # a stage may take this long to save and stop
STOPS = (signal.SIGINT, signal.SIGTERM)


def interrupt(*_: object) -> None:
    """Ctrl-C, once: a second one must not cut short the stopping of what was started."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@dataclass
class Walk:
    """One quickstart: its places and the processes it started."""

    data: Path
    out: Path
    name: str
    license: str
    preset: str
    training: tuple[str, ...] = ()  # options of `jepack train` that suit the data
    group: str | None = None  # manifest column that splits keep together
    url: str = ""
    page: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    children: list[subprocess.Popen[str]] = field(default_factory=list)
    tether: Tether = field(default_factory=Tether)

    @property
    def bundle(self) -> Path:
        return self.out / "bundle"

    @property
    def index(self) -> Path:
        return self.out / "index"

    @property
    def picture(self) -> Path:
        return self.out / "compared.png"

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """A `jepack` command that can be stopped whole and ends when this process does."""
        child = self.tether.start([sys.executable, "-m", "jepack", *words], **options)
        self.children.append(child)
        return child

    def run(self, *words: str) -> None:
        """A stage to its end; its own error message has been printed when this raises."""
        child = self.start(*words)
        code = child.wait()
        self.children.remove(child)
        if code:
            error = JepackError(
                f"`jepack {words[0]}` failed; mend what it says above and run again"
            )
            error.exit_code = code if code > 0 else 1
            raise error

    def output_of(self, *words: str) -> Any:
        """The JSON a command prints."""
        child = self.start(*words, stdout=subprocess.PIPE)
        text, _ = child.communicate()
        self.children.remove(child)
        if child.returncode:
            raise ServerError(f"`jepack {words[0]}` failed with exit code {child.returncode}")
        return json.loads(text)

    def wait(self) -> None:
        """Until Ctrl-C, or until a server ends by itself."""
        while True:
            for child in self.children:
                if child.poll() is not None:
                    raise ServerError(f"a server ended by itself with exit code {child.returncode}")
            time.sleep(0.5)

    @contextmanager
    def tidy(self) -> Iterator[None]:
        """Stops every process that still runs, however the block ends."""
        try:
            yield
        finally:
            running = [child for child in self.children if child.poll() is None]
            if running:
                console.print("stopping ...")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                stop_all(running, number)


def stop_all(children: list[subprocess.Popen[str]], number: signal.Signals) -> None:
    for child in children:
        if child.poll() is None:
            try:
                os.killpg(child.pid, number)
            except ProcessLookupError:
                continue
    deadline = time.monotonic() + GRACE_S
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue

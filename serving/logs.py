"""tritonserver's log: where it lies, what matters of it, and those of the servers before this one."""

from __future__ import annotations

import os
import re
from pathlib import Path

KEPT = 3  # of servers before this one: LOG.1 is the latest
ERROR = re.compile(r"E\d{4} |error: ")
# Every start without a GPU prints these, and tables; they hide the line that matters.
HARMLESS = re.compile(r"NVML|DCGM|CUDA|Cuda|pinned|^[|+]|^\s*$")


def default(grpc_port: int) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "jepack" / f"tritonserver-{grpc_port}.log"


def tail(file: Path, lines: int) -> str:
    """What matters of a log: its errors, else its end; and its place."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        text = ""
    told = [line[:600] for line in text.splitlines() if not HARMLESS.search(line)]
    errors = [line for line in told if ERROR.match(line)]
    return "\n".join([*(errors or told)[-lines:], f"Whole log: {file}"])


def earlier(file: Path, number: int) -> Path:
    """The log of the server so many before this one."""
    return file.with_name(f"{file.name}.{number}") if number else file


def set_aside(file: Path) -> None:
    """Keep the log that is there, which may tell why a server died: LOG becomes LOG.1, LOG.1 LOG.2, ..."""
    if file.is_symlink() or not file.is_file() or not file.stat().st_size:  # /dev/null stays
        return
    for number in reversed(range(KEPT)):
        if earlier(file, number).is_file():
            earlier(file, number).replace(earlier(file, number + 1))

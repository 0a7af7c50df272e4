"""The processes of Triton's Python models, as Linux tells of them: Triton runs on nothing else here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

NAME = "triton_python_b"  # as the kernel cuts triton_python_backend_stub


def of_group(group: int) -> list[int]:
    """Those of a process group that live."""
    numbers = (int(one.name) for one in Path("/proc").iterdir() if one.name.isdecimal())
    return [one for one in numbers if told(one) == (NAME, group)]


def ended(number: int) -> bool:
    """Whether a process has ended, waited for or not."""
    return told(number)[0] != NAME


def told(number: int) -> tuple[str, int]:
    """(name, process group) of a process that lives, else ("", 0)."""
    with suppress(OSError, ValueError):
        words, _, rest = Path(f"/proc/{number}/stat").read_text().rpartition(") ")
        state, _, group = rest.split()[:3]
        if state not in "ZX":
            return words.partition("(")[2], int(group)
    return "", 0

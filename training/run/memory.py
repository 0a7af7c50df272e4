"""How much memory this process may still take, from what the system itself tells."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
# (limit, used) of a container, version 2 and 1 of the kernel's groups.
CONTAINER = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def available_memory() -> int:
    """Bytes that can be taken without swapping, a container's own limit respected."""
    return min([machine(), *container()])


def machine() -> int:
    try:
        for line in PROC.read_text().splitlines():
            name, _, size = line.partition(":")
            if name == "MemAvailable":
                return int(size.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # no Linux: all the memory there is, the nearest that POSIX tells
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def container() -> list[int]:
    """What the limit of the container leaves, cached files not counted; nothing where there is none."""
    free = []
    for limit, used in CONTAINER:
        try:
            most, taken = (int((CGROUP / name).read_text()) for name in (limit, used))
            told = (CGROUP / used).with_name("memory.stat").read_text().split()
            cached = dict(zip(told[::2], told[1::2], strict=True)).get("inactive_file", "0")
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
        free.append(max(0, most - taken + int(cached)))
    return free

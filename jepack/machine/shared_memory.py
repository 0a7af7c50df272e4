"""Room in /dev/shm, through which Triton's Python models exchange images with the server.

Measured with tritonserver 2.51 and 64 px crops: 2.1 MB to start, 26 MB after a request of 16 files of
1.5 MB, 58 MB after 16 of 7.7 MB (which the 64 MB of a Docker container do not hold), 152 MB with four
of those at once. What is taken is kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path

PLACE = Path("/dev/shm")
PROCESSES = 2  # of Python models at least: one that decodes, one that encodes
REGION = 1 << 20  # of each when it starts; Triton's own least
AMPLE = 256_000_000
MEND = (
    "In a container: docker run --shm-size=1g; in Kubernetes: an emptyDir of medium Memory, mounted at "
    "/dev/shm. Elsewhere: mount -o remount,size=1g /dev/shm"
)


def room() -> int | None:
    """Free bytes; None where there is no such place."""
    try:
        return shutil.disk_usage(PLACE).free
    except OSError:
        return None


def least(batch_bytes: int = 0, processes: int = PROCESSES) -> int:
    """What a server cannot start without, [bytes]; `batch_bytes` is a full batch of crops."""
    return processes * (REGION + batch_bytes)


def too_small(batch_bytes: int = 0, processes: int = PROCESSES) -> str | None:
    """Why a server cannot start here, None when it can."""
    free, needed = room(), least(batch_bytes, processes)
    if free is None or free >= needed:
        return None
    return (
        f"{free / 1e6:.1f} MB are free in {PLACE}, and Triton's models exchange images through it: "
        f"{needed / 1e6:.1f} MB to start, {max(AMPLE, needed) / 1e6:.0f} MB for large files. {MEND}"
    )


def tight() -> str | None:
    """What large files will meet here, None where there is ample room."""
    free = room()
    if free is None or free >= AMPLE:
        return None
    return (
        f"{free / 1e6:.0f} MB are free in {PLACE}; requests of large files need up to "
        f"{AMPLE / 1e6:.0f} MB and are refused where it is full. {MEND}"
    )

"""Memory that was freed stays with the process, so that the next step need not ask the kernel for it again.

A step on a CPU allocates and frees hundreds of buffers of megabytes. glibc hands each back to the kernel and
gets it again page by page, zeroed: in a virtual machine that can take longer than the computing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# mallopt's parameters (malloc.h) and what they become, in bytes.
SETTINGS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**30),  # free memory at the top that is handed back
    "MALLOC_TOP_PAD_": (-2, 64 * 2**20),  # asked for beyond what is needed
    # Larger buffers are handed back still: kept, the holes that they leave fit no other.
    "MALLOC_MMAP_THRESHOLD_": (-3, 128 * 2**20),
}


def keep_freed(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether from now on glibc keeps what is freed. Without glibc, or where the user has set one of
    `SETTINGS` or GLIBC_TUNABLES, nothing changes. A process may hold up to a third more than before."""
    if "GLIBC_TUNABLES" in environ or any(name in environ for name in SETTINGS):
        return False
    try:
        if "glibc" not in os.confstr("CS_GNU_LIBC_VERSION").lower():  # type: ignore[union-attr]
            return False
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):  # another C library, or none to be asked
        return False
    return all(mallopt(number, value) == 1 for number, value in SETTINGS.values())

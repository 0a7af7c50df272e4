"""Freed memory is not handed back to the kernel, so that steps do not ask for it again."""

import os
import subprocess
import sys

import pytest

from jepack.machine import allocation

# Page faults of twenty buffers of 64 MiB, one after the other, once the first is freed.
SCRIPT = """
import resource, sys
import numpy as np
from jepack.machine import allocation
if sys.argv[1] == "keep":
    assert allocation.keep_freed()
def use():
    np.zeros(1 << 26, np.uint8).fill(1)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names or not os.confstr("CS_GNU_LIBC_VERSION"),
    reason="another C library",
)


def faults(word: str) -> int:
    without = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, word],
        env=without,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@glibc
def test_what_is_freed_is_used_again() -> None:
    assert faults("keep") * 5 < faults("hand back")


def test_what_the_user_set_stays() -> None:
    assert not allocation.keep_freed({"MALLOC_TRIM_THRESHOLD_": "131072"})
    assert not allocation.keep_freed({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"})

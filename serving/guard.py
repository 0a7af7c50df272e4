"""Runs a server so that nothing of it outlives its parent: `python guard.py SCRATCH SHM_PREFIX COMMAND...`

The parent holds the other end of our standard input. When that closes, because the parent asked to stop
or died in any way, the server gets SIGTERM, then the whole process group SIGKILL; our own SIGTERM means
SIGKILL at once. Standard library only.
"""

from __future__ import annotations

import glob
import os
import select
import shutil
import signal
import subprocess
import sys

GRACE_S = 8.0  # tritonserver gives running requests 5 s (--exit-timeout-secs)


def main() -> None:
    scratch, shm_prefix, *command = sys.argv[1:]
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a Ctrl-C reaches the parent, which closes the pipe
    signal.signal(signal.SIGTERM, stop)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            readable, _, _ = select.select([sys.stdin], [], [], 0.2)
            if readable:  # closed, or a byte that says so
                break
        if server.poll() is None:
            server.terminate()
            server.wait(GRACE_S)
    except (subprocess.TimeoutExpired, SystemExit):
        pass
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        code = server.poll()
        end_group()
        for region in glob.glob(f"/dev/shm/{shm_prefix}*"):
            os.unlink(region)
    sys.exit(code if code is not None and code >= 0 else 1)


def stop(number: int, frame: object) -> None:
    raise SystemExit


def end_group() -> None:
    """Kill whatever is left in our group (a hanging server, model processes), sparing ourselves."""
    me, group = os.getpid(), os.getpgrp()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != me:
            try:
                if os.getpgid(int(entry)) == group:
                    os.kill(int(entry), signal.SIGKILL)
            except OSError:
                continue


if __name__ == "__main__":
    main()

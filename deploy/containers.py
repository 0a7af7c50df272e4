"""What the containers of compose.yaml run, and on what kind of disk, as commands for this machine."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from jepack.machine import loopback
from serving.environment import ensure_server_environment

HERE = Path(__file__).resolve().parent
# What the containers' disk is: read only but for volumes, /tmp (where Triton's Python backend makes a folder,
# whatever TMPDIR says) and shared memory.
READ_ONLY = """
set -e
for place in "$1" /dev/shm /tmp; do mount --bind "$place" "$place"; done
awk '{print $2}' /proc/self/mounts | sort -u | while read -r place; do
  case "$place" in
    "$1"|/dev/shm|/tmp|/proc*|/sys*|/dev/pts) ;;
    *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;;
  esac
done
shift
exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs "$@"
"""


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text())["services"]
    return found


def entrypoint(dockerfile: str) -> list[str]:
    """The words of an ENTRYPOINT in exec form."""
    text = (HERE / dockerfile).read_text().replace("\\\n", "")
    [line] = re.findall(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)
    words: list[str] = json.loads(line)
    return words


def translated(words: list[str], names: dict[str, str]) -> list[str]:
    """A command with what it names in its container replaced by what that is here."""
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    return [pattern.sub(lambda found: names[found[0]], str(word)) for word in words]


def names_here(work: Path, bundle: Path) -> dict[str, str]:
    """Paths and ports of the containers: here."""
    ports = []
    holders = [loopback.hold(0) for _ in range(4)]  # held until all are chosen
    for holder in holders:
        ports.append(holder.getsockname()[1])
        holder.close()
    http, grpc, metrics, prometheus = ports
    return {
        "/bundle": str(bundle),
        "/work/": f"{work}/",
        "/run/secrets/": f"{work}/",
        "triton:8001": f"127.0.0.1:{grpc}",
        "triton:8002": f"127.0.0.1:{metrics}",
        "gateway:8080": f"127.0.0.1:{http}",
        "=0.0.0.0:8080": f"=127.0.0.1:{http}",
        "=0.0.0.0": "=127.0.0.1",
        "=8001": f"={grpc}",
        "=8002": f"={metrics}",
        "/etc/prometheus/": f"{work}/",
        "=/prometheus": f"={work}/prometheus",
        "prometheus:9090": f"127.0.0.1:{prometheus}",
    }


def commands(names: dict[str, str], python: str) -> dict[str, list[str]]:
    """What each container would run. Triton's build is another one here, so it is told where it lies."""
    services = compose()
    jepack = [python, "-m", "jepack"]
    assert entrypoint("gateway.Dockerfile") == ["jepack"]
    _, program, *flags = entrypoint("triton.Dockerfile")
    assert program == "tritonserver"
    environment = ensure_server_environment()
    build = [
        f"--backend-directory={environment.backends}",
        f"--cache-directory={environment.caches}",
        f"--backend-config=python,shm-region-prefix-name=jepack-smoke-{secrets.token_hex(4)}-",
        "--model-config-name=cpu",
        "--model-control-mode=explicit",
        "--load-model=embed",
        "--allow-gpu-metrics=false",
    ]
    return {
        "repository": jepack + translated(services["repository"]["command"], names),
        "gateway": jepack + translated(services["gateway"]["command"], names),
        "triton": [
            str(environment.binary),
            *translated([*flags, *services["triton"]["command"]], names),
            *build,
        ],
        "prometheus": [
            *translated(services["prometheus"]["command"], names),
            f"--web.listen-address={names['prometheus:9090']}",
        ],
    }


def shutter(work: Path) -> list[str]:
    """Words before a command that give it a read-only disk; none where that cannot be had."""
    if os.geteuid() or not shutil.which("unshare") or not shutil.which("setpriv"):
        return []
    prefix = ["unshare", "-m", "bash", "-c", READ_ONLY, "shut", str(work)]
    probe = f"touch {work}/tmp/x && ! touch {HERE}/x 2>/dev/null"
    tried = subprocess.run([*prefix, "bash", "-c", probe], capture_output=True)
    return prefix if tried.returncode == 0 else []

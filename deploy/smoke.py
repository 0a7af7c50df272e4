"""The processes of compose.yaml here, without containers: the same commands, their ports on free ones.

    .venv/bin/python deploy/smoke.py --out FOLDER [--bundle BUNDLE]

The gateway is started before the Triton it waits for; both embed; Prometheus (where it can be had) reads
both and answers every query of alerts and dashboard; a process of Triton's models is killed, which readiness
must tell; Triton is started anew; all end by SIGTERM. FOLDER gets smoke.log, the logs of each, and their
pages of /metrics. Run by root where `unshare` works, each sees a disk that is read only but for its volumes,
and has no capability.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from containers import commands, names_here, shutter, translated

from jepack import bundle as bundles
from jepack.bundle import Bundle, golden_file
from jepack.client import Client
from jepack.errors import DataError, DependencyError
from serving.environment import ensure_server_environment

HERE = Path(__file__).resolve().parent
START_S = 300.0


class Smoke:
    """The processes, what is told of them, and their end."""

    def __init__(self, out: Path, bundle: Bundle, python: str) -> None:
        self.out, self.bundle = out, bundle
        self.work = out / "work"  # the volumes
        for folder in (self.work, self.work / "tmp", self.work / "prometheus"):
            folder.mkdir(parents=True, exist_ok=True)
        self.key = secrets.token_hex(16)
        for name in ("keys", "metrics_key"):
            (self.work / name).write_text(f"{self.key}\n")
        self.names = names_here(self.work, bundle.folder)
        self.commands = commands(self.names, python)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.began = time.monotonic()
        self.log = (out / "smoke.log").open("w")
        self.url = f"http://{self.names['gateway:8080']}"
        self.shut = shutter(self.work)
        self.tell(
            "disk read only but for volumes and /tmp, no capabilities"
            if self.shut
            else "no read-only disk here (it takes root and unshare)"
        )

    def tell(self, text: str) -> None:
        line = f"{time.monotonic() - self.began:6.1f} s  {text}"
        print(line, flush=True)
        print(line, file=self.log, flush=True)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        environment = ensure_server_environment().variables() if name == "triton" else os.environ
        home = {name: str(self.work / "tmp") for name in ("HOME", "TMPDIR", "XDG_STATE_HOME")}
        with (self.out / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.shut, *self.commands[name]], stdout=log, stderr=log, cwd=self.work,
                env={**environment, **home, "JEPACK_TRITON_VENV": ""}, start_new_session=True,
            )  # fmt: skip
        self.processes[name] = process
        words = " ".join(self.commands[name]).replace(str(self.out), "OUT").replace("\n", "\\n")
        self.tell(f"{name}: {words}")
        return process

    def stop(self, name: str, timeout_s: float = 60) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout_s)
        self.tell(f"{name}: SIGTERM, ended with {code}")
        return code

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    one.kill()
                process.wait()
        self.log.close()

    def memory(self, name: str) -> float:
        """MB that a process and its children share with nobody."""
        process = psutil.Process(self.processes[name].pid)
        every = [process, *process.children(recursive=True)]
        return sum(one.memory_full_info().uss for one in every) / 1e6

    def ready(self) -> int:
        try:
            return httpx.get(f"{self.url}/health/ready", trust_env=False, timeout=10).status_code
        except httpx.TransportError:
            return 0

    def until(self, told: str, holds: Callable[[], bool], *needed: str) -> None:
        """Wait until it holds, while the processes needed for it live."""
        end = time.monotonic() + START_S
        while not holds():
            dead = [name for name in needed if self.processes[name].poll() is not None]
            if dead or time.monotonic() > end:
                reason = f"{dead[0]} ended" if dead else f"not within {START_S:g} s"
                raise SystemExit(f"{told}: {reason}. Its log: {self.out}")
            time.sleep(0.2)
        self.tell(told)

    def page(self, name: str, address: str, key: str = "") -> str:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx.get(f"http://{address}/metrics", headers=headers, trust_env=False)
        answer.raise_for_status()
        (self.out / f"{name}.metrics").write_text(answer.text)
        return answer.text


def walk(smoke: Smoke) -> None:
    """The story. Raises AssertionError where it goes otherwise."""
    bundle = smoke.bundle
    assert smoke.start("repository").wait(120) == 0, "see repository.log"
    smoke.processes.pop("repository")
    smoke.tell("repository: written")
    smoke.start("gateway")
    smoke.start("triton")
    smoke.until(
        "ready: a golden image came back right", lambda: smoke.ready() == 200, "gateway", "triton"
    )
    assert httpx.get(f"{smoke.url}/v1/models", trust_env=False).status_code == 401
    smoke.tell("without a key: 401")
    embed(smoke, bundle)
    smoke.page("gateway", smoke.names["gateway:8080"], smoke.key)
    smoke.page("triton", smoke.names["triton:8002"])
    smoke.tell(
        "memory of their own, MB: "
        + ", ".join(f"{one} {smoke.memory(one):.0f}" for one in ("gateway", "triton"))
    )
    watch(smoke)
    break_and_mend(smoke)
    assert smoke.stop("gateway") == 0
    assert smoke.stop("triton") == 0
    lines = [line for line in (smoke.out / "gateway.log").read_text().splitlines() if line]
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(one.get("route") == "/v1/embeddings" for one in told), "requests are not in its log"
    assert smoke.key not in "".join(lines)
    smoke.tell(f"gateway's log: {len(told)} JSON lines on standard output, no key in them")


def embed(smoke: Smoke, bundle: Bundle) -> None:
    files = [golden_file(one, bundle.preprocessing) for one in bundle.golden()["images"]]
    head = {"authorization": f"Bearer {smoke.key}"}
    with Client(smoke.url, key=smoke.key, timeout_s=120) as client:
        found = client.embed(files * 20, batch_size=8)
        assert found.fingerprints == bundle.fingerprints
        try:
            client.embed([b"no image"])
        except DataError as error:
            smoke.tell(f"no image: refused, {error}")
    with httpx.Client(base_url=smoke.url, headers=head, trust_env=False, timeout=120) as http:
        form = http.post("/v1/embeddings", files={"file": files[0]})
        assert form.status_code == 200, form.text
        drift = http.get("/v1/drift").json()["data"]
    smoke.tell(f"embedded {len(found.names)} images, and one of a form; drift: {drift[0]['state']}")


def watch(smoke: Smoke) -> None:
    """Prometheus with our config, where it can be had."""
    from check import queries
    from tools import Missing, prometheus

    try:
        binary, asked = prometheus("prometheus"), queries()
    except Missing as missing:
        smoke.tell(f"SKIPPED Prometheus, because {missing}")
        return
    config = translated([(HERE / "prometheus/prometheus.yml").read_text()], smoke.names)[0]
    (smoke.work / "prometheus.yml").write_text(config.replace(": 15s", ": 1s"))
    shutil.copy(HERE / "chart/monitoring/alerts.yaml", smoke.work / "alerts.yaml")
    smoke.commands["prometheus"].insert(0, str(binary))
    smoke.start("prometheus")
    with httpx.Client(
        base_url=f"http://{smoke.names['prometheus:9090']}", trust_env=False, timeout=30
    ) as http:

        def values(query: str) -> list[Any]:
            try:
                got = http.get("/api/v1/query", params={"query": query})
            except httpx.TransportError:
                return []
            if got.status_code == 503:  # it is starting
                return []
            answer = got.json()
            assert answer["status"] == "success", (query, answer)
            return list(answer["data"]["result"])

        def scraped() -> bool:
            return len(values("count_over_time(up[1m]) > 4")) == 2 and len(values("up == 1")) == 2

        smoke.until("Prometheus: both are up", scraped, "prometheus")
        embed(smoke, smoke.bundle)  # so that rates have something to show
        panels = [query for where, query in asked.items() if where.startswith("panel")]
        if smoke.bundle.null() is None:
            panels = [query for query in panels if "jepack_drift_" not in query]
            smoke.tell("SKIPPED drift in the dashboard, because this bundle keeps no null")
        smoke.until(
            f"Prometheus: each of {len(panels)} queries of the dashboard has data",
            lambda: all(values(query) for query in panels),
            "prometheus",
        )
        for query in asked.values():
            values(query)  # alerts have data when they fire; all must be answered
        rules = http.get("/api/v1/rules").json()["data"]["groups"]
        health = {rule["health"] for group in rules for rule in group["rules"]}
        assert health <= {"ok", "unknown"}, rules
        alarmed = {
            one["metric"]["alertname"]: one["metric"]["alertstate"] for one in values("ALERTS")
        }
        smoke.tell(f"Prometheus: {sum(len(one['rules']) for one in rules)} alerts, now {alarmed}")
    smoke.stop("prometheus")


def break_and_mend(smoke: Smoke) -> None:
    """Readiness tells of a dead process of Triton's models; a new Triton mends it, without a new gateway."""
    stubs = [
        one
        for one in psutil.Process(smoke.processes["triton"].pid).children(recursive=True)
        if "stub" in one.name()
    ]
    for one in stubs:
        one.kill()
    smoke.tell(f"{len(stubs)} processes of Triton's models killed")
    smoke.until("readiness tells: 503", lambda: smoke.ready() == 503, "gateway", "triton")
    triton = smoke.processes.pop("triton")  # as kubelet would after the liveness probe
    triton.terminate()
    triton.wait(90)
    smoke.start("triton")
    smoke.until("ready again", lambda: smoke.ready() == 200, "gateway", "triton")


@contextmanager
def running(out: Path, bundle: Bundle, python: str) -> Iterator[Smoke]:
    smoke = Smoke(out, bundle, python)
    try:
        yield smoke
    finally:
        smoke.end()


def small_bundle(folder: Path) -> Bundle:
    """A small random encoder over scikit-learn's digits, exported, with a null."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from small_bundle import write_digits, write_small_bundle

    from export.run import export_bundle

    digits = write_digits(folder / "digits", 160)
    made = write_small_bundle(folder / "bundle", digits)
    return export_bundle(made, formats=["onnx"], data=digits, timing=False).bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--bundle", type=Path, help="Exported, with a null; a small one is made without."
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="Of an environment with jepack, as the gateway's image.",
    )
    asked = parser.parse_args()
    out = asked.out.absolute()
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    try:
        ensure_server_environment()
    except DependencyError as error:
        print(f"SKIPPED  the processes of compose.yaml\n         because {error}")
        return
    bundle = bundles.load(asked.bundle) if asked.bundle else small_bundle(out)
    with running(out, bundle, asked.python) as smoke:
        walk(smoke)
        smoke.tell("all is well")


if __name__ == "__main__":
    main()

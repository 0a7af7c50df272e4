"""`jepack serve` with its gateway, as a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from pictures import data_url, png
from slow_engine import wait_until
from typer.testing import CliRunner

from jepack.bundle import Bundle
from jepack.cli import app
from jepack.machine import loopback

KEY = "a-key-of-sixteen-characters"
ANYWHERE = ["--port", "0", "--http-port", "0", "--metrics-port", "0"]


@contextmanager
def serving(
    bundle: Bundle, folder: Path, *options: str, **environment: str
) -> Iterator[tuple[dict[str, Any], Any]]:
    """What it tells once ready, and its process."""
    command = [sys.executable, "-m", "jepack", "serve", str(bundle.folder), "--json", *options]
    env = {**os.environ, "XDG_STATE_HOME": str(folder), **environment}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.communicate()
        yield json.loads(line), process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("engine", ["embedded", pytest.param("triton", marks=pytest.mark.triton)])
def test_serve_answers_over_http_until_it_is_told_to_stop(
    exported_bundle: Bundle, embedded: Any, tmp_path: Path, engine: str
) -> None:
    options = ["--http", "127.0.0.1:0", "--engine", engine]
    options += ANYWHERE if engine == "triton" else []
    with serving(exported_bundle, tmp_path, *options) as (told, process):
        url = told["gateway"]
        assert ("url" in told) == (engine == "triton")
        answer = httpx.post(
            f"{url}/v1/embeddings", json={"input": data_url(png())}, trust_env=False, timeout=300
        ).json()
        assert answer["fingerprint"] == exported_bundle.fingerprints["embedding"]
        want = embedded.embed([png()], limit_s=300).rows["embedding"]
        found = [one["embedding"] for one in answer["data"]]
        np.testing.assert_allclose(np.array(found), want, rtol=1e-5, atol=1e-5)
        wait_until(lambda: ready(url))
        started = psutil.Process(process.pid).children(recursive=True)
        assert (len(started) >= 4) == (engine == "triton")  # guard, server, two models
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert not psutil.wait_procs(started, timeout=300)[1]
    [log] = (tmp_path / "jepack").glob("gateway-*.log")
    assert json.loads(log.read_text().splitlines()[0])["route"] == "/v1/embeddings"


def ready(url: str) -> bool:
    return httpx.get(f"{url}/health/ready", trust_env=False, timeout=300).is_success


def test_keys_come_from_a_file_or_the_environment(exported_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    options = ["--http", "127.0.0.1:0", "--engine", "embedded"]
    for more, environment in (
        (["--key-file", str(file)], {}),
        ([], {"JEPACK_KEYS": KEY}),
    ):
        with serving(exported_bundle, tmp_path, *options, *more, **environment) as (told, process):
            url = f"{told['gateway']}/v1/models"
            assert httpx.get(url, trust_env=False, timeout=300).status_code == 401
            head = {"authorization": f"Bearer {KEY}"}
            assert httpx.get(url, headers=head, trust_env=False, timeout=300).status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 0


def test_a_container_reads_the_log_on_standard_output(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    options = ["--http", "127.0.0.1:0", "--engine", "embedded", "--http-log", "-"]
    with serving(exported_bundle, tmp_path, *options) as (told, process):
        httpx.get(f"{told['gateway']}/v1/models", trust_env=False)
        assert json.loads(process.stdout.readline())["route"] == "/v1/models"
    assert not list(tmp_path.iterdir())


@pytest.mark.triton
def test_a_gateway_waits_for_a_triton_that_is_started_after_it(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    from serving.server import TritonServer

    with loopback.hold(0) as held:
        port = held.getsockname()[1]
    told: list[dict[str, Any]] = []
    options = ["--http", "127.0.0.1:0", "--engine", f"127.0.0.1:{port}", "--wait-s", "300"]

    def serve() -> None:
        with serving(exported_bundle, tmp_path, *options) as (facts, _):
            told.append(facts)

    gateway = threading.Thread(target=serve)
    gateway.start()
    with TritonServer(
        exported_bundle, http_port=0, grpc_port=port, metrics_port=0, log_file=tmp_path / "log"
    ):
        gateway.join(300)
    assert told[0]["fingerprints"] == exported_bundle.fingerprints


@pytest.mark.triton
def test_a_triton_elsewhere_can_stand_behind_it(
    triton_server: Any, exported_bundle: Bundle, small_bundle: Bundle, tmp_path: Path
) -> None:
    options = ["--http", "127.0.0.1:0", "--engine", triton_server.url]
    with serving(exported_bundle, tmp_path, *options) as (told, _):
        answer = httpx.post(
            f"{told['gateway']}/v1/embeddings", json={"input": data_url(png())}, trust_env=False,
            timeout=300,
        )  # fmt: skip
        assert answer.status_code == 200


REFUSED = {
    "an open door without keys": (["--http", "0.0.0.0:0"], "--key-file"),
    "an address without a port": (["--http", "localhost"], "host:port"),
    "a port that is none": (["--http", "127.0.0.1:99999"], "65535"),
    "a key file that is missing": (["--key-file", "nowhere.txt"], "nowhere.txt"),
    "half a certificate": (["--tls-cert", "c.pem"], "--tls-key"),
    "a certificate that is missing": (["--tls-cert", "c.pem", "--tls-key", "k.pem"], "c.pem"),
    "an unknown engine": (["--engine", "torch"], "--engine is triton"),
    "nothing to serve": (["--no-http", "--engine", "embedded"], "--no-http"),
    "a log of no gateway": (["--no-http", "--http-log", "-"], "--http-log"),
    "nobody to wait for": (["--engine", "embedded", "--wait-s", "9"], "--wait-s"),
    "keys of gRPC": (["--no-http", "--key-file", "keys.txt"], "--key-file"),
    "Triton's port where there is none": (
        ["--engine", "embedded", "--port", "8003", "--log-file", "log"],
        "starts no Triton; the gateway is at --http and decodes by itself: no effect of --port, "
        "--log-file; leave them out",
    ),
    "decoders where there are none": (["--engine", "embedded", "--decoders", "3"], "--decoders"),
    "threads of a Triton elsewhere": (["--engine", "far:8001", "--threads", "4"], "--threads"),
    "a gateway of a repository": (
        ["--repository-only", "models", "--http", "127.0.0.1:0"],
        "stops: no effect of --http; leave it out",
    ),
    "TensorRT on this machine": (["--tensorrt", "fp16"], "--repository-only DIR"),
    "nothing to watch": (["--no-http", "--no-watch"], "--no-watch"),
    "a rate of what is not watched": (
        ["--no-watch", "--images-per-false-alarm", "9"],
        "--no-watch",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_cannot_work_are_told_before_any_work(
    exported_bundle: Bundle, case: str
) -> None:
    options, word = REFUSED[case]
    done = CliRunner().invoke(app, ["serve", str(exported_bundle.folder), *options])
    assert done.exit_code != 0
    assert word in str(done.exception)
    assert getattr(done.exception, "exit_code", None) == 2

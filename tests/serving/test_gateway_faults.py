"""`jepack serve` under load while a part of it is killed: every request ends, and it serves again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pictures import data_url, png
from slow_engine import wait_until

from jepack.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.triton]
BODY = {"input": [data_url(png(7)), data_url(png(90))]}
CALLERS = 8
LOST_S = 100  # the gateway's own deadline is 30 s; what has no answer after this has none


class Load:
    """Callers that post one request after another, and how each ended."""

    def __init__(self, url: str) -> None:
        self.url, self.ended, self.going = url, Counter[str](), True
        self.threads = [threading.Thread(target=self.call) for _ in range(CALLERS)]

    def call(self) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=LOST_S) as http:
            while self.going:
                try:
                    answer = http.post("/v1/embeddings", json=BODY)
                except httpx.TimeoutException:
                    self.ended["lost"] += 1
                except httpx.TransportError:
                    self.ended["broken"] += 1
                    time.sleep(0.1)
                else:
                    told = answer.json()  # also an error is JSON
                    self.ended[str(answer.status_code)] += 1
                    if answer.status_code != 200:
                        assert told["error"]["code"]
                        time.sleep(0.1)

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.going = False
        for thread in self.threads:
            thread.join(LOST_S + 60)
        assert not any(thread.is_alive() for thread in self.threads)


@contextmanager
def served(
    bundle: Bundle, log: Path, http: str = "127.0.0.1:0"
) -> Iterator[tuple[Any, psutil.Process]]:
    """What `jepack serve --json` told, and its process."""
    command = [
        sys.executable, "-m", "jepack", "serve", str(bundle.folder), "--json", "--http", http,
        "--port", "0", "--http-port", "0", "--metrics-port", "0", "--log-file", str(log),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.wait(30)
        yield json.loads(line), psutil.Process(process.pid)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(120)
        assert process.stdout is not None
        process.stdout.close()


def named(process: psutil.Process, name: str) -> list[psutil.Process]:
    return [one for one in process.children(recursive=True) if name in one.name()]


def works(url: str) -> bool:
    try:
        answer = httpx.post(f"{url}/v1/embeddings", json=BODY, trust_env=False, timeout=LOST_S)
    except httpx.TransportError:
        return False
    return answer.status_code == 200


@pytest.mark.parametrize("part", ["tritonserver", "stub"])
def test_a_killed_part_of_triton_costs_no_request_its_answer(
    exported_bundle: Bundle, tmp_path: Path, part: str
) -> None:
    with (
        served(exported_bundle, tmp_path / "log") as (told, process),
        Load(told["gateway"]) as load,
    ):
        wait_until(lambda: load.ended["200"] > 50)
        killed = named(process, part)
        assert killed
        for one in killed:
            one.kill()
        began = time.monotonic()
        wait_until(lambda: set(load.ended) - {"200"}, 120)
        before = load.ended["200"]
        wait_until(lambda: load.ended["200"] > before + 50, 120)
        print(f"{part}: serving again after {time.monotonic() - began:.1f} s, {dict(load.ended)}")
    assert not load.ended["lost"]
    assert set(load.ended) <= {"200", "429", "503", "504", "broken"}


def test_a_killed_gateway_breaks_its_connections_and_leaves_nothing(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    with served(exported_bundle, tmp_path / "log") as (told, process):
        everything = [process, *process.children(recursive=True)]
        with Load(told["gateway"]) as load:
            wait_until(lambda: load.ended["200"] > 50)
            process.kill()
            wait_until(lambda: load.ended["broken"] >= CALLERS)
            _gone, alive = psutil.wait_procs(everything, timeout=60)
            assert not [one for one in alive if one.is_running() and one.status() != "zombie"]
            place = told["gateway"].removeprefix("http://")
            with served(exported_bundle, tmp_path / "log2", http=place) as (again, _):
                assert again["gateway"] == told["gateway"]
                before = load.ended["200"]
                wait_until(lambda: load.ended["200"] > before + 50, 120)
    print(f"gateway: {dict(load.ended)}")
    assert not load.ended["lost"]
    assert set(load.ended) <= {"200", "429", "503", "broken"}

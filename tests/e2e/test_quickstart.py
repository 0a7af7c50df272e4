"""The whole way on real pictures: the command a new user types, the real server, a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jepack import bundle as bundles
from jepack.client import Client
from jepack.sources import find_images

pytestmark = [pytest.mark.triton, pytest.mark.timeout(900)]
CLASSES = {"defect-0": 60, "defect-1": 60}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 real solar cells in two class folders."""
    pytest.importorskip("elpv_dataset", reason="needs the demo extra: pip install 'jepack[demo]'")
    from jepack.sources.demo import prepare

    whole = prepare("solar", tmp_path_factory.mktemp("solar"))
    folder = tmp_path_factory.mktemp("cells")
    for label, count in CLASSES.items():
        (folder / label).mkdir()
        for path in sorted((whole / label).iterdir())[:count]:
            (folder / label / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@contextlib.contextmanager
def quickstart(cells: Path, place: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable, "-m", "jepack", "quickstart", "--data", str(cells), "--out",
        str(place / "run"), "--preset", "industrial", "--minutes", "30", "--triton-port", "0",
        *words,
    ]  # fmt: skip
    child = subprocess.Popen(
        command, env={**os.environ, "JEPACK_CACHE": str(place / "cache"), "COLUMNS": "200"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        assert child.stdout is not None
        child.stdout.close()


def outlasting(started: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still ran after three minutes, and no longer do."""
    _, left = psutil.wait_procs(started, timeout=180)
    for process in left:
        process.kill()
    return left


def line_with(child: subprocess.Popen[str], words: str, timeout_s: float) -> tuple[str, str]:
    """(the first line that holds the words, everything before it)."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    seen = []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
        seen.append(line)
        if words in line:
            return line, "".join(seen)
        if not line:
            break
    raise AssertionError(f"no line with {words!r} in:\n{''.join(seen)[-4000:]}")


@pytest.mark.browser
def test_from_pictures_to_a_page_and_away_again(cells: Path, place: Path) -> None:
    from app.screenshot import browser, missing_browser, wait_for

    reason = missing_browser()
    if reason is not None:
        pytest.skip(reason)
    with quickstart(cells, place, "--port", "0") as child:
        line, told = line_with(child, "Open http", 600)
        address = re.search(r"http://\S+", line)
        assert address is not None
        started = psutil.Process(child.pid).children(recursive=True)
        assert any("tritonserver" in process.name() for process in started)
        with browser() as driver:
            driver.get(address.group())
            clicked = wait_for(driver, "#jp-gallery [data-id]")[0]
            name = clicked.get_attribute("data-id")
            clicked.click()
            distances = wait_for(driver, "#jp-results .jp-card [data-distance]")
            shown = [float(one.get_attribute("data-distance")) for one in distances]
            cards = driver.find_elements("css selector", "#jp-results .jp-card[data-id]")
            names = [one.get_attribute("data-id") for one in cards]
        assert shown == sorted(shown)
        assert len(names) == len(shown)
        assert name not in names  # an image of the index asks for the others
        for _ in range(3):  # people press Ctrl-C more than once
            child.send_signal(signal.SIGINT)
            time.sleep(0.02)
        child.wait(240)
    assert not outlasting(started), "processes were left"
    assert "licence of the data" in told
    assert "random:resnet10t" in told  # compared with the same network untrained
    assert (place / "run" / "compared.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_outlives_a_killed_quickstart(cells: Path, place: Path) -> None:
    """Nobody is left to stop the servers, and nobody can answer for a kill."""
    with quickstart(cells, place, "--port", "0") as child:
        line_with(child, "Open http", 600)
        started = psutil.Process(child.pid).children(recursive=True)
        assert any("tritonserver" in process.name() for process in started)
        child.kill()
        left = outlasting(started)
    assert not left


def test_training_stops_and_keeps_its_steps_when_its_quickstart_is_killed(
    cells: Path, tmp_path: Path
) -> None:
    with quickstart(cells, tmp_path, "--no-app", "--minutes", "5") as child:
        line_with(child, "step 1/", 600)
        started = psutil.Process(child.pid).children(recursive=True)
        assert started
        child.kill()
        left = outlasting(started)
    assert not left
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "bundle").exists()  # stopped, not finished


def test_a_second_run_reuses_everything_and_checks_itself(cells: Path, place: Path) -> None:
    with quickstart(cells, place, "--no-app") as child:
        told, _ = child.communicate(timeout=600)
    assert child.returncode == 0, told[-4000:]
    assert "first, at distance 0.00000" in told
    with quickstart(cells, place, "--no-app") as child:
        again, _ = child.communicate(timeout=300)
    assert child.returncode == 0, again[-4000:]
    assert again.count("reusing") == 4


def test_what_it_made_is_sound_and_every_engine_agrees(cells: Path, place: Path) -> None:
    from serving.server import TritonServer

    bundle = bundles.load(place / "run" / "bundle")
    assert "licence" in (bundle.folder / "README.md").read_text().lower()
    assert (bundle.folder / "torchscript" / "model.pt").is_file()
    for name in ("curves.png", "log.jsonl", "config.json", "index/index.json"):
        assert (place / "run" / name).is_file()
    kept = json.loads((bundle.folder / "isotropy.json").read_text())
    assert kept
    images = [image.path for image in find_images(cells)[:8]]
    with TritonServer(
        bundle, http_port=0, grpc_port=0, metrics_port=0, log_file=place / "t.log"
    ) as server:
        found = Client(server.url).embed(images)
    assert found.fingerprints == bundle.fingerprints
    assert found.embedding.shape == (8, bundle.dimensions["embedding"])

"""Old caches go, the one in use stays, and a full disk loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.errors import ConfigError, DataError
from jepack.sources import caches, crashes
from training.data import open_cache


def pictures(folder: Path, count: int = 8) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (50, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def build(data: Path, root: Path, side: int, used: float) -> Path:
    """A cache of 8 x side x side bytes that was last used at `used`."""
    cache = open_cache(data, side=side, channels=1, root=root)
    assert cache.lock is not None
    cache.lock.close()
    os.utime(cache.folder / caches.IN_USE, (used, used))
    return cache.folder


def test_what_was_longest_unused_goes_first_and_what_is_in_use_stays(tmp_path: Path) -> None:
    data, root = pictures(tmp_path / "data"), tmp_path / "c"
    oldest, older, newer = (build(data, root, side, 1000.0 * side) for side in (20, 30, 40))
    held = open_cache(data, side=20, channels=1, root=root)
    os.utime(oldest / caches.IN_USE, (1.0, 1.0))
    found = caches.entries(root)
    assert [entry.path for entry in found] == [oldest, older, newer]
    assert [entry.in_use for entry in found] == [True, False, False]
    assert found[1].about == f"8 images of {data}"
    total = sum(entry.bytes for entry in found)
    gone = caches.prune(total - 1, root)
    assert [entry.path for entry in gone] == [older]
    assert held[0].shape == (20, 20, 1)
    assert [entry.path for entry in caches.prune(0, root)] == [newer]
    assert oldest.is_dir()
    assert held.lock is not None
    held.lock.close()
    assert len(caches.prune(0, root)) == 1
    assert not list(root.glob("*images-*/*"))


def test_another_process_keeps_its_cache(tmp_path: Path) -> None:
    data, root = pictures(tmp_path / "data"), tmp_path / "c"
    folder = build(data, root, 20, 1.0)
    code = (
        "import sys; from pathlib import Path; from jepack.sources import caches\n"
        "lock = caches.hold(Path(sys.argv[1])); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert caches.prune(0, root) == []
        other.kill()  # a lock goes with its process, however that ends
    assert [entry.path for entry in caches.prune(0, root)] == [folder]


def test_the_limit_makes_room_and_then_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, root = pictures(tmp_path / "data"), tmp_path / "c"
    old = build(data, root, 40, 1.0)
    monkeypatch.setattr(crashes, "BLOCK", 4)
    monkeypatch.setenv(
        caches.LIMIT, "0.00002"
    )  # 20 kB; the next takes 8 x 1,600 bytes and its index
    new = open_cache(data, side=41, channels=1, root=root)
    assert not old.exists()
    monkeypatch.setenv(caches.LIMIT, "0.00001")
    with pytest.raises(DataError, match=r"GB more than JEPACK_CACHE_LIMIT leaves. .*--stream"):
        open_cache(data, side=42, channels=1, root=root)
    monkeypatch.delenv(caches.LIMIT)
    seen: list[int] = []
    again = open_cache(
        data, side=42, channels=1, root=root, on_progress=lambda done, total: seen.append(done)
    )
    assert seen == [8]  # the first four were kept
    assert len(again) == len(new) == 8
    monkeypatch.setenv(caches.LIMIT, "much")
    with pytest.raises(ConfigError, match="a number of GB above 0, found 'much'"):
        caches.limit_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_the_build_goes_on_when_there_is_room(tmp_path: Path) -> None:
    data, root = pictures(tmp_path / "data", 12), tmp_path / "c"
    arguments: Any = {"side": 20, "channels": 1, "root": root}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crashes, "BLOCK", 4)
        with pytest.raises(KeyboardInterrupt):
            open_cache(data, **arguments, on_progress=stop)
    [partial] = root.glob(".*.partial")
    # What a write says when the disk is full, from the kernel itself.
    opening = Path.open

    def full(path: Path, *words: Any, **more: Any) -> Any:
        return opening(Path("/dev/full") if path.name == "pixels.bin" else path, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(DataError, match="the disk is full"):
            open_cache(data, **arguments)
    assert len((partial / "done.jsonl").read_text().splitlines()) == 4
    seen: list[int] = []
    cache = open_cache(data, **arguments, on_progress=lambda done, total: seen.append(done))
    assert seen == [12]
    assert len(cache) == 12


def test_the_command_shows_and_removes(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    build(data, tmp_path / "jepack", 20, 1.0)
    environment = {**os.environ, "JEPACK_CACHE": str(tmp_path)}

    def told(*words: str) -> Any:
        command = [sys.executable, "-m", "jepack", "cache", "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert [entry["kind"] for entry in told()["kept"]] == ["images"]
    pruned = told("--prune", "0")
    assert (len(pruned["removed"]), pruned["kept"]) == (1, [])

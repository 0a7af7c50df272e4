"""A codec that ends its process: the next start finds the image, leaves it out and goes on."""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.sources import ImageFile, find_images
from training.data import building

whole = building.decoded


def deadly(file: ImageFile, side: int, channels: int, window: Any) -> Any:
    """The decoder, for which one picture is deadly."""
    if file.path.name == "20.png":
        os.kill(os.getpid(), signal.SIGKILL)  # SIGSEGV would write a core
    return whole(file, side, channels, window)


def build(folder: Path, data: Path) -> None:
    building.decoded = deadly  # type: ignore[assignment]
    building.BLOCK = 16
    files = find_images(data)
    building.build_cache(folder / "cache", files, 8, 1, None, 0.1, 1, None)


@pytest.mark.timeout(120)
def test_an_image_that_ends_the_process_is_found_by_the_next_start_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "decoded", deadly)
    monkeypatch.setattr(building, "BLOCK", 16)
    data = tmp_path / "data"
    data.mkdir()
    for n in range(40):
        Image.fromarray(np.full((8, 8), n, np.uint8)).save(data / f"{n:02}.png")
    spawn = get_context("spawn")
    child = spawn.Process(target=build, args=(tmp_path, data))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    build(tmp_path, data)
    from training.data.cache import read

    cache = read(tmp_path / "cache")
    assert [Path(name).name for name, _ in cache.bad] == ["20.png"]
    assert all("ended the process" in reason for _, reason in cache.bad)
    assert [int(cache[n].max()) for n in range(len(cache))] == [n for n in range(40) if n != 20]

"""A codec that ends its process: whatever command meets the image next leaves it out and goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.decoding import Preprocessing
from jepack.files import cache_root
from jepack.sources import ENDED, ImageFile, find_images, in_blocks

# Decoders by module and name, before a test replaces them. Nothing heavy is imported at the top: every
# process that decodes an image apart imports this file.
whole: dict[tuple[str, str], Callable[..., Any]] = {}


@dataclass(frozen=True)
class Deadly:
    """A decoder for which one picture is deadly."""

    module: str
    name: str

    def __call__(self, file: ImageFile, **options: Any) -> Any:
        if file.path.name == "20.png":
            os.kill(os.getpid(), signal.SIGKILL)  # SIGSEGV would write a core
        return whole[self.module, self.name](file, **options)


def size_of(file: ImageFile) -> str:
    if file.path.name == "20.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{file.path.name} {len(file.read())}"


def left_out(file: ImageFile) -> str:
    return f"{file.path.name} {ENDED}"


def sizes(data: Path) -> list[str]:
    return [one for block in in_blocks(find_images(data), size_of, left_out, 2) for one in block]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seventy pictures, and a process that ended at one of them."""
    monkeypatch.setenv("JEPACK_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(70):
        Image.fromarray(np.full((8, 8), n, np.uint8)).save(folder / f"{n:02}.png")
    child = get_context("spawn").Process(target=sizes, args=(folder,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    return folder


def remembered() -> list[str]:
    """Names of the images that the next command will decode apart."""
    lists = (cache_root() / "crashes").iterdir()
    return [line.split(".png")[0][-2:] for path in lists for line in path.read_text().splitlines()]


@pytest.mark.timeout(900)
def test_the_image_is_found_left_out_and_known_to_every_command(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(remembered()) == 64  # the block at which the process ended
    found = sizes(data)
    assert [one for one in found if ENDED in one] == [f"20.png {ENDED}"]
    assert [one.split()[0] for one in found] == [f"{n:02}.png" for n in range(70)]
    assert remembered() == ["20"]
    for module, name, door in (
        ("training.commands.survey", "record_of", inspected),
        ("training.commands.probe.reading", "read_one", probed),
        ("training.commands.reading", "content_of", imported),
        ("training.data.building", "decoded", built),
        ("app.indexing", "picture_of", indexed),
    ):
        whole[module, name] = getattr(import_module(module), name)
        monkeypatch.setattr(f"{module}.{name}", Deadly(module, name))
        assert door(find_images(data), data.parent) == ({"20.png"}, 69), name
    assert remembered() == ["20"]


Found = tuple[set[str], int]  # names of the images that ended their process, and how many were read


def inspected(files: list[ImageFile], folder: Path) -> Found:
    from training.commands.survey import survey

    looks = survey(files, 2, lambda done, total: None)
    return {k.file.path.name for k in looks if k.problem == ENDED}, sum(
        not k.problem for k in looks
    )


def probed(files: list[ImageFile], folder: Path) -> Found:
    from training.commands.probe.reading import read_those

    preprocessing = Preprocessing(size=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    images, bad = read_those(files, preprocessing)
    names = {Path(name).name for name, reason in bad if reason == ENDED}
    return names, sum(image is not None for image in images)


def imported(files: list[ImageFile], folder: Path) -> Found:
    from training.commands.reading import readable

    kept, contents = readable(files, 3)
    assert len(contents) == len(kept)
    return {file.path.name for file in files if file not in kept}, len(kept)


def built(files: list[ImageFile], folder: Path) -> Found:
    from training.data.building import build_cache
    from training.data.cache import read

    build_cache(folder / "built", files, 8, 1, None, "center", 0.1, 1, None)
    cache = read(folder / "built")
    assert [int(cache[n].max()) for n in range(len(cache))] == [n for n in range(70) if n != 20]
    return {Path(name).name for name, reason in cache.bad if reason == ENDED}, len(cache)


def indexed(files: list[ImageFile], folder: Path) -> Found:
    from app.indexing import write_index
    from app.store import IndexInfo

    part = [(file, np.ones(4, np.float32)) for file in files]
    skipped: dict[ImageFile, str] = {}
    info = IndexInfo(
        name="a", output="embedding", dimension=4, fingerprint="f", data=str(folder / "data")
    )
    done = write_index(folder / "index", info, iter([part]), skipped)
    names = {file.path.name for file, reason in skipped.items() if reason == ENDED}
    assert set(done.skipped) == names
    return names, done.info.count

"""An encoder whose vectors are the pixels themselves, so every neighbour is known."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.indexing import from_embedder, write_index
from app.store import IndexInfo
from jepack.client import Embeddings, Endpoint
from jepack.decoding import preprocess
from jepack.errors import DataError, ServerError
from jepack.sources import find_images

PIXELS = preprocess.Preprocessing(size=8, channels=1, mean=(0.5,), std=(0.25,))
FINGERPRINT = "00000000000000aa"


class PixelEmbedder:
    """In the place of `jepack.client.Client`: an image's vector is its pixels at 8 x 8."""

    def __init__(self, url: str = "", *, fingerprint: str = FINGERPRINT) -> None:
        self.fingerprints = {"embedding": fingerprint, "projection": "00000000000000bb"}

    def endpoint(self) -> Endpoint:
        return Endpoint("pixels", self.fingerprints, {"embedding": 64, "projection": 8}, 16)

    def diagnose(self) -> str | None:
        return None

    def embed(self, items: Sequence[Path | bytes], *, skip_bad: bool = False) -> Embeddings:
        assert skip_bad
        rows = np.full((len(items), 64), np.nan, np.float32)
        errors = {}
        for number, item in enumerate(items):
            try:
                rows[number] = pixel_vector(item)
            except DataError as error:
                errors[number] = str(error)
        return Embeddings(rows, rows[:, :8], self.fingerprints, errors)

    def close(self) -> None:
        pass


class OtherEncoder(PixelEmbedder):
    """Vectors of the right dimension from another space."""

    def __init__(self, url: str = "") -> None:
        super().__init__(url, fingerprint="00000000000000ff")


class NobodyThere(PixelEmbedder):
    """An endpoint that does not answer."""

    def diagnose(self) -> str | None:
        return "127.0.0.1:9: nothing answers there. Start it: jepack serve BUNDLE"

    def embed(self, items: Sequence[Path | bytes], *, skip_bad: bool = False) -> Embeddings:
        raise ServerError(str(self.diagnose()))


def pixel_vector(source: Path | bytes) -> np.ndarray:
    return preprocess.load(source, PIXELS).reshape(-1).astype(np.float32) + 1


def index_digits(
    folder: Path, out: Path, *, fingerprint: str = FINGERPRINT, name: str = "Digits"
) -> Path:
    info = IndexInfo(
        name=name,
        output="embedding",
        dimension=64,
        fingerprint=fingerprint,
        data=str(folder),
        bundle="pixels",
        data_license="BSD-3-Clause",
    )
    parts = from_embedder(find_images(folder), "embedding", PixelEmbedder(), {})
    write_index(out, info, parts, {})
    return out


PAGES = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
import pixel_embedder
from app.door import Door
from app.page import launch
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        asked = json.loads(line)
        asked["connect"] = getattr(pixel_embedder, asked["connect"])
        asked["door"] = Door.of(**asked["door"])
        try:
            page = launch(**asked, port=0)
        except BaseException:
            print(flush=True)
            raise
        answered = json.dumps(pixel_embedder.answered_by(page.demo.app.routes), separators=(",", ":"))
        print(os.getpid(), page.url, answered, flush=True)
        page.wait()
os.killpg(0, signal.SIGTERM)
"""


ANSWERED: dict[
    str, list[tuple[str, str]]
] = {}  # (method, path) of all that the page at an address answers


def answered_by(routes: Any, before: str = "") -> list[tuple[str, str]]:
    found = []
    for route in routes:
        path = before + getattr(route, "path", "")
        inside = getattr(route, "original_router", route)  # FastAPI keeps included ones apart
        found += answered_by(getattr(inside, "routes", None) or (), path)
        for method in getattr(route, "methods", None) or ():
            found.append((method, re.sub(r"{[^}]*}", "x", path)))
    return found


@functools.cache
def pages() -> subprocess.Popen[str]:
    """A process that has imported what pages need, and forks one for each line of JSON that it is told; all
    end with the process of the tests."""
    return subprocess.Popen(
        [sys.executable, "-c", PAGES, str(Path(__file__).parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@contextmanager
def page_of(
    index: Path,
    embedder: type[PixelEmbedder] = PixelEmbedder,
    *,
    bundle: Path | None = None,
    **door: str,
) -> Iterator[str]:
    """The page over an index in a process of its own, as users have it; yields its address. It embeds with
    `bundle` where one is given. `door`: as `Door.of` takes it."""
    process = pages()
    assert process.stdin is not None
    assert process.stdout is not None
    engine = {"url": "127.0.0.1:9"} if bundle is None else {"bundle": str(bundle)}
    asked = {"index_folder": str(index), "connect": embedder.__name__, "door": door, **engine}
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    pid, url, answered = process.stdout.readline().split()
    ANSWERED[url] = [(method, path) for method, path in json.loads(answered)]
    try:
        yield url
    finally:
        os.kill(int(pid), signal.SIGTERM)


@contextmanager
def running(command: list[str]) -> Iterator[str]:
    """The first word that `command` prints, while it runs."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "it ended"
            yield line.split()[0]
        finally:
            process.terminate()

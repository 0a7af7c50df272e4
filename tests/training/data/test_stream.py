"""Streaming: the same views as from a cache, each rank its own shards, a disk that stays small."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from jepack.decoding import Preprocessing
from jepack.errors import ConfigError, DataError, SourceError
from jepack.sources import caches, fetching
from training.data import open_cache, open_stream
from training.data.lanes import Lanes
from training.settings import TrainConfig, override, recipe
from training.train import train
from training.views import Cutter, preset
from training.watch.evaluation import crops

SMALL = TrainConfig(
    size=24, local_size=16, global_views=2, local_views=1, images_per_step=8, channels=1
)
LOOK = preset("natural")


def write_shards(folder: Path, count: int = 8, each: int = 6) -> Path:
    """Shards of grey noise; the first pixel of an image is its number."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for shard in range(count):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for number in range(shard * each, (shard + 1) * each):
                pixels = generator.integers(0, 256, (40, 40), dtype=np.uint8)
                pixels[0, 0] = number
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, "PNG")
                for name, data in (("png", stream.getvalue()), ("cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{number:04d}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder


class Counting(SimpleHTTPRequestHandler):
    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path, count: int) -> Iterator[str]:
    """The shards' address, on this machine's own web server."""
    Counting.asked.clear()
    handler = partial(Counting, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{{000..{count - 1:03d}}}.tar"
        finally:
            server.shutdown()


def test_a_streamed_folder_gives_the_views_of_a_cached_one(
    digits_folder: Path, tmp_path: Path
) -> None:
    cache = open_cache(digits_folder, side=28, channels=1, root=tmp_path)
    stream = open_stream(digits_folder, side=28, channels=1)
    assert len(stream) == len(cache)
    assert [file.label for file in stream.files] == [file.label for file in cache.files]
    chosen = np.arange(len(cache))
    for step in (0, 7, 8):
        one, other = (Cutter(data, chosen, SMALL, LOOK).cut(step) for data in (cache, stream))
        assert np.array_equal(one.global_views, other.global_views)
        assert one.local_views is not None
        assert np.array_equal(one.local_views, other.local_views)


def test_every_pass_shows_every_image_once_and_a_step_mixes_the_shards(tmp_path: Path) -> None:
    stream = open_stream(write_shards(tmp_path), side=40, channels=1)
    order = stream.order(np.arange(48), 8, seed=0)
    assert isinstance(order, Lanes)
    steps = [order(step) for step in range(12)]
    for first in (0, 6):
        seen = np.concatenate(steps[first : first + 6])
        assert sorted(seen.tolist()) == list(range(48))
    assert all(len({index // 6 for index in step.tolist()}) == 8 for step in steps)
    assert not np.array_equal(steps[0], steps[6])
    fresh = stream.order(np.arange(48), 8, seed=0)
    assert np.array_equal(fresh(9), steps[9])  # resuming needs no state


def test_two_ranks_read_different_shards_and_see_the_images_of_one(tmp_path: Path) -> None:
    stream = open_stream(write_shards(tmp_path), side=40, channels=1)
    whole = Cutter(stream, np.arange(48), SMALL, LOOK)
    parts = [Cutter(stream, np.arange(48), SMALL, LOOK, rank, 2) for rank in range(2)]
    read: list[set[int]] = [set(), set()]
    for step in range(12):
        together = np.concatenate([part.cut(step).global_views for part in parts], axis=1)
        assert np.array_equal(together, whole.cut(step).global_views)
        for rank, part in enumerate(parts):
            read[rank] |= {index // 6 for index in part.order(step)[part.share].tolist()}
    assert [len(shards) for shards in read] == [4, 4]
    assert not read[0] & read[1]


def test_shards_that_cannot_be_dealt_evenly_are_read_in_any_order(tmp_path: Path) -> None:
    write_shards(tmp_path, count=2, each=20)
    write_shards(tmp_path / "small", count=1, each=4)
    stream = open_stream(tmp_path, side=40, channels=1)
    assert isinstance(stream.order(np.arange(44), 8, seed=0), Lanes)  # 20 and 24
    assert not isinstance(stream.order(np.arange(24), 8, seed=0), Lanes)  # 20 and 4
    assert not isinstance(stream.order(np.arange(44), 7, seed=0), Lanes)


def test_shards_from_an_address_are_fetched_again_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "www", count=12)
    size = (folder / "000.tar").stat().st_size
    monkeypatch.setenv("JEPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "PAUSES_S", (0.01, 0.02))
    monkeypatch.setenv(caches.LIMIT, str(9 * size / 1e9))
    kept = tmp_path / "cache" / "jepack" / "shards"
    with served(folder, 12) as address:
        stream = open_stream(address, side=40, channels=1)
        local = open_stream(folder, side=40, channels=1)
        assert len(list(kept.glob("*.tar"))) <= 9
        config = override(SMALL, ["images_per_step=4"])
        one, other = (Cutter(data, np.arange(72), config, LOOK) for data in (stream, local))
        for step in range(18):  # one pass
            assert np.array_equal(one.cut(step).global_views, other.cut(step).global_views)
            assert sum(path.stat().st_size for path in kept.glob("*.tar")) <= 9 * size
        assert len(Counting.asked) == 12
        assert max(Counting.asked.values()) <= 4  # once to list it, and not for every image
        monkeypatch.setenv(caches.LIMIT, str(7 * size / 1e9))
        with pytest.raises(ConfigError, match="4 shards are read at a time"):
            Cutter(stream, np.arange(72), config, LOOK)
        again = open_stream(address, side=40, channels=1)
        assert again.digest == stream.digest
    monkeypatch.delenv(caches.LIMIT)
    caches.prune(0)
    with pytest.raises(SourceError, match="cannot be fetched"):  # out of reach is not a bad image
        stream.fetch(np.array([3]))
    assert not stream.bad


def test_a_bad_image_is_replaced_by_one_of_its_side_of_the_split(tmp_path: Path) -> None:
    for number in range(20):
        pixels = np.full((30, 30), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    (tmp_path / "06.png").write_bytes(b"torn")
    stream = open_stream(tmp_path, side=30, channels=1, max_bad=0.05)
    found = stream.fetch(np.array([4, 6]), among=np.arange(0, 20, 2))
    assert [int(image[0, 0, 0]) for image in found.images] == [4, 8]
    assert found.indices.tolist() == [4, 8]
    look = Preprocessing(size=30, channels=1, mean=(0.5,), std=(0.25,))
    pixels, kept = crops(stream, np.array([8, 6, 5]), look)
    assert kept.tolist() == pixels[:, 0, 0, 0].tolist() == [8, 5]
    [(name, reason)] = stream.bad
    assert (Path(name).name, "known format" in reason) == ("06.png", True)
    (tmp_path / "07.png").write_bytes(b"torn")
    with pytest.raises(DataError, match="2 of 20 images cannot be read, the limit is 5.0%"):
        stream.fetch(np.array([7]))


def test_a_streamed_run_ends_in_a_bundle_and_resumes_to_the_same_losses(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", count=6, each=10)
    settings: list[str] = [
        "encoder=test_resnet", "size=32", "eval_size=32", "global_views=2", "images_per_step=8",
        "projector_hidden=16", "projection_dims=8", "slices=16", "minutes=null", "epochs=1", "channels=1",
        "workers=2", "stream=true", "evaluate_epochs=100", "precision=fp32",
    ]  # fmt: skip
    config = override(recipe("quickstart"), settings)

    def losses(run: Path) -> list[float]:
        lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    options: Any = {"device": "cpu", "cache_root": tmp_path / "cache"}
    whole = train(config, data, tmp_path / "whole", **options)
    assert whole is not None
    assert whole.manifest["provenance"]["data"]["digest"].startswith("names-")
    assert train(config, data, tmp_path / "parts", stop_after=3, **options) is None
    train(config, data, tmp_path / "parts", **options)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "bad_images.json").read_text()) == []
    assert not list(tmp_path.glob("cache/images-*"))

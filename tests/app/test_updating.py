"""`--update`: only new and changed images are embedded, and the index is what a new one would be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import OtherEncoder, PixelEmbedder
from rich.console import Console

from app.building import Plan, build
from app.engines import open_index
from app.indexing import Indexed
from app.store import VectorStore
from app.updating import Kept
from jepack.client import Embeddings
from jepack.errors import ArtifactError
from jepack.sources import Source, find_images


class Counting(PixelEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.embedded: list[str] = []

    def embed(self, items: Sequence[Any], *, skip_bad: bool = False) -> Embeddings:
        self.embedded += [Path(item).name for item in items]
        return super().embed(items, skip_bad=skip_bad)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(12):
        path = tmp_path / "images" / f"class-{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return tmp_path / "images"


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8))


def indexed(
    images: Path,
    out: Path | str,
    embedder: PixelEmbedder,
    *,
    update: bool = True,
    prune: bool = False,
) -> Indexed:
    named = Source.of(str(images)).absolute()
    plan = Plan(named=named, images=find_images(named, parts=True))
    engine: Any = SimpleNamespace(connect=lambda: embedder, place="here", bundle=None)
    kept = Kept(open_index(out), named.base, prune=prune) if update else None
    return build(out, plan, engine, Console(quiet=True), kept)[0]


def rows_of(store: VectorStore) -> dict[str, Any]:
    ids = [row.id for part in store.scan() for row in part]
    return {
        row.id: (row.label, row.thumbnail, row.vector.tolist())
        for row in store.get(ids)
        if row.vector is not None
    }


def test_only_what_is_new_or_changed_is_embedded(images: Path, tmp_path: Path) -> None:
    out, fresh, embedder = tmp_path / "index", tmp_path / "fresh", Counting()
    indexed(images, out, embedder, update=False)
    embedder.embedded.clear()
    assert indexed(images, out, embedder).same == 12
    assert embedder.embedded == []

    picture(100).save(images / "class-0" / "00.png")  # of the same size as before, most likely
    picture(101).save(images / "class-1" / "new.png")
    os.utime(images / "class-0" / "02.png", ns=(1, 1))  # another time, the same bytes
    (images / "class-1" / "03.png").rename(images / "class-0" / "03.png")  # another label
    (images / "class-1" / "05.png").write_bytes(b"no picture")
    done = indexed(images, out, embedder, prune=True)
    assert sorted(embedder.embedded) == ["00.png", "03.png", "05.png", "new.png"]
    assert (done.info.count, done.same, done.gone) == (12, 9, 1)
    assert list(done.skipped) == ["class-1/05.png"]

    indexed(images, fresh, embedder, update=False)
    assert rows_of(open_index(out)) == rows_of(open_index(fresh))


def test_images_that_are_gone_stay_until_they_are_pruned(images: Path, tmp_path: Path) -> None:
    out, embedder = tmp_path / "index", Counting()
    indexed(images, out, embedder, update=False)
    shutil.rmtree(images / "class-1")
    done = indexed(images, out, embedder)
    assert (done.info.count, done.same, done.gone) == (12, 6, 6)
    done = indexed(images, out, embedder, prune=True)
    assert (done.info.count, done.same, done.gone) == (6, 6, 6)
    assert len(embedder.embedded) == 12


def test_an_index_of_another_encoder_or_folder_is_left_alone(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    indexed(images, out, PixelEmbedder(), update=False)
    before = rows_of(open_index(out))
    with pytest.raises(ArtifactError, match="nothing of it can be kept. Leave --update out"):
        indexed(images, out, OtherEncoder())
    with pytest.raises(ArtifactError, match="is an index of .*images, not of "):
        indexed(images / "class-0", out, PixelEmbedder())
    assert rows_of(open_index(out)) == before


def test_an_update_that_fails_changes_nothing(images: Path, tmp_path: Path) -> None:
    class Fails(PixelEmbedder):
        def embed(self, items: Sequence[Any], *, skip_bad: bool = False) -> Embeddings:
            raise ArtifactError("cut off")

    out = tmp_path / "index"
    indexed(images, out, PixelEmbedder(), update=False)
    before = rows_of(open_index(out))
    picture(100).save(images / "class-1" / "new.png")
    with pytest.raises(ArtifactError, match="cut off"):
        indexed(images, out, Fails())
    assert rows_of(open_index(out)) == before


def test_an_image_that_changes_while_it_is_indexed_is_embedded_again(
    images: Path, tmp_path: Path
) -> None:
    changing = images / "class-0" / "00.png"

    class Changing(Counting):
        def embed(self, items: Sequence[Any], *, skip_bad: bool = False) -> Embeddings:
            found = super().embed(items, skip_bad=skip_bad)
            picture(100).save(changing)  # before its thumbnail is made
            return found

    out, fresh, embedder = tmp_path / "index", tmp_path / "fresh", Counting()
    indexed(images, out, Changing(), update=False)
    indexed(images, out, embedder)
    assert embedder.embedded == ["00.png"]
    indexed(images, fresh, embedder, update=False)
    vectors = [open_index(one).get(["class-0/00.png"])[0].vector for one in (out, fresh)]
    assert np.array_equal(*vectors)

"""What an index's distances mean, against plain numpy on the same vectors."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import PixelEmbedder, index_digits, pixel_vector
from sklearn.datasets import load_digits

from app import scale as scales
from app.belonging import judge
from app.lance import open_index
from app.library import Library
from app.scale import Scale
from app.search import by_image
from jepack.sources import find_images


@pytest.fixture(scope="module")
def distances(digits_folder: Path) -> tuple[np.ndarray, list[str]]:
    """[N, N] cosine distances of the images, infinite on the diagonal, and their labels."""
    images = find_images(digits_folder)
    rows = np.stack([pixel_vector(image.path) for image in images]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    apart = 1 - rows @ rows.T
    np.fill_diagonal(apart, np.inf)
    return apart, [str(image.label) for image in images]


@pytest.fixture(scope="module")
def scale(digits_index: Path) -> Scale:
    found = scales.read(digits_index, open_index(digits_index).count())
    assert found is not None
    return found


def test_an_index_keeps_its_own_nearest_distances(
    scale: Scale, distances: tuple[np.ndarray, list[str]]
) -> None:
    apart, _ = distances
    assert scale.nearest == pytest.approx(sorted(apart.min(axis=1)), abs=1e-6)
    assert scale.images == len(apart)


def test_labels_are_found_as_often_as_counting_says(
    scale: Scale, distances: tuple[np.ndarray, list[str]]
) -> None:
    apart, labels = distances
    names = np.array(labels)
    share = [
        np.mean(names[np.argsort(row)[:10]] == own) for row, own in zip(apart, names, strict=True)
    ]
    found = scale.overall()
    assert found is not None
    assert found[0] == pytest.approx(np.mean(share), abs=1e-3)
    assert found[1] == len(labels)


def test_only_labels_found_worse_than_all_together_are_called_weakest(scale: Scale) -> None:
    found = scale.overall()
    assert found is not None
    assert all(share < found[0] for _, share in scale.weakest())
    alike = replace(scale, precision={"a": (1.0, 20), "b": (1.0, 30)})
    assert alike.weakest() == []


def test_two_images_of_one_label_are_marked_where_they_lie(
    scale: Scale, distances: tuple[np.ndarray, list[str]]
) -> None:
    apart, labels = distances
    names = np.array(labels)
    same = (names[:, None] == names) & np.isfinite(apart)
    assert scale.same == pytest.approx(np.median(apart[same]), abs=1e-6)


def test_a_bar_is_full_for_a_copy_and_shrinks_with_the_distance(scale: Scale) -> None:
    assert scale.fill(0) == 1
    assert scale.fill(float(np.median(scale.nearest))) == pytest.approx(0.75, abs=0.02)
    assert scale.fill(float(np.median(scale.pairs))) == pytest.approx(0.25, abs=0.02)
    fills = [scale.fill(d) for d in np.linspace(0, 2, 200)]
    assert fills == sorted(fills, reverse=True)
    assert fills[-1] == 0


def test_rarity_is_a_p_value_of_the_indexs_own_images(scale: Scale) -> None:
    """Each image's own nearest distance: at most a share p may have a rarity of p or less."""
    found = np.array([scale.rarity(distance) for distance in scale.nearest])
    for p in (0.05, 0.1, 0.3, 0.7):
        assert np.mean(found <= p) <= p + 1 / len(found)
    assert scale.rarity(2.0) == pytest.approx(1 / (1 + len(found)))


def drawn(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def kind_of(index: Path, scale: Scale, image: bytes) -> str:
    hits = by_image(open_index(index), image, PixelEmbedder(), 5).hits
    return judge(scale, hits, None, new=True).kind


def test_noise_and_a_flat_square_do_not_belong_among_digits(
    digits_index: Path, scale: Scale
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32))
    assert kind_of(digits_index, scale, drawn(noise)) == "strange"
    assert kind_of(digits_index, scale, drawn(np.full((32, 32, 3), (255, 0, 0)))) == "strange"


def test_new_digits_belong_and_a_copy_is_told(digits_index: Path, scale: Scale) -> None:
    new = load_digits().images[100:130] / 16 * 255  # the index holds the first 60
    big = [np.asarray(Image.fromarray(one.astype(np.uint8)).resize((32, 32))) for one in new]
    kinds = [kind_of(digits_index, scale, drawn(one)) for one in big]
    assert kinds.count("strange") <= 5
    copy = find_images(Path(open_index(digits_index).info.data))[0].path.read_bytes()
    hits = by_image(open_index(digits_index), copy, PixelEmbedder(), 5).hits
    assert judge(scale, hits, None, new=True).headline == "A copy is here"
    told = judge(scale, hits, None, new=True, cropped=True).headline
    assert told == "The part that the encoder sees is here"


def test_a_strange_projection_alone_is_reason_enough(scale: Scale, digits_index: Path) -> None:
    copy = find_images(Path(open_index(digits_index).info.data))[0].path.read_bytes()
    hits = by_image(open_index(digits_index), copy, PixelEmbedder(), 5).hits
    assert judge(scale, hits, 0.5, new=True).kind == "usual"
    found = judge(scale, hits, 0.002, new=True)
    assert found.kind == "strange"
    assert "p\u00a0=\u00a00.002" in " ".join(found.reasons)


def test_an_older_index_is_measured_when_it_is_opened_and_keeps_it(
    digits_index: Path, scale: Scale, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    shutil.copytree(digits_index, folder)
    (folder / scales.FILE).unlink()
    library = Library(folder)
    assert library.measuring is not None
    library.measuring.wait(300)
    assert library.scale == scale
    assert json.loads((folder / scales.FILE).read_text())["images"] == scale.images


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": 60, "nearest": [], "pairs": [], "precision": {}}']
)
def test_a_damaged_scale_is_measured_again(digits_index: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / scales.FILE).write_text(text)
    assert scales.read(tmp_path, 60) is None


def test_too_few_images_have_no_scale(digits_folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few" / "digit-0"
    few.mkdir(parents=True)
    for image in find_images(digits_folder)[:5]:
        shutil.copy(image.path, few / image.path.name)
    folder = index_digits(tmp_path / "few", tmp_path / "index")
    library = Library(folder)
    assert library.scale is None
    assert library.measuring is None
    hits = by_image(library.store, drawn(np.zeros((32, 32))), PixelEmbedder(), 3).hits
    assert judge(None, hits, None, new=True).kind == "unknown"

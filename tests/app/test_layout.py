"""Where images lie on a map: as plain NumPy finds it, and files that count for their index alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from app import arranging, layout
from app.lance import building, open_index
from app.layout import Clusters, Layout
from app.store import Row
from jepack.errors import DataError


def layout_of(xy: np.ndarray, **parts: object) -> Layout:
    values = {"kind": "umap", "fingerprint": "f" * 16, "order": "a" * 16} | parts
    return Layout(xy_N2=xy.astype(np.float32), **values)  # type: ignore[arg-type]


def quiet(share: float, said: str) -> None:
    assert 0 <= share <= 1
    assert said


def test_the_main_directions_are_those_of_the_singular_values(digits_index: Path) -> None:
    store = open_index(digits_index)
    found = layout.directions(store)
    ids, vectors = arranging.all_of(store)
    centred = vectors - vectors.mean(axis=0)
    expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    for axis in range(2):
        alike = np.corrcoef(found.xy_N2[:, axis], expected[:, axis])[0, 1]
        assert abs(alike) == pytest.approx(1, abs=1e-4)
    assert np.abs(found.xy_N2).max() == pytest.approx(layout.EDGE)
    assert found.order == layout.order_of(ids)
    assert np.array_equal(found.xy_N2, layout.directions(store).xy_N2)


def test_too_few_images_are_told(digits_index: Path, tmp_path: Path) -> None:
    store = open_index(digits_index)
    names = [row.id for part in store.scan() for row in part][: layout.LEAST - 1]
    with building(tmp_path / "few", store.info) as few:
        few.upsert(store.get(names), fingerprint=store.info.fingerprint)
    with pytest.raises(DataError, match="needs 3 images or more; this index holds 2"):
        layout.directions(open_index(tmp_path / "few"))


def test_a_kept_layout_comes_back_as_it_was(tmp_path: Path) -> None:
    made = layout_of(
        np.array([[0, 1], [-1, 0.5], [0.2, 0.3]]),
        clusters=Clusters(of_N=np.array([0, -1, 0], np.int32), medoid_C=np.array([2], np.int32)),
        nearest_N=np.array([0.1, 0.2, 0.1], np.float32),
        kept=0.5,
    )
    layout.write(tmp_path, made)
    back = layout.read(tmp_path, "umap", made.fingerprint, made.order)
    assert back is not None
    assert back.clusters is not None
    assert made.clusters is not None
    assert np.array_equal(back.xy_N2, made.xy_N2)
    assert np.array_equal(back.clusters.of_N, made.clusters.of_N)
    assert back.clusters.medoid_C.tolist() == [2]
    assert np.array_equal(back.nearest_N, made.nearest_N)
    assert back.kept == 0.5


@pytest.mark.parametrize("what", ["kind", "fingerprint", "order"])
def test_a_layout_of_another_index_does_not_count(tmp_path: Path, what: str) -> None:
    made = layout_of(np.zeros((3, 2)))
    layout.write(tmp_path, made)
    asked = {"kind": "umap", "fingerprint": made.fingerprint, "order": made.order}
    assert layout.read(tmp_path, **asked) is not None
    assert layout.read(tmp_path, **asked | {what: "pca" if what == "kind" else "b" * 16}) is None


@pytest.mark.parametrize("left", [0, 1, 40, 400])
def test_a_damaged_file_does_not_count(tmp_path: Path, left: int) -> None:
    made = layout_of(np.zeros((300, 2)))
    layout.write(tmp_path, made)
    file = layout.file_of(tmp_path, "umap")
    file.write_bytes(file.read_bytes()[:left])
    assert layout.read(tmp_path, "umap", made.fingerprint, made.order) is None


def test_the_order_of_rows_is_part_of_what_a_layout_is_for() -> None:
    assert layout.order_of(["a", "b"]) != layout.order_of(["b", "a"])
    assert layout.order_of(["ab", ""]) != layout.order_of(["a", "b"])


def test_an_image_from_outside_lies_amid_its_nearest() -> None:
    there = layout_of(np.array([[0.1, 0.1], [0.2, 0.1], [0.3, 0.2], [-0.9, -0.9]]))
    assert layout.place_beside(there, [0, 1, 2, 3, 1]) == pytest.approx((0.2, 0.1))


def test_neighbours_are_those_of_a_full_comparison() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    vectors[7] = vectors[3]  # a copy
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, distances = arranging.neighbours(vectors, quiet)
    assert rows.shape == (60, arranging.NEIGHBOURS)
    assert rows[:, 0].tolist() == list(range(60))
    apart = 1 - vectors @ vectors.T
    for at in range(60):
        others = np.sort(np.delete(apart[at], at))[: arranging.NEIGHBOURS - 1]
        assert np.allclose(distances[at, 1:], np.maximum(0, others), atol=1e-6)
    assert rows[3, 1] == 7


def test_groups_are_the_dense_places_and_are_shown_by_their_middle() -> None:
    rng = np.random.default_rng(0)
    sizes = [40, 90, 60]
    of = np.repeat([0, 1, 2], sizes)
    xy = np.array([[0, 0], [5, 5], [9, 0]])[of] + rng.normal(0, 0.2, (190, 2))
    vectors = np.eye(8)[of] + rng.normal(0, 0.1, (190, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = arranging.clusters_of(xy.astype(np.float32), vectors)
    main = [np.bincount(found.of_N[of == one] + 1).argmax() - 1 for one in range(3)]
    assert len(set(main)) == 3
    for number, medoid in enumerate(found.medoid_C):
        members = np.flatnonzero(found.of_N == number)
        mean_distance = (1 - vectors[members] @ vectors[members].T).mean(axis=1)
        assert medoid == members[mean_distance.argmin()]
    counts = np.bincount(found.of_N[found.of_N >= 0])
    assert (np.diff(counts) <= 0).all()


def test_a_layout_that_is_the_space_itself_keeps_every_neighbour() -> None:
    angles = np.sort(np.random.default_rng(0).uniform(0, 1, 200))
    circle = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    rows, _ = arranging.neighbours(circle, quiet)
    assert arranging.kept(circle, rows) == pytest.approx(1, abs=0.01)
    mixed = np.random.default_rng(1).permutation(circle)
    assert arranging.kept(mixed, rows) < 0.2


@pytest.mark.slow
def test_the_same_index_gives_the_same_arrangement(digits_index: Path, tmp_path: Path) -> None:
    store = open_index(shutil.copytree(digits_index, tmp_path / "index"))
    first, again = (arranging.arrange(store, quiet) for _ in range(2))
    assert np.array_equal(first.xy_N2, again.xy_N2)
    assert first.kept is not None
    assert first.kept > 0.3
    rows: list[Row] = [row for part in store.scan() for row in part]
    assert first.order == layout.order_of(row.id for row in rows)

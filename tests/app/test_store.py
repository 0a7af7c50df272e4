"""The contract of a vector store, on LanceDB."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.lance import LanceStore, building, open_index
from app.store import IndexInfo, Row
from jepack.errors import ArtifactError, ConfigError

D = 32
SPACE = "00000000000000aa"
INFO = IndexInfo(name="test", output="embedding", dimension=D, fingerprint=SPACE, data="photos")


def rows(count: int, *, seed: int = 0, start: int = 0) -> list[Row]:
    """Isotropic vectors: the hardest case for anything but an exact search."""
    vectors = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return [
        Row(id=f"{start + i:04d}.png", label=f"class-{i % 3}", thumbnail=b"webp%d" % i, vector=one)
        for i, one in enumerate(vectors)
    ]


def build(folder: Path, given: list[Row]) -> LanceStore:
    with building(folder, INFO) as store:
        store.upsert(given, fingerprint=SPACE)
    return open_index(folder)


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return build(tmp_path / "index", rows(200))


def ids(store: LanceStore) -> list[str]:
    return [row.id for part in store.scan() for row in part]


def test_what_goes_in_comes_out_whole_and_in_order(store: LanceStore) -> None:
    given = rows(200)
    assert store.count() == store.info.count == 200
    assert ids(store) == [row.id for row in given]
    for row, back in zip(given[::-7], store.get([row.id for row in given[::-7]]), strict=True):
        assert (back.id, back.label, back.thumbnail) == (row.id, row.label, row.thumbnail)
        np.testing.assert_array_equal(back.vector, row.vector)


def test_a_missing_label_stays_missing(tmp_path: Path) -> None:
    vector = np.ones(D, np.float32)
    store = build(tmp_path / "index", [Row(id="a.png", label=None, vector=vector)])
    assert store.get(["a.png"])[0].label is None


def test_search_finds_exactly_what_numpy_finds(store: LanceStore) -> None:
    index = np.stack([row.vector for row in rows(200)])
    queries = np.random.default_rng(1).normal(size=(20, D)).astype(np.float32)
    unit = index / np.linalg.norm(index, axis=1, keepdims=True)
    distances = 1 - queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T
    for query, row in zip(store.search(queries, 10, fingerprint=SPACE), distances, strict=True):
        order = np.argsort(row)[:10]
        assert [hit.row.id for hit in query] == [f"{number:04d}.png" for number in order]
        np.testing.assert_allclose([hit.distance for hit in query], row[order], atol=1e-6)


def test_the_distance_to_itself_is_zero_and_to_its_opposite_two(tmp_path: Path) -> None:
    one = rows(1)[0].vector
    assert one is not None
    given = [
        Row(id="itself", vector=one),
        Row(id="longer", vector=3 * one),
        Row(id="opposite", vector=-one),
    ]
    [hits] = build(tmp_path / "index", given).search(one[None], 3, fingerprint=SPACE)
    assert [hit.row.id for hit in hits] == ["itself", "longer", "opposite"]
    assert [hit.distance for hit in hits] == pytest.approx([0, 0, 2], abs=1e-6)
    assert min(hit.distance for hit in hits) >= 0


def test_asking_for_more_than_there_is_gives_all(store: LanceStore) -> None:
    assert len(store.search(np.ones((1, D)), 500, fingerprint=SPACE)[0]) == 200


def test_pictures_come_only_when_asked_for(store: LanceStore) -> None:
    query = np.ones((1, D), np.float32)
    assert store.search(query, 1, fingerprint=SPACE)[0][0].row.thumbnail == b""
    assert store.search(query, 1, fingerprint=SPACE, thumbnails=True)[0][0].row.thumbnail


def test_upsert_replaces_and_adds(store: LanceStore) -> None:
    changed = rows(3, seed=9, start=199)
    store.upsert(changed, fingerprint=SPACE)
    assert store.count() == 202
    np.testing.assert_array_equal(store.get(["0199.png"])[0].vector, changed[0].vector)


def test_delete_removes_only_what_is_named(store: LanceStore) -> None:
    store.delete(["0003.png", "not-there.png"])
    assert store.count() == 199
    assert not store.has("0003.png")


@pytest.mark.parametrize("name", ["it's.png", "x' OR '1'='1", "ünï/码.png", 'a"b.png', "50%_.png"])
def test_any_file_name_is_only_a_name(store: LanceStore, name: str) -> None:
    store.delete([name])
    assert store.count() == 200
    assert not store.has(name)
    store.upsert([Row(id=name, vector=np.ones(D, np.float32))], fingerprint=SPACE)
    assert store.get([name])[0].id == name
    store.delete([name])
    assert store.count() == 200


def test_an_unknown_id_is_named(store: LanceStore) -> None:
    with pytest.raises(ArtifactError, match=r"holds no image 'gone\.png'"):
        store.get(["0001.png", "gone.png"])


def test_vectors_of_another_encoder_are_refused(store: LanceStore) -> None:
    for attempt in (
        lambda: store.search(np.ones((1, D)), 3, fingerprint="00000000000000ff"),
        lambda: store.upsert(rows(1), fingerprint="00000000000000ff"),
    ):
        with pytest.raises(
            ArtifactError, match=r"00000000000000ff but .*holds 00000000000000aa"
        ) as told:
            attempt()
        assert "jepack index photos" in str(told.value)


def test_vectors_of_another_dimension_are_refused(store: LanceStore) -> None:
    with pytest.raises(ArtifactError, match="64 dimensions but the index holds 32"):
        store.search(np.ones((1, 64)), 3, fingerprint=SPACE)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_refused(store: LanceStore, bad: float) -> None:
    with pytest.raises(ArtifactError, match="zero or not finite"):
        store.upsert([Row(id="bad", vector=np.full(D, bad, np.float32))], fingerprint=SPACE)


def test_the_same_id_twice_in_one_batch_is_refused(store: LanceStore) -> None:
    with pytest.raises(ArtifactError, match="same image id twice"):
        store.upsert(rows(1) + rows(1), fingerprint=SPACE)


def test_k_must_be_positive(store: LanceStore) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        store.search(np.ones((1, D)), 0, fingerprint=SPACE)


BUILDER = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
import test_store as t
with t.building({folder!r}, t.INFO) as store:
    store.upsert(t.rows(50, seed=5, start=900), fingerprint=t.SPACE)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_in_the_middle_of_a_build_loses_no_previous_index(store: LanceStore) -> None:
    code = BUILDER.format(tests=str(Path(__file__).parent), folder=str(store.folder))
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    again = open_index(store.folder)
    assert ids(again) == [row.id for row in rows(200)]
    assert build(store.folder, rows(7)).count() == 7


def test_an_error_in_the_middle_of_a_build_leaves_nothing_behind(store: LanceStore) -> None:
    def build_halfway() -> None:
        with building(store.folder, INFO) as new:
            new.upsert(rows(3), fingerprint=SPACE)
            raise RuntimeError("the endpoint died")

    with pytest.raises(RuntimeError, match="the endpoint died"):
        build_halfway()
    assert open_index(store.folder).count() == 200
    assert [path.name for path in store.folder.parent.iterdir()] == ["index"]


WRITER = """
import sys
sys.path[:0] = [{tests!r}]
import test_store as t
store = t.open_index({folder!r})
for start in range(0, 200, 20):
    store.upsert(t.rows(20, start=1000 + start), fingerprint=t.SPACE)
"""


def test_two_processes_that_upsert_the_same_new_images_leave_no_duplicates(
    store: LanceStore,
) -> None:
    code = WRITER.format(tests=str(Path(__file__).parent), folder=str(store.folder))
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [writer.wait(300) for writer in writers] == [0, 0]
    found = ids(open_index(store.folder))
    assert len(found) == len(set(found)) == 400


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with (
        pytest.raises(ArtifactError, match="not an index, so it is left alone"),
        building(tmp_path, INFO),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "no index here"),
        (lambda folder: (folder / "index.json").unlink(), "no index here"),
        (lambda folder: (folder / "index.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "index.json").write_text("{}"), "schema None"),
        (lambda folder: (folder / "index.json").write_text('{"schema": 1}'), "lacks"),
        (lambda folder: set_json(folder, schema=99), "schema 99, this jepack reads 1"),
        (lambda folder: set_json(folder, metric="l2"), "names metric l2"),
        (lambda folder: shutil.rmtree(folder / "images.lance"), "cannot be opened"),
    ],
)
def test_a_damaged_index_says_what_is_wrong_and_how_to_make_it(
    store: LanceStore, break_it: object, told: str
) -> None:
    assert callable(break_it)
    break_it(store.folder)
    with pytest.raises(ArtifactError, match=told) as error:
        open_index(store.folder)
    assert "jepack index" in str(error.value)


@pytest.mark.parametrize("left", [None, 10], ids=["deleted", "truncated"])
def test_a_table_whose_data_are_damaged_says_so_in_one_line(
    store: LanceStore, left: int | None
) -> None:
    for file in (store.folder / "images.lance" / "data").iterdir():
        if left is None:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:left])
    damaged, vector = open_index(store.folder), rows(1)[0].vector
    assert vector is not None
    for look in (
        lambda: damaged.search(vector[None], 3, fingerprint=SPACE),
        lambda: damaged.get(["0000.png"]),
        lambda: damaged.has("0000.png"),
        lambda: ids(damaged),
        lambda: list(damaged.vectors()),
    ):
        with pytest.raises(ArtifactError, match=r"cannot be opened \(.*Build it again") as error:
            look()
        assert ".rs:" not in str(error.value)
        assert "\n" not in str(error.value)


def set_json(folder: Path, **changes: object) -> None:
    value = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**value, **changes}))


def test_a_name_that_the_engine_cannot_open_is_refused_before_anything_is_embedded(
    tmp_path: Path,
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ConfigError, match="not a UTF-8 name"), building(folder, INFO):
        pytest.fail("opened")
    assert not list(tmp_path.iterdir())

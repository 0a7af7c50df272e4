"""The 8-bit copy finds what comparing every vector finds, and is used only where it is true."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numkong
import numpy as np
import pytest

from app import approximate
from app.lance import LanceStore, building, open_index
from app.library import Library
from app.scan.codes import TOP, Book
from app.scan.nearest import CROWD, candidates
from app.scan.product import Product
from app.store import Condition, IndexInfo, Row
from jepack.measures import unit

D = 24
SPACE = "00000000000000aa"
INFO = IndexInfo(name="test", output="embedding", dimension=D, fingerprint=SPACE, data="photos")
Maker = Callable[[np.random.Generator, int, int], np.ndarray]


def cone(rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    return 9 + rng.normal(size=(count, d))


def clusters(rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    centres = rng.normal(size=(20, d))
    return 1 + centres[rng.integers(20, size=count)] + 0.1 * rng.normal(size=(count, d))


def outliers(rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    """A few vectors far beyond what the steps of the codes were made for."""
    return rng.normal(size=(count, d)) + 30 * (rng.random((count, d)) < 0.002)


def copies(rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    return rng.normal(size=(7, d))[rng.integers(7, size=count)]


def isotropic(rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    return rng.normal(size=(count, d))


@pytest.mark.parametrize("make", [isotropic, cone, clusters, outliers, copies])
@pytest.mark.parametrize(("count", "d"), [(1, 1), (9, 3), (700, 65), (5000, 48)])
@pytest.mark.parametrize("k", [1, 10, 400])
def test_codes_never_rule_out_one_of_the_nearest(make: Maker, count: int, d: int, k: int) -> None:
    rng = np.random.default_rng(0)
    rows, queries = make(rng, count, d), make(rng, 6, d)
    book = Book.of(rows[:500])
    codes = book.encode(rows)
    found = candidates(codes, book.ask(queries, float(np.abs(codes.base).max())), k)
    similar = unit(queries) @ unit(rows).T
    for own, places in zip(similar, found, strict=True):
        assert places is not None
        wanted = np.sort(own)[::-1][:k]
        np.testing.assert_allclose(np.sort(own[places])[::-1][:k], wanted, rtol=0, atol=1e-12)


def test_codes_leave_few_of_many_rows() -> None:
    rng = np.random.default_rng(0)
    rows = clusters(rng, 20_000, 64)
    book = Book.of(rows[:500])
    codes = book.encode(rows)
    asking = book.ask(clusters(rng, 5, 64), float(np.abs(codes.base).max()))
    assert all(one is not None and len(one) < 2000 for one in candidates(codes, asking, 10))


@pytest.mark.parametrize("queries", [1, 2, 17])
def test_products_are_exact_at_the_ends_of_their_range(queries: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.choice([-TOP, TOP], (33, 4097)).astype(np.int8)
    asked = rng.choice([-TOP, TOP], (queries, 4097)).astype(np.int8)
    asked[0] = rows[0]
    found = Product(asked)(rows)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, rows.astype(np.int64) @ asked.T.astype(np.int64))
    assert found[0, 0] == 4097 * TOP**2


def test_products_are_the_same_whatever_instructions_the_processor_has() -> None:
    rng = np.random.default_rng(0)
    rows = rng.choice([-TOP, TOP], (35, 515)).astype(np.int8)
    asked = np.concatenate([rows[:1], rng.integers(-TOP, TOP + 1, (8, 515), dtype=np.int8)])
    wanted = rows.astype(np.int64) @ asked.T.astype(np.int64)
    here = [name for name, on in numkong.get_capabilities().items() if on and name != "serial"]
    try:
        for name in reversed(here):
            numkong.disable_capability(name)
            np.testing.assert_array_equal(Product(asked)(rows), wanted)
            np.testing.assert_array_equal(Product(asked[:1])(rows), wanted[:, :1])
    finally:
        for name in here:
            numkong.enable_capability(name)


def build(folder: Path, vectors: np.ndarray, start: int = 0) -> LanceStore:
    with building(folder, INFO) as store:
        store.upsert(rows_of(vectors, start), fingerprint=SPACE)
    return open_index(folder)


def rows_of(vectors: np.ndarray, start: int = 0) -> list[Row]:
    return [
        Row(id=f"{start + at:05d}", label="ab"[at % 2], vector=vector.astype(np.float32))
        for at, vector in enumerate(vectors)
    ]


def check(store: LanceStore, queries: np.ndarray, k: int = 10, label: str | None = None) -> None:
    """What `search` tells is what comparing every stored vector tells, equals in the order of their ids."""
    parts = list(store.vectors())
    names = np.array([name for ids, _, _ in parts for name in ids])
    labels = np.array([one for _, own, _ in parts for one in own])
    vectors = np.concatenate([x for _, _, x in parts]).astype(np.float64)
    if label is not None:
        names, vectors = names[labels == label], vectors[labels == label]
    only = [] if label is None else [Condition("label", "is", label)]
    far = np.maximum(0, np.round(1 - unit(queries) @ unit(vectors).T, 6))
    found = store.search(queries.astype(np.float32), k, fingerprint=SPACE, only=only)
    for own, hits in zip(far, found, strict=True):
        order = np.lexsort((names, own))[:k]
        np.testing.assert_allclose([hit.distance for hit in hits], own[order], atol=2e-6)
        assert len({hit.row.id for hit in hits}) == len(order)
        for hit in hits:
            assert abs(own[names == hit.row.id][0] - hit.distance) < 2e-6
        assert hits == sorted(hits, key=lambda hit: (hit.distance, hit.row.id))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """Read it only."""
    return build(
        tmp_path_factory.mktemp("scan") / "index", clusters(np.random.default_rng(1), 900, D)
    )


def test_a_search_by_the_copy_tells_what_comparing_every_vector_tells(made: LanceStore) -> None:
    queries = clusters(np.random.default_rng(2), 40, D)
    assert made.has_copy
    check(made, queries)
    check(made, queries[:1], k=1)
    check(made, queries, k=2000)
    check(made, queries, label="b")
    assert made.search(queries, 3, fingerprint=SPACE, only=[Condition("label", "is", "no")]) == (
        [[]] * 40
    )


def test_it_tells_the_same_as_the_engines_own_scan(made: LanceStore) -> None:
    queries = clusters(np.random.default_rng(3), 20, D).astype(np.float32)
    for query, hits in zip(queries, made.search(queries, 10, fingerprint=SPACE), strict=True):
        by_engine = made._searcher._by_table(query, 10, "", False)
        assert [hit.row for hit in hits] == [hit.row for hit in by_engine]
        np.testing.assert_allclose(
            [hit.distance for hit in hits], [hit.distance for hit in by_engine], atol=1e-6
        )


def test_of_equally_near_rows_those_with_the_first_ids_are_told(tmp_path: Path) -> None:
    vectors = np.ones((50, D))
    vectors[:, 0] = np.repeat([1, 2], 25)
    store = build(tmp_path / "index", vectors[::-1])
    [hits] = store.search(np.ones((1, D)), 30, fingerprint=SPACE)
    assert [hit.row.id for hit in hits] == [f"{at:05d}" for at in (*range(25, 50), *range(5))]
    assert {hit.distance for hit in hits[:25]} == {0}


def test_where_all_vectors_are_one_the_engine_searches_itself(tmp_path: Path) -> None:
    store = build(tmp_path / "index", np.ones((CROWD + 500, D)))
    [hits] = store.search(np.ones((1, D)), 5, fingerprint=SPACE)
    assert [hit.distance for hit in hits] == pytest.approx([0] * 5, abs=1e-6)


def test_an_index_without_rows_finds_nothing(tmp_path: Path) -> None:
    with building(tmp_path / "index", INFO):
        pass
    assert open_index(tmp_path / "index").search(np.ones((2, D)), 5, fingerprint=SPACE) == [[], []]


def test_after_a_write_the_copy_is_out_of_use_until_it_is_made_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    store = build(tmp_path / "index", isotropic(rng, 300, D))
    queries = isotropic(rng, 5, D)
    for write in (
        lambda: store.upsert(rows_of(isotropic(rng, 20, D), 290), fingerprint=SPACE),
        lambda: store.delete(["00003", "00295"]),
    ):
        write()
        assert not store.has_copy
        check(store, queries)
        store.make_copy()
        assert store.has_copy
        check(store, queries)
        check(open_index(tmp_path / "index"), queries)
        assert len(list((tmp_path / "index").glob("codes-*"))) == 1


def test_a_reader_of_the_old_state_keeps_it_while_the_new_one_is_copied(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    store, queries = build(tmp_path / "index", isotropic(rng, 100, D)), isotropic(rng, 3, D)
    reader = open_index(tmp_path / "index")
    before = reader.search(queries, 5, fingerprint=SPACE)
    store.upsert(rows_of(queries, 500), fingerprint=SPACE)
    store.make_copy()
    assert reader.search(queries, 5, fingerprint=SPACE) == before
    [hits, *_] = open_index(tmp_path / "index").search(queries, 5, fingerprint=SPACE)
    assert hits[0].row.id == "00500"


def flip(path: Path) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))


def other_version(folder: Path) -> None:
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps({**about, "version": about["version"] + 1}))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: flip(folder / "code.npy"),
        lambda folder: flip(folder / "vector.npy"),
        lambda folder: flip(folder / "rows.npz"),
        lambda folder: (folder / "code.npy").write_bytes(b""),
        lambda folder: (folder / "vector.npy").unlink(),
        lambda folder: (folder / "about.json").write_text("{}"),
        lambda folder: (folder / "about.json").write_text("[1"),
        other_version,
    ],
)
def test_a_copy_that_is_not_what_was_written_is_made_again(
    tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    rng = np.random.default_rng(6)
    build(tmp_path / "index", isotropic(rng, 120, D))
    [copy] = (tmp_path / "index").glob("codes-*")
    spoil(copy)
    store, queries = open_index(tmp_path / "index"), isotropic(rng, 3, D)
    assert not store.has_copy
    check(store, queries)
    store.make_copy()
    assert store.has_copy
    check(store, queries)


def test_approximate_search_is_used_where_it_finds_enough_of_the_nearest(tmp_path: Path) -> None:
    vectors = clusters(np.random.default_rng(7), 1500, D)
    with building(tmp_path / "index", INFO, recall=0.5) as store:
        store.upsert(rows_of(vectors), fingerprint=SPACE)
    store = open_index(tmp_path / "index")
    found = approximate.read(store.folder)
    assert found is not None
    assert found.used
    assert found.recall >= 0.5
    assert store.has_copy  # for filters
    check(store, vectors[:3], label="a")
    hits = store.search(vectors[:20].astype(np.float32), 1, fingerprint=SPACE)
    assert np.mean([own[0].row.id == f"{at:05d}" for at, own in enumerate(hits)]) >= 0.5
    store.upsert(rows_of(vectors[:1], 9000), fingerprint=SPACE)  # not what was measured
    check(store, vectors[:3])


def test_approximate_search_is_refused_where_it_finds_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "agreement", lambda found, truth: 0.4)
    vectors = isotropic(np.random.default_rng(8), 1500, D)
    with building(tmp_path / "index", INFO, recall=0.9) as store:
        store.upsert(rows_of(vectors), fingerprint=SPACE)
    store = open_index(tmp_path / "index")
    found = approximate.read(store.folder)
    assert found is not None
    assert not found.used
    assert "finds 40.0% of" in found.told()
    assert "90.0% were asked for: every vector is compared instead" in found.told()
    assert store.has_copy
    check(store, vectors[:5])


@pytest.mark.parametrize(
    ("recall", "count", "least"),
    [
        (None, approximate.FROM - 1, None),
        (None, approximate.FROM, approximate.RECALL),
        (0.8, 5000, 0.8),
        (1.0, 10**7, None),
        (0.8, 10, None),
    ],
)
def test_approximate_search_is_tried_in_large_indexes_or_when_asked_for(
    recall: float | None, count: int, least: float | None
) -> None:
    assert approximate.wanted(recall, count) == least


def test_the_page_copies_the_vectors_of_an_older_index_when_it_opens_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    build(tmp_path / "index", isotropic(rng, 200, D))
    for copy in (tmp_path / "index").glob("codes-*"):
        shutil.rmtree(copy)
    library = Library(tmp_path / "index")
    assert library.measuring is not None
    library.measuring.wait(300)
    assert library.store.has_copy
    check(library.store, isotropic(rng, 3, D))
    assert Library(tmp_path / "index").measuring is None

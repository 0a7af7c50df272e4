"""The same calls to LanceDB and to Milvus give the same rows, distances and errors."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from milvus_server import lite_or_server
from PIL import Image

from app.columns import Column
from app.engines import building, folder_of, open_index, stamp_of
from app.journal import Journal
from app.moving import move
from app.store import Condition, Hit, IndexInfo, Row, VectorStore
from app.thumbnail import make_thumbnail
from jepack.errors import ArtifactError, ConfigError, JepackError

D = 24
SPACE = "00000000000000aa"
COLUMNS = (Column("site", "category"), Column("seen", "date"), Column("µm", "number"))
INFO = IndexInfo(
    name="test", output="embedding", dimension=D, fingerprint=SPACE, data="photos", columns=COLUMNS
)
SITES = ("it's", 'say "so"', "back\\slash", "Köln 码", "x' OR '1'='1", None)
NAMES = [
    "it's.png",
    "x' OR '1'='1",
    'x" or id != "',
    "ünï/码.png",
    'a"b.png',
    "50%_.png",
    "a\\x0ab.png",
    "tab\\t",
]


def rows(count: int, *, seed: int = 0, start: int = 0) -> list[Row]:
    vectors = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return [
        Row(
            id=f"{start + at:04d}.png",
            label=None if at % 7 == 0 else f"class-{at % 3}",
            thumbnail=bytes(range(at % 256)),
            vector=one,
            columns={
                "site": SITES[at % len(SITES)],
                "seen": None if at % 5 == 0 else f"2026-11-{1 + at % 28:02d}T12:00:00+00:00",
                "µm": None if at % 4 == 0 else at / 3 - 7,
            },
            stamp=f"{at} 5 abc",
        )
        for at, one in enumerate(vectors)
    ]


def build(where: Path | str, given: list[Row]) -> VectorStore:
    with building(where, INFO) as store:
        for start in range(0, len(given), 50):
            store.upsert(given[start : start + 50], fingerprint=SPACE)
    return open_index(where)


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=pytest.mark.slow)])
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Without a collection: each test names its own."""
    with lite_or_server(request.param, tmp_path_factory.mktemp("milvus")) as address:
        yield address


Pair = tuple[VectorStore, VectorStore]


@pytest.fixture(scope="module")
def pair(address: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """LanceDB and Milvus with the same rows, which a test that changes them puts back."""
    folder = tmp_path_factory.mktemp("lance") / "index"
    return build(folder, rows(150)), build(f"{address}#pair", rows(150))


def told(hits: Sequence[Hit]) -> list[tuple[str, str | None, bytes]]:
    return [(hit.row.id, hit.row.label, hit.row.thumbnail) for hit in hits]


def searched(
    pair: Pair, k: int, only: Sequence[Condition] = (), thumbnails: bool = False
) -> list[list[Hit]]:
    """LanceDB's answer to a few queries, when Milvus's is the same."""
    queries = np.random.default_rng(1).normal(size=(5, D)).astype(np.float32)
    one, other = (
        store.search(queries, k, fingerprint=SPACE, thumbnails=thumbnails, only=only)
        for store in pair
    )
    assert [told(hits) for hits in one] == [told(hits) for hits in other]
    for hits, others in zip(one, other, strict=True):
        np.testing.assert_allclose(
            [hit.distance for hit in hits], [hit.distance for hit in others], atol=1e-5
        )
    return one


def whole(store: VectorStore, names: Sequence[str]) -> list[tuple[object, ...]]:
    return [
        (row.id, row.label, row.thumbnail, dict(row.columns), row.stamp, tuple(row.vector))
        for row in store.get(names)
        if row.vector is not None
    ]


def test_both_give_back_what_they_were_given(pair: Pair) -> None:
    names = [row.id for row in rows(150)][::-1]
    one, other = pair
    assert whole(one, names) == whole(other, names)
    assert one.count() == other.count() == one.info.count == other.info.count == 150
    assert one.found(["0003.png", "gone"]).keys() == other.found(["0003.png", "gone"]).keys()
    assert one.info == INFO.__class__(**{**vars(other.info), "created": one.info.created})


def test_both_tell_every_row_once_and_each_way_in_the_same_order(pair: Pair) -> None:
    told = []
    for store in pair:
        ids = [row.id for part in store.scan(40) for row in part]
        parts = list(store.vectors(40))
        assert [name for names, _, _ in parts for name in names] == ids
        vectors = dict(zip(ids, np.concatenate([x for _, _, x in parts]).tolist(), strict=True))
        labels = dict(zip(ids, [label for _, own, _ in parts for label in own], strict=True))
        columns = [dict(zip(ids, store.column(one.name), strict=True)) for one in COLUMNS]
        told.append((vectors, labels, columns, store.values("site")))
    assert told[0] == told[1]
    assert len(told[0][0]) == 150


@pytest.mark.parametrize("k", [1, 10, 500])
def test_both_find_the_same_neighbours_at_the_same_distances(pair: Pair, k: int) -> None:
    for hits in searched(pair, k, thumbnails=True):
        assert len(hits) == min(k, 150)


def test_the_distance_to_itself_is_zero_and_to_its_opposite_two(pair: Pair) -> None:
    for store in pair:
        one = store.get(["0005.png"])[0].vector
        assert one is not None
        hits = store.search(np.stack([one, 3 * one, -one]), 150, fingerprint=SPACE)
        assert [some[0].row.id for some in hits[:2]] == ["0005.png"] * 2
        assert [hits[0][0].distance, hits[1][0].distance, hits[2][-1].distance] == pytest.approx(
            [0, 0, 2], abs=1e-5
        )
        assert min(hit.distance for some in hits for hit in some) >= 0


@pytest.mark.parametrize("sign", ["is", "not"])
@pytest.mark.parametrize("site", [*filter(None, SITES), "nowhere"])
def test_filters_on_a_category_find_the_same(pair: Pair, sign: str, site: str) -> None:
    [hits, *_] = searched(pair, 150, [Condition("site", sign, site)])
    known = {row.id: row.columns["site"] for row in rows(150)}
    expected = {
        name for name, own in known.items() if own is not None and (own == site) == (sign == "is")
    }
    assert {hit.row.id for hit in hits} == expected


@pytest.mark.parametrize(
    "only",
    [
        [Condition("label", "is", "class-1")],
        [Condition("label", "not", "class-1")],
        [Condition("label", "is", "")],
        [Condition("µm", "from", "3")],
        [Condition("µm", "to", "-1e-3")],
        [Condition("µm", "is", str(1 / 3 - 7))],
        [
            Condition("µm", "from", "-7"),
            Condition("µm", "to", "7.5"),
            Condition("label", "is", "class-2"),
        ],
        [Condition("seen", "from", "2026-11-20")],
        [Condition("seen", "to", "2026-11-03")],
        [Condition("seen", "not", "2026-11-03T12:00:00")],
        [Condition("seen", "from", "2026-12-20"), Condition("site", "is", "it's")],
    ],
)
def test_filters_find_the_same(pair: Pair, only: list[Condition]) -> None:
    for hits in searched(pair, 150, only):
        assert len(hits) < 150


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_is_only_a_name(pair: Pair, name: str) -> None:
    for store in pair:
        store.delete([name])
        assert store.count() == 150
        assert not store.has(name)
        store.upsert([Row(id=name, vector=np.ones(D, np.float32))], fingerprint=SPACE)
        assert store.get([name])[0].id == name
        store.delete([name, "not there"])
        assert store.count() == 150


def test_what_was_written_is_seen_at_once(pair: Pair) -> None:
    changed = rows(3, seed=9, start=149)
    for store in pair:
        store.upsert(changed, fingerprint=SPACE)
        assert store.count() == 152
    assert whole(pair[0], ["0149.png", "0151.png"]) == whole(pair[1], ["0149.png", "0151.png"])
    searched(pair, 5)
    for store in pair:
        store.delete(["0150.png", "0151.png"])
        store.upsert(rows(150)[149:], fingerprint=SPACE)
        assert store.count() == 150
    searched(pair, 150)


def test_a_picture_too_large_for_a_field_is_made_smaller(pair: Pair) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (256, 256, 3)).astype(np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    picture = make_thumbnail(buffer.getvalue())
    row = Row(id="noise.png", thumbnail=picture, vector=np.ones(D, np.float32))
    pair[1].upsert([row], fingerprint=SPACE)
    found = pair[1].get([row.id])[0].thumbnail
    pair[1].delete([row.id])
    assert len(found) < 49_152 < len(picture)
    assert Image.open(io.BytesIO(found)).size == (128, 128)


BAD = Row(id="bad", vector=np.zeros(D, np.float32))
ERRORS: dict[str, Callable[[VectorStore], object]] = {
    "another encoder asks": lambda store: store.search(np.ones((1, D)), 3, fingerprint="ff"),
    "another encoder writes": lambda store: store.upsert(rows(1), fingerprint="ff"),
    "another dimension": lambda store: store.search(np.ones((1, 64)), 3, fingerprint=SPACE),
    "no direction": lambda store: store.upsert([BAD], fingerprint=SPACE),
    "no vector": lambda store: store.upsert([Row(id="bad")], fingerprint=SPACE),
    "twice in a batch": lambda store: store.upsert(rows(1) + rows(1), fingerprint=SPACE),
    "no such image": lambda store: store.get(["0001.png", "gone.png"]),
    "no neighbours": lambda store: store.search(np.ones((1, D)), 0, fingerprint=SPACE),
    "no such column": lambda store: ask(store, "altitude", "is", "3"),
    "no such condition": lambda store: ask(store, "site", "like", "K"),
    "no number": lambda store: ask(store, "µm", "from", "wide"),
}


def ask(store: VectorStore, *words: str) -> None:
    store.search(np.ones((1, D)), 3, fingerprint=SPACE, only=[Condition(*words)])


@pytest.mark.parametrize("what", ERRORS)
def test_both_refuse_with_the_same_words(pair: Pair, what: str) -> None:
    said = []
    for store in pair:
        with pytest.raises(JepackError) as error:
            ERRORS[what](store)
        text = str(error.value).replace("--to", "--out")
        said.append((type(error.value), re.sub(r"\S*(/index|#pair)\b", "INDEX", text)))
    assert said[0] == said[1]
    assert pair[1].count() == 150


def test_a_build_that_fails_leaves_the_index_as_it_was_and_one_that_ends_takes_its_place(
    address: str,
) -> None:
    where = f"{address}#again"
    build(where, rows(7))
    was = stamp_of(where)

    def build_halfway() -> None:
        with building(where, INFO) as new:
            new.upsert(rows(3, start=50), fingerprint=SPACE)
            raise RuntimeError("the endpoint died")

    with pytest.raises(RuntimeError, match="the endpoint died"):
        build_halfway()
    assert stamp_of(where) == was
    assert open_index(where).count() == 7
    assert build(where, rows(30)).count() == 30
    assert stamp_of(where) != was
    # The folder that stands for it opens the same, and holds what its distances mean.
    folder = folder_of(where)
    assert open_index(folder).count() == 30
    assert (folder / "scale.json").is_file()
    build(folder, rows(8))
    assert open_index(where).count() == 8


def test_what_is_not_there_is_told_with_what_is(pair: Pair, address: str) -> None:
    with pytest.raises(
        ArtifactError, match=r"#nothing: no index here .*pair.*jepack index DATA --to"
    ):
        open_index(f"{address}#nothing")


def test_more_neighbours_than_the_engine_gives_are_refused(pair: Pair) -> None:
    with pytest.raises(ConfigError, match="at most 16,384 neighbours, 20,000 were asked for"):
        pair[1].search(np.ones((1, D)), 20_000, fingerprint=SPACE)


class Stopped(Exception):
    """In the place of a lost connection."""


def test_an_index_moves_to_milvus_and_back_and_goes_on_where_it_was_stopped(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.moving.BATCH", 20)
    first, last = tmp_path / "first", tmp_path / "last"
    there = f"{address}#there_{os.getpid()}"
    build(first, rows(60))
    Journal(first).add("tag", ["0003.png"], "odd")
    names = [row.id for row in rows(60)]
    expected = whole(open_index(first), names)
    for source, target in ((first, there), (there, last)):
        seen: list[int] = []

        def stop(count: int, seen: list[int] = seen) -> None:
            seen.append(count)
            if len(seen) == 2:
                raise Stopped

        with pytest.raises(Stopped):
            move(source, target, stop)
        with pytest.raises(ArtifactError, match="no index here"):
            open_index(target)
        done = move(source, target)
        assert (done.count, done.journal) == (60, "moved")
        assert 20 <= done.kept < 60
        assert whole(open_index(target), names) == expected
    assert Journal(last).stands().tags == {"0003.png": frozenset({"odd"})}
    assert open_index(last).info == open_index(first).info
    assert (last / "scale.json").read_bytes() == (first / "scale.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import test_engines_agree as t
import app.moving
app.moving.BATCH = 20
t.build({there!r}, t.rows(7))
t.build({folder!r}, t.rows(60))
with t.building({there!r}, t.INFO) as store:
    store.upsert(t.rows(30), fingerprint=t.SPACE)
    seen = []
    def on_progress(count):
        seen.append(count)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    t.move({folder!r}, {moved!r}, on_progress)
"""


def test_kill_9_in_the_middle_of_a_build_and_of_a_move_loses_nothing(
    address: str, tmp_path: Path
) -> None:
    own = address if "://" in address else f"{tmp_path}/own.db"  # one process at a time
    there, moved = f"{own}#killed_{os.getpid()}", f"{own}#moved_{os.getpid()}"
    folder = str(tmp_path / "folder")
    code = KILLED.format(path=sys.path, there=there, folder=folder, moved=moved)
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert len(open_index(there).search(np.ones((1, D)), 9, fingerprint=SPACE)[0]) == 7
    assert build(there, rows(9)).count() == 9
    done = move(folder, moved)
    assert done.count == 60
    assert 40 <= done.kept <= 60
    names = [row.id for row in rows(60)]
    assert whole(open_index(moved), names) == whole(open_index(folder), names)


@pytest.mark.parametrize("address", [pytest.param("server", marks=pytest.mark.slow)], indirect=True)
def test_a_server_that_refuses_is_told_from_one_that_is_not_there(address: str) -> None:
    def told(where: str, **environment: str) -> tuple[int, str]:
        words = [sys.executable, "-m", "jepack", "search", f"{where}#pair", "0001.png"]
        done = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, **environment}
        )
        return done.returncode, " ".join(done.stderr.split())

    code, said = told(address, JEPACK_MILVUS_TOKEN="root:nope")
    assert code == 6
    assert "refused who asks" in said
    assert "Set JEPACK_MILVUS_TOKEN" in said
    code, said = told(address, JEPACK_CA_FILE="")
    assert code == 6
    assert "certificate is not trusted here" in said
    assert "Set JEPACK_CA_FILE" in said
    code, said = told(address.replace("https", "http"))
    assert code == 6
    assert "no Milvus answers there" in said

"""The commands over an index in Milvus, and what is told where they cannot be."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixel_embedder import FINGERPRINT, PixelEmbedder, index_digits, pixel_vector
from test_updating import Counting, indexed
from typer.testing import CliRunner

from app import lance, scale
from app.engines import folder_of, open_index
from app.indexing import from_embedder, write_index
from app.library import Library
from app.milvus_address import address_of, token
from app.milvus_opening import others
from app.milvus_server import not_opened
from app.moving import move
from app.store import IndexInfo
from jepack.bundle import Bundle
from jepack.cli import app
from jepack.errors import ArtifactError, ConfigError, DependencyError, JepackError, ServerError
from jepack.machine import loopback
from jepack.sources import find_images


def jepack(*words: object) -> Any:
    """What a command prints as JSON."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code in (0, 11), done.output
    return json.loads(done.stdout)


def test_index_search_and_check_take_an_address(digits_folder: Path, tmp_path: Path) -> None:
    images = find_images(digits_folder)
    vectors = np.stack([pixel_vector(image.path) for image in images])
    np.savez(
        tmp_path / "digits.npz",
        path=np.array([image.path.relative_to(digits_folder).as_posix() for image in images]),
        embedding=vectors,
        fingerprint_embedding=np.str_(FINGERPRINT),
    )
    where = f"{tmp_path}/digits.db#digits"
    words = ("--embeddings", tmp_path / "digits.npz", "--output", "embedding")
    made = jepack("index", digits_folder, *words, "--to", where)
    assert (made["index"], made["count"], made["dimension"]) == (where, 60, 64)
    jepack("index", digits_folder, *words, "--out", tmp_path / "folder")
    name = images[0].path.relative_to(digits_folder).as_posix()
    answers = [jepack("search", index, name, "--k", 4) for index in (where, tmp_path / "folder")]
    assert answers[0]["belonging"]["kind"] == answers[1]["belonging"]["kind"]
    found, expected = ([row | {"distance": 0} for row in one["neighbours"]] for one in answers)
    assert found == expected
    report = jepack("check", where)
    assert Path(report["index_folder"]) == folder_of(where) == tmp_path / "digits.db-digits"


def test_an_open_page_sees_the_index_that_was_built_anew(
    digits_folder: Path, tmp_path: Path
) -> None:
    where, embedder = f"{tmp_path}/photos.db", Counting()
    images = tmp_path / "images"
    shutil.copytree(digits_folder / "digit-1", images / "digit-1")
    count = len(find_images(images))
    indexed(images, where, embedder, update=False)  # type: ignore[arg-type]
    library = Library(where)
    assert len(library.catalogue) == library.store.count() == count
    shutil.copytree(digits_folder / "digit-2", images / "digit-2")
    embedder.embedded.clear()
    done = indexed(images, where, embedder)  # type: ignore[arg-type]
    assert done.same == count
    assert len(embedder.embedded) == done.info.count - count > 0
    assert library.store.count() == len(library.catalogue) == done.info.count
    rows, _ = library.page(0, 3, label="digit-2")
    assert [row.label for row in rows] == ["digit-2"] * 3
    assert all(row.thumbnail for row in rows)


def test_what_changed_on_the_way_is_told_and_the_target_stays(
    digits_folder: Path, tmp_path: Path
) -> None:
    first, last = f"{tmp_path}/first.db", tmp_path / "last"
    index_digits(digits_folder, first)  # type: ignore[arg-type]
    index_digits(digits_folder, last, name="Before")
    store = open_index(first)
    gone = next(iter(store.scan()))[0].id
    with pytest.raises(ArtifactError, match=r"59 rows .* 60 are there.*Run the command again"):
        move(first, last, lambda count: store.delete([gone]))
    assert open_index(last).info.name == "Before"
    assert move(first, last).count == open_index(last).count() == 59
    with pytest.raises(ConfigError, match="are one index"):
        move(first, f"{tmp_path}/../{tmp_path.name}/first.db")


@pytest.mark.parametrize("place", ["last", "last.db#q"])
def test_a_move_replaces_another_index_only_when_told(
    place: str, digits_folder: Path, tmp_path: Path
) -> None:
    first, last = str(tmp_path / "first"), f"{tmp_path}/{place}"
    index_digits(digits_folder, Path(first))
    few = tmp_path / "few"
    shutil.copytree(digits_folder / "digit-2", few / "digit-2")
    indexed(few, last, PixelEmbedder(), update=False)
    count = open_index(last).count()
    with pytest.raises(ConfigError, match=rf"another index.* {count} images of .*--replace"):
        move(first, last)
    assert open_index(last).count() == count
    busy = []

    def second(count: int) -> None:
        with pytest.raises(ConfigError, match="another move to it is under way"):
            move(first, last, replace_other=True)
        busy.append(count)

    assert move(first, last, second, replace_other=True).count == 60
    assert busy
    other = str(tmp_path / "other")  # of the same data and encoder is what is at `last`, too
    index_digits(digits_folder, Path(other))
    assert jepack("index", "move", other, last)["count"] == open_index(last).count() == 60
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("word", ["x.DB#tiles", "x.DB", "127.0.0.1:19530#x", "host:1", "x.dbb#q"])
def test_what_was_meant_for_an_address_is_told_how_one_looks(
    word: str, digits_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("search", word, "a.png"), ("index", "move", str(digits_index), word)):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, ConfigError)
        assert "no such folder, and no address of an index" in str(done.exception)
        assert "such as http://127.0.0.1:19530#photos" in str(done.exception)
    assert not list(tmp_path.iterdir())
    (tmp_path / word).mkdir()  # a folder that is there is a folder
    assert address_of(word) is None


def test_a_bundle_in_the_place_of_an_index_is_told(small_bundle: Bundle) -> None:
    with pytest.raises(ArtifactError, match=r"no index here.*It is a bundle\. Make an index"):
        open_index(str(small_bundle.folder))


def test_a_collection_of_somebody_else_is_left_alone(digits_folder: Path, tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    file = str(tmp_path / "theirs.db")
    client = MilvusClient(file)
    client.create_collection("images", dimension=4)
    parts = from_embedder(find_images(digits_folder)[:3], "embedding", PixelEmbedder(), {})
    info = IndexInfo(
        name="x", output="embedding", dimension=64, fingerprint=FINGERPRINT, data=str(digits_folder)
    )
    with pytest.raises(ArtifactError, match="is no index of jepack, so it is left alone"):
        write_index(file, info, parts, {})
    with pytest.raises(ArtifactError, match="no index of jepack"):
        open_index(file)
    assert client.list_collections() == ["images"]


def test_nobody_there_is_told(tmp_path: Path) -> None:
    with loopback.hold(0) as held:
        port = held.getsockname()[1]
    with pytest.raises(ServerError, match=rf"127.0.0.1:{port}: no Milvus answers there .*See that"):
        open_index(f"http://127.0.0.1:{port}#photos")
    missing = tmp_path / "missing.db"
    with pytest.raises(ArtifactError, match=r"missing.db is missing\). Make it: jepack index"):
        open_index(str(missing))
    assert not missing.exists()


def test_what_milvus_lite_cannot_open_is_told_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = tmp_path / "h.db", tmp_path / "i.db"
    file.write_text("no index")
    with pytest.raises(ArtifactError, match=r"h.db: a file, and no index of Milvus Lite"):
        open_index(str(file))
    folder.mkdir()
    with (folder / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process has it open" in str(not_opened(folder, "failed"))
    assert "(failed). It may be damaged" in str(not_opened(folder, "failed"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written to" in str(not_opened(folder, "failed"))


def test_other_collections_are_named_and_the_rest_counted() -> None:
    class Six:
        def names(self) -> list[str]:
            return list("abcdef")

    address = address_of("x.db#missing")
    assert address is not None
    assert others(Six(), address) == " (there are: a, b, c, d, e and 1 more)"  # type: ignore[arg-type]


def test_a_copied_file_without_its_folder_is_measured_when_it_is_opened(
    digits_folder: Path, tmp_path: Path
) -> None:
    first, copy = tmp_path / "first.db", tmp_path / "copy.db"
    index_digits(digits_folder, str(first))  # type: ignore[arg-type]
    shutil.copytree(first, copy, ignore=shutil.ignore_patterns("LOCK"))
    store = open_index(str(copy))
    expected = scale.read(folder_of(str(first)), 60)
    assert expected is not None
    assert scale.read(store.folder, 60) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://root:secret@host:19530", r"//\.\.\.@host:19530.*JEPACK_MILVUS_TOKEN"),
        ("http://host:99999#photos", "ports go from 1 to 65535"),
        ("http://host:19530#my photos", "cannot name a collection"),
        ("http://host:19530/a/b", "no address of an index"),
        ("ftp://host#photos", "no address of an index"),
        ("x.db#1st", "cannot name a collection"),
    ],
)
def test_what_is_no_address_is_told_and_nobody_is_asked(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        address_of(text)
    assert "secret" not in str(error.value)


def test_an_address_names_a_server_a_file_or_the_folder_that_stands_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPACK_INDEXES", str(tmp_path))
    address = address_of("https://Milvus.example/lab#photos")
    assert str(address) == "https://milvus.example:19530/lab#photos"
    assert address is not None
    assert address.folder == tmp_path / "milvus.example+19530+lab+photos"
    assert str(address_of("runs/x.db")) == f"{os.getcwd()}/runs/x.db#images"
    for folder in ("runs/index", "photos#1", "x.db/index"):
        assert address_of(folder) is None
        assert address_of(Path(folder)) is None


def test_the_token_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JEPACK_MILVUS_TOKEN_FILE", raising=False)
    monkeypatch.setenv("JEPACK_MILVUS_TOKEN", "root:Milvus")
    assert token() == "root:Milvus"
    monkeypatch.setenv("JEPACK_MILVUS_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="cannot be read"):
        token()
    (tmp_path / "token").write_text("key\n")
    assert token() == "key"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Name one of them"),
        (("--out", "a", "--to", "b.db"), "Name only one"),
        (("--to", "runs/index"), "A folder is named by --out"),
        (("--to", "http://a:b@host"), "no address of an index"),
    ],
)
def test_an_index_goes_to_one_place(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["index", str(tmp_path), *words])
    assert isinstance(done.exception, JepackError)
    assert told in str(done.exception)


def test_without_pymilvus_what_to_install_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(DependencyError, match=r"needs pymilvus.*pip install 'jepack\[milvus\]'"):
        open_index(f"http://127.0.0.1:1#{tmp_path.name.replace('-', '_')}")


def test_a_folder_needs_no_milvus(digits_folder: Path, tmp_path: Path) -> None:
    assert isinstance(open_index(index_digits(digits_folder, tmp_path / "x")), lance.LanceStore)

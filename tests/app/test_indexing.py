"""`jepack index` and `jepack search`, from the command line where a user stands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import FINGERPRINT, PixelEmbedder, pixel_vector
from stub_gateway import FINGERPRINTS, row_of, running
from typer.testing import CliRunner

from app import indexing
from app.lance import open_index
from app.store import IndexInfo
from app.thumbnail import make_thumbnail
from jepack.bundle import Bundle
from jepack.cli import app as command
from jepack.client import default_output
from jepack.errors import ArtifactError, DataError
from jepack.sources import find_images


def jepack(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "jepack", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def embeddings_file(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    """What `jepack embed` would have written, but for the last image."""
    images = find_images(digits_folder)[:-1]
    vectors = np.stack([pixel_vector(image.path) for image in images])
    path = tmp_path_factory.mktemp("embeddings") / "digits.npz"
    np.savez(
        path,
        path=np.array([image.path.relative_to(digits_folder).as_posix() for image in images]),
        label=np.array([image.label for image in images]),
        embedding=vectors,
        projection=vectors[:, :8],
        fingerprint_embedding=np.str_(FINGERPRINT),
        fingerprint_projection=np.str_("00000000000000bb"),
    )
    return path


def test_index_then_search_from_the_command_line(
    digits_folder: Path, embeddings_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    words = ("--embeddings", embeddings_file, "--out", out, "--license", "BSD-3-Clause", "--json")
    made = jepack("index", digits_folder, *words)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["count"], told["dimension"], told["fingerprint"]) == (59, 64, FINGERPRINT)
    assert list(told["skipped"].values()) == ["not in the file of embeddings"]
    assert json.loads((out / "index.json").read_text())["data_license"] == "BSD-3-Clause"

    name = find_images(digits_folder)[0].path.relative_to(digits_folder).as_posix()
    answer = json.loads(jepack("search", out, name, "--k", 4, "--json").stdout)
    found = answer["neighbours"]
    assert [row["rank"] for row in found] == [1, 2, 3, 4]
    assert str(digits_folder / name) not in [row["path"] for row in found]
    assert all(Path(row["path"]).parent.name == row["label"] for row in found)
    distances = [row["distance"] for row in found]
    assert 0 < distances[0] <= distances[-1]
    assert found[0]["nearer_than_pairs"] > 0.9
    assert answer["belonging"]["kind"] in ("usual", "far")
    shown = jepack("search", out, name, "--k", 4)
    assert shown.returncode == 0
    assert f"{distances[0]:.4f}" in shown.stdout
    assert answer["belonging"]["headline"] in shown.stdout


def test_the_projection_can_be_indexed_instead(
    digits_folder: Path, embeddings_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    done = jepack(
        "index",
        digits_folder,
        "--embeddings",
        embeddings_file,
        "--out",
        out,
        "--output",
        "projection",
    )
    assert done.returncode == 0, done.stderr
    info = open_index(out).info
    assert (info.output, info.dimension, info.fingerprint) == ("projection", 8, "00000000000000bb")


def test_the_output_that_the_bundle_names_is_indexed_unless_told_otherwise(
    digits_folder: Path, embeddings_file: Path, tmp_path: Path
) -> None:
    with np.load(embeddings_file) as arrays:
        np.savez(tmp_path / "digits.npz", default_output=np.str_("projection"), **arrays)
    out = tmp_path / "index"
    done = jepack("index", digits_folder, "--embeddings", tmp_path / "digits.npz", "--out", out)
    assert done.returncode == 0, done.stderr
    assert open_index(out).info.output == "projection"
    assert default_output(embeddings_file) == "embedding"


def test_vectors_of_images_elsewhere_are_noted_not_joined_in_silence(
    digits_folder: Path, embeddings_file: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "digits.npz"
    with np.load(embeddings_file) as arrays:
        rows = {name: arrays[name] for name in arrays}
    one_more = {name: [*rows[name], rows[name][0]] for name in ("label", "embedding", "projection")}
    names = [*rows["path"], "7/of another set.png"]
    np.savez(saved, **{**rows, **one_more, "path": names, "base": "/data/june"})
    words = ("index", digits_folder, "--embeddings", saved, "--out", tmp_path / "index", "--json")
    done = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert json.loads(done.stdout)["notes"] == [
        f"{saved} holds vectors of images in /data/june; they are taken for the images of the same names "
        f"in {digits_folder}",
        f"rows of images that are not in {digits_folder} are left out: 1, such as 7/of another set.png",
    ]


@pytest.mark.parametrize("name", ["vectors", "vectors.parquet"])
def test_what_embed_wrote_in_parquet_is_indexed_as_it_is(
    name: str, digits_folder: Path, tmp_path: Path
) -> None:
    """No endpoint is asked: there is none any more."""
    saved, out = tmp_path / name, tmp_path / "index"
    with running() as stub:
        words = ("--url", stub.url, "--part-rows", "16", "--json")
        assert jepack("embed", digits_folder, "--out", saved, *words).returncode == 0
    made = jepack("index", digits_folder, "--embeddings", saved, "--out", out, "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["count"], told["dimension"], told["skipped"]) == (60, 2, {})
    assert told["notes"] == []
    assert told["fingerprint"] == FINGERPRINTS["embedding"]
    image = find_images(digits_folder)[7]
    store = open_index(out)
    (row,) = store.get([image.name_below(digits_folder)])
    np.testing.assert_array_equal(row.vector, row_of(image.path.read_bytes()))


@pytest.mark.parametrize("name", ["vectors", "vectors.parquet", "vectors.npz"])
def test_an_image_that_changed_after_it_was_embedded_is_told_and_embedded_by_an_update(
    name: str, digits_folder: Path, tmp_path: Path
) -> None:
    data, saved, out = tmp_path / "data", tmp_path / name, tmp_path / "index"
    first, changed = find_images(digits_folder)[:2]
    names = [image.name_below(digits_folder) for image in (first, changed)]
    for image, where in zip((first, changed), names, strict=True):
        (data / where).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(image.path, data / where)
    with running() as stub:
        words = ("--url", stub.url, "--json")
        assert jepack("embed", data, "--out", saved, *words).returncode == 0
        shutil.copyfile(find_images(digits_folder)[-1].path, data / names[1])
        if saved.suffix == ".parquet":  # taken over from the file's own rows, beside new ones
            shutil.copy(first.path, data / "new.png")
            assert jepack("embed", data, "--out", saved, *words).returncode == 0
        made = jepack("index", data, "--embeddings", saved, "--out", out, "--json")
        assert made.returncode == 0, made.stderr
        (note,) = json.loads(made.stdout)["notes"]
        assert note.startswith("images that changed after they were embedded: 1.")
        updated = json.loads(jepack("index", data, *words, "--out", out, "--update").stdout)
    assert updated["count"] - updated["same"] == 1
    (row,) = open_index(out).get([names[1]])
    np.testing.assert_array_equal(row.vector, row_of((data / names[1]).read_bytes()))


@pytest.mark.parametrize("name", ["vectors", "vectors.parquet"])
def test_a_job_that_is_not_finished_is_refused_and_the_index_stays(
    name: str, digits_folder: Path, tmp_path: Path
) -> None:
    saved, out = tmp_path / name, tmp_path / "index"
    folder = saved.with_name(f"{name}.parts") if saved.suffix else saved
    folder.mkdir()
    job = {"job": {"source": "photos"}, "run": "1", "whole": False}
    (folder / "job.json").write_text(json.dumps(job))
    out.mkdir()
    (out / "index.json").write_text("as it was")
    done = jepack("index", digits_folder, "--embeddings", saved, "--out", out)
    assert done.returncode == 2, done.stderr
    todo = f"not finished: run the same `jepack embed photos --out {saved} ...` again"
    assert todo in done.stderr
    assert (out / "index.json").read_text() == "as it was"


def test_parts_of_two_encoders_are_no_index(digits_folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "vectors"
    with running() as stub:
        for number, word in enumerate(("ee", "dd")):
            stub.fingerprints["embedding"] = word
            one = tmp_path / word
            assert jepack("embed", digits_folder, "--url", stub.url, "--out", one).returncode == 0
            saved.mkdir(exist_ok=True)
            shutil.copy(one / "part-000000.parquet", saved / f"part-{number:06}.parquet")
    words = ("--embeddings", saved, "--out", tmp_path / "index")
    done = jepack("index", digits_folder, *words)
    assert done.returncode == 4
    assert "holds embeddings of several encoders (part-000000.parquet ee" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("index", "DATA", "--out", "OUT", "--output", "logits"), 2, "embedding or projection"),
        (("index", "NOWHERE", "--out", "OUT"), 3, "no such folder of images"),
        (("index", "DATA", "--out", "OUT", "--url", "127.0.0.1:9"), 6, "jepack serve BUNDLE"),
        (("index", "DATA", "--out", "OUT", "--embeddings", "NOWHERE"), 4, "jepack embed DATA"),
        (("search", "NOWHERE", "a.png"), 4, "jepack index DATA"),
        (("search", "INDEX", "a.png"), 3, "neither an image file nor the id"),
        (("search", "INDEX", "IMAGE", "--url", "127.0.0.1:9"), 6, "jepack serve BUNDLE"),
        (("app", "NOWHERE"), 4, "jepack index DATA"),
    ],
)
def test_a_mistake_is_told_with_its_mend_and_an_exit_code(
    digits_folder: Path,
    digits_index: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    places = {
        "DATA": digits_folder,
        "INDEX": digits_index,
        "IMAGE": find_images(digits_folder)[0].path,
        "NOWHERE": tmp_path / "nowhere",
        "OUT": tmp_path / "out",
    }
    done = jepack(*(places.get(word, word) for word in words))
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_images_are_skipped_and_named(digits_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sevens").mkdir(parents=True)
    for number, image in enumerate(find_images(digits_folder)[:5]):
        (data / "sevens" / f"{number}.png").write_bytes(image.path.read_bytes())
    (data / "sevens" / "torn.png").write_bytes(b"\x89PNG torn off")
    info = info_of(data)
    skipped: dict[Path, str] = {}
    parts = indexing.from_embedder(find_images(data), "embedding", PixelEmbedder(), skipped)
    done = indexing.write_index(tmp_path / "index", info, parts, skipped)
    assert done.info.count == 5
    assert list(done.skipped) == ["sevens/torn.png"]
    assert "known format" in done.skipped["sevens/torn.png"]


def test_a_folder_of_nothing_but_bad_images_makes_no_index(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "torn.png").write_bytes(b"torn")
    skipped: dict[Path, str] = {}
    parts = indexing.from_embedder(
        find_images(tmp_path / "data"), "embedding", PixelEmbedder(), skipped
    )
    with pytest.raises(DataError, match="no image could be embedded"):
        indexing.write_index(tmp_path / "index", info_of(tmp_path / "data"), parts, skipped)
    assert not (tmp_path / "index").exists()


def info_of(data: Path) -> IndexInfo:
    return IndexInfo(
        name="test", output="embedding", dimension=0, fingerprint=FINGERPRINT, data=str(data)
    )


def test_every_image_of_the_index_has_its_class_folder_as_label(
    digits_index: Path, digits_folder: Path
) -> None:
    found = {row.id: row.label for part in open_index(digits_index).scan() for row in part}
    wanted = {
        image.path.relative_to(digits_folder).as_posix(): image.label
        for image in find_images(digits_folder)
    }
    assert found == wanted


@pytest.mark.parametrize(
    ("size", "shown"), [((600, 300), (256, 128)), ((40, 20), (40, 20)), ((3000, 1), (256, 1))]
)
def test_a_thumbnail_keeps_the_shape_and_fits(tmp_path: Path, size: Any, shown: Any) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    (tmp_path / "a.webp").write_bytes(make_thumbnail(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.webp") as image:
        assert (image.format, image.size) == ("WEBP", shown)


def test_an_endpoint_without_fingerprints_is_refused() -> None:
    with pytest.raises(ArtifactError, match="tells no fingerprint"):
        indexing.fingerprint_of({}, "embedding", "127.0.0.1:8001")


@pytest.mark.triton
def test_an_index_made_through_triton_finds_an_image_file_itself(
    triton_server: Any, exported_bundle: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    made = jepack("index", digits_folder, "--url", triton_server.url, "--out", out, "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert told["fingerprint"] == exported_bundle.fingerprints["embedding"]
    assert (told["count"], told["bundle"]) == (60, exported_bundle.name)
    for image in find_images(digits_folder)[::25]:
        words = ("search", out, image.path, "--url", triton_server.url, "--k", 3, "--json")
        [first, second, _] = json.loads(jepack(*words).stdout)["neighbours"]
        assert first["path"] == str(image.path)
        assert first["distance"] == pytest.approx(0, abs=1e-5)
        assert second["distance"] > first["distance"]

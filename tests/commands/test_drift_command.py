"""`jepack drift`: exit codes, JSON and the picture, for files of `jepack embed` and for an endpoint."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_bundle import write_tiny_bundle
from typer.testing import CliRunner

from jepack import bundle as bundles
from jepack.cli import app
from jepack.commands import drift_sides
from jepack.errors import ArtifactError, DataError
from jepack.measures import fit_null

RUNNER = CliRunner()


def ordinary(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("drift") / "bundle")
    with bundles.editing(bundles.load(folder)) as stage:
        bundles.write_null(stage, fit_null(ordinary(400, 0), runs=24))
    return folder


def saved(bundle: Path, path: Path, x: np.ndarray, fingerprint: str = "") -> Path:
    """As `jepack embed` writes it."""
    np.savez(
        path,
        path=np.array([f"row-{number}.png" for number in range(len(x))]),
        projection=x,
        fingerprint_projection=fingerprint or bundles.load(bundle).fingerprints["projection"],
    )
    return path


def told(*arguments: object) -> tuple[int, dict[str, Any]]:
    done = RUNNER.invoke(app, ["drift", *map(str, arguments), "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


def test_ordinary_images_end_with_0_and_drifted_ones_with_9(bundle: Path, tmp_path: Path) -> None:
    code, found = told(bundle, saved(bundle, tmp_path / "a.npz", ordinary(300, 1)))
    assert (code, found["drift"], found["alarm_at"]) == (0, False, None)
    assert list(found["windows"]) == ["64", "128", "256"]
    code, found = told(bundle, saved(bundle, tmp_path / "b.npz", ordinary(300, 1) + 1))
    assert (code, found["drift"], found["alarm_at"]) == (9, True, 64)
    assert found["mean_shift"] == pytest.approx(1, abs=0.15)
    assert max(found["windows"].values()) > found["threshold"]


def test_a_parquet_of_jepack_embed_says_what_its_npz_says(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pytest.importorskip("pyarrow")
    rows = [ordinary(200, 1), ordinary(200, 2) + 1]
    files = []
    for number, x in enumerate(rows):
        npz = saved(bundle, tmp_path / f"{number}.npz", x)
        with np.load(npz) as arrays:
            columns = {
                "path": table.array(arrays["path"].tolist()),
                "projection": table.FixedSizeListArray.from_arrays(table.array(x.reshape(-1)), 2),
            }
            about = {"fingerprint_projection": str(arrays["fingerprint_projection"])}
        parquet = npz.with_suffix(".parquet")
        pytest.importorskip("pyarrow.parquet").write_table(
            table.table(columns).replace_schema_metadata(about), parquet
        )
        files.append((npz, parquet))
    for npz, parquet in files:
        want, found = (told(bundle, one)[1] for one in (npz, parquet))
        assert want.pop("images_from") != found.pop("images_from")
        assert found == want
    monkeypatch.setattr(drift_sides, "fit_null", partial(fit_null, runs=24))  # of the default 128
    assert told(files[0][1], files[1][1])[0] == 9


def test_a_file_of_neither_images_nor_embeddings_is_told_before_any_is_sent(
    bundle: Path, tmp_path: Path
) -> None:
    table = pytest.importorskip("pyarrow")
    other = tmp_path / "vectors.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(table.table({"x": [1.0, 2.0]}), other)
    text = tmp_path / "june.txt"
    text.write_text("0.1 0.2")
    taken = "Embeddings are taken from what `jepack embed` wrote"
    nowhere = ("--url", "127.0.0.1:9")
    with pytest.raises(DataError, match=f"read as a table that names images. {taken}"):
        told(bundle, other, *nowhere)
    with pytest.raises(DataError, match=f"1 images.*read as a file of images. {taken}"):
        told(bundle, text, *nowhere)
    with pytest.raises(ArtifactError, match=f"june.txt: a file that holds no embeddings.*{taken}"):
        told(text, other, *nowhere)


def test_images_sorted_by_class_are_no_drift_unless_they_came_so(
    bundle: Path, tmp_path: Path
) -> None:
    x = ordinary(400, 2)
    sorted_file = saved(bundle, tmp_path / "sorted.npz", x[np.argsort(x[:, 0])])
    assert told(bundle, sorted_file)[0] == 0
    assert told(bundle, sorted_file, "--in-order")[0] == 9


def test_the_strangest_images_are_named(bundle: Path, tmp_path: Path) -> None:
    x = ordinary(200, 3)
    x[17] = 50
    code, found = told(bundle, saved(bundle, tmp_path / "x.npz", x))
    assert found["most_atypical"][0]["image"] == "row-17.png"
    assert found["most_atypical"][0]["p"] < 0.01
    assert code == 0  # one strange image is no drift


def test_people_read_it_and_see_it(bundle: Path, tmp_path: Path) -> None:
    file = saved(bundle, tmp_path / "x.npz", ordinary(200, 4) * 3)
    picture = tmp_path / "drift.png"
    done = RUNNER.invoke(app, ["drift", str(bundle), str(file), "--picture", str(picture)])
    assert done.exit_code == 9
    assert "drift after 64 images" in done.stdout
    assert "Most atypical" in done.stdout
    with Image.open(picture) as image:
        assert image.width > 800


@pytest.mark.parametrize(
    ("count", "fingerprint", "error", "text"),
    [
        (63, "", DataError, "63 images, drift is looked for in 64 or more"),
        (100, "0123456789abcdef", ArtifactError, "Embed the images with this bundle"),
    ],
)
def test_what_cannot_be_compared_is_told(
    bundle: Path, tmp_path: Path, count: int, fingerprint: str, error: type, text: str
) -> None:
    file = saved(bundle, tmp_path / "x.npz", ordinary(count, 5), fingerprint)
    with pytest.raises(error, match=text):
        told(bundle, file)


def test_a_bundle_without_a_null_says_how_to_get_one(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    with pytest.raises(ArtifactError, match=r"jepack export .* --data IMAGES"):
        told(folder, saved(folder, tmp_path / "x.npz", ordinary(100, 6)))


def test_a_folder_goes_through_the_endpoint(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is the seam: what it answers is compared, and a bad image is left out."""
    from jepack.client import Embeddings

    class Answering:
        def __init__(self, url: str, *, model: str) -> None:
            assert (url, model) == ("127.0.0.1:9", "cells")

        def endpoint(self) -> None:
            pass

        def __enter__(self) -> Answering:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def embed(self, items: list[Path], **options: Any) -> Embeddings:
            x = ordinary(len(items), 7)
            x[0] = np.nan
            prints = bundles.load(bundle).fingerprints
            return Embeddings(np.zeros((len(items), 4)), x, prints, {0: "truncated"})

    monkeypatch.setattr(drift_sides, "Client", Answering)
    data = tmp_path / "photos"
    data.mkdir()
    Image.new("L", (8, 8)).save(data / "0.png")
    for number in range(1, 80):
        shutil.copy(data / "0.png", data / f"{number}.png")
    code, found = told(bundle, data, "--url", "127.0.0.1:9", "--model", "cells")
    assert (code, found["images"]) == (0, 79)

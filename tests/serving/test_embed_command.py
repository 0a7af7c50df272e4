"""`jepack embed` and `jepack serve --repository-only` as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jepack.bundle import Bundle
from jepack.sources import find_images


def jepack(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jepack", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.triton
def test_a_folder_becomes_an_npz_and_bad_images_are_listed(
    triton_server: Any, digits_folder: Path, exported_bundle: Bundle, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for image in find_images(digits_folder)[:10]:
        target = data / image.path.relative_to(digits_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.path.read_bytes())
    (data / "broken.png").write_bytes(b"hello")
    out = tmp_path / "out.npz"
    done = jepack("embed", data, "--url", triton_server.url, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["images"] == 10
    assert list(summary["bad"]) == ["broken.png"]
    assert summary["source"] == str(data)
    assert summary["images_per_s"] > 0
    with np.load(out, allow_pickle=False) as found:
        assert found["embedding"].shape == (10, exported_bundle.dimensions["embedding"])
        assert found["projection"].shape == (10, exported_bundle.dimensions["projection"])
        assert np.isfinite(found["embedding"]).all()
        assert all((data / path).is_file() for path in found["path"])
        assert [Path(path).parts[0] for path in found["path"]] == found["label"].tolist()
        assert str(found["fingerprint_embedding"]) == exported_bundle.fingerprints["embedding"]


@pytest.mark.triton
def test_a_folder_becomes_a_parquet_table(
    triton_server: Any, digits_folder: Path, exported_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    done = jepack("embed", digits_folder, "--url", triton_server.url, "--out", out)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(out)
    assert table.column_names == ["path", "label", "embedding", "projection"]
    assert len(table) == len(find_images(digits_folder))
    assert table.schema.field("embedding").type.list_size == exported_bundle.dimensions["embedding"]
    fingerprint = table.schema.metadata[b"fingerprint_embedding"].decode()
    assert fingerprint == exported_bundle.fingerprints["embedding"]


@pytest.mark.triton
def test_a_folder_of_nothing_but_bad_images_fails(triton_server: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"hello")
    out = tmp_path / "out.npz"
    done = jepack("embed", tmp_path, "--url", triton_server.url, "--out", out)
    assert done.returncode == 3
    assert "none of 1 images" in done.stderr
    assert not out.exists()


def test_without_a_server_the_command_says_how_to_start_one(
    digits_folder: Path, tmp_path: Path
) -> None:
    done = jepack("embed", digits_folder, "--url", "127.0.0.1:9", "--out", tmp_path / "out.npz")
    assert done.returncode == 6
    assert "jepack serve BUNDLE" in done.stderr


def test_an_unknown_format_is_refused_before_any_work(digits_folder: Path, tmp_path: Path) -> None:
    done = jepack("embed", digits_folder, "--out", tmp_path / "out.csv")
    assert done.returncode == 2
    assert ".npz or .parquet" in done.stderr


def test_serve_can_write_just_the_repository(exported_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    done = jepack("serve", exported_bundle.folder, "--repository-only", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fingerprints"] == exported_bundle.fingerprints
    assert (folder / "encoder" / "1" / "model.onnx").is_file()


@pytest.mark.triton
def test_a_manifest_is_embedded_and_indexed_by_its_names(
    triton_server: Any, digits_folder: Path, tmp_path: Path
) -> None:
    """Images beside, above and absolute; and one of a stack of pages."""
    import tifffile

    chosen = find_images(digits_folder)[:30:10]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "in.png").write_bytes(chosen[0].path.read_bytes())
    (tmp_path / "above.png").write_bytes(chosen[1].path.read_bytes())
    pages = np.stack([np.asarray(Image.open(image.path)) for image in chosen])
    tifffile.imwrite(tmp_path / "lists" / "stack.tif", pages, photometric="minisblack")
    paths = ["in.png", "../above.png", str(chosen[2].path), "stack.tif"]
    manifest, table = tmp_path / "lists" / "m.csv", tmp_path / "out.npz"
    labels = ["a", "b", "c", "d"]
    rows = zip(paths, labels, strict=True)
    manifest.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    pq.write_table(pa.table({"path": paths, "label": labels}), manifest.with_suffix(".parquet"))
    done = jepack(
        "embed", manifest.with_suffix(".parquet"), "--url", triton_server.url, "--out", table
    )
    assert done.returncode == 0, done.stderr
    with np.load(table, allow_pickle=False) as found:
        names = found["path"].tolist()
        assert found["label"].tolist() == ["a", "b", "c", "d", "d", "d"]
        np.testing.assert_allclose(found["embedding"][:3], found["embedding"][3:], atol=1e-5)
    assert names[:2] == ["in.png", "../above.png"]
    assert names[3:] == ["stack.tif#page=0", "stack.tif#page=1", "stack.tif#page=2"]
    index = tmp_path / "index"
    done = jepack("index", manifest, "--out", index, "--embeddings", table, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["count"], told["skipped"], told["name"]) == (6, {}, "m")
    found = json.loads(jepack("search", index, "stack.tif#page=1", "--k", 2, "--json").stdout)
    assert Path(found["neighbours"][0]["path"]).resolve() == tmp_path / "above.png"

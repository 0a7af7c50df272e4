"""`jepack embed` as a job: parts, resuming, several endpoints, engines that agree."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from stub_gateway import FINGERPRINTS, REFUSED, Stub, held, reset, row_of, running
from typer.testing import CliRunner

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.cli import app
from jepack.errors import JepackError
from jepack.probing import keep
from jepack.sources import find_images

COUNT = 60


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running() as one:
        yield one


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Files that only the stub takes for images, in three folders."""
    folder = tmp_path / "images"
    for number in range(COUNT):
        path = folder / "abc"[number % 3] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (number + 1))
    return folder


@pytest.fixture(autouse=True)
def the_signal_is_put_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def words(data: Path, out: Path, *urls: str) -> list[str]:
    asked = [word for url in urls for word in ("--url", url)]
    small = ["--batch-size", "4", "--part-rows", "8", "--timeout-s", "10"]
    return ["embed", str(data), "--out", str(out), *asked, *small, "--json"]


def embed(*line: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, line)
    if done.exception is not None:
        raise done.exception
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def rows(out: Path, column: str = "embedding") -> dict[str, list[float]]:
    """{name: row} of a file or folder, which holds each name once."""
    files = sorted(out.glob("part-*.parquet")) if out.is_dir() else [out]
    found = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert max(Counter(row["path"] for row in found).values()) == 1
    return {row["path"]: row[column] for row in found}


def expected(images: Path) -> dict[str, list[float]]:
    return {
        file.name_below(images): row_of(file.path.read_bytes())
        for file in find_images(images)
        if REFUSED not in file.path.read_bytes()
    }


@pytest.mark.parametrize("name", ["vectors", "vectors.parquet"])
def test_killed_at_any_moment_the_same_command_goes_on(
    name: str, images: Path, stub: Stub, tmp_path: Path
) -> None:
    out = tmp_path / name
    parts = out.with_name(f"{name}.parts") if out.suffix else out
    stub.script = [lambda handler: False] * 9 + [held] * 4
    line = [sys.executable, "-m", "jepack", *words(images, out, stub.url)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while len(list(parts.glob("part-*.parquet"))) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    stub.let_go.set()
    stub.script = []
    kept = sum(pq.read_metadata(file).num_rows for file in parts.glob("part-*.parquet"))
    (parts / ".part-000099.parquet.x.tmp").write_bytes(b"half")
    if out.suffix:
        (tmp_path / ".vectors.parquet.x.tmp").write_bytes(b"half")
    told = embed(*words(images, out, stub.url))
    assert told["there"] == kept >= 24
    assert told["images"] == COUNT
    assert rows(out) == expected(images)
    assert not list(tmp_path.rglob(".*.tmp"))
    asked = len(stub.began)
    again = embed(*words(images, out, stub.url))
    assert (again["there"], again["images"], len(stub.began)) == (COUNT, COUNT, asked)


def test_parts_say_what_they_are_of_and_readers_find_their_columns(
    images: Path, stub: Stub, tmp_path: Path
) -> None:
    out = tmp_path / "vectors"
    embed(*words(images, out, stub.url))
    parts = sorted(out.glob("*.parquet"))
    assert [file.name for file in parts] == [f"part-{n:06}.parquet" for n in range(8)]
    table = pq.read_table(parts[0])
    assert table.column_names == ["path", "label", "embedding", "projection"]
    assert table.schema.field("embedding").type.list_size == 2
    told = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert told["fingerprint_embedding"] == FINGERPRINTS["embedding"]
    assert json.loads(told["jepack"])["source"] == str(images)
    assert json.loads((out / "job.json").read_text())["whole"] is True
    whole = pq.read_table(out / "part-000000.parquet", columns=["path", "label"]).to_pylist()
    assert all(row["path"].split("/")[0] == row["label"] for row in whole)
    names = [name for file in parts for name in pq.read_table(file)["path"].to_pylist()]
    assert names == [file.name_below(images) for file in find_images(images)]


def test_an_npz_has_the_order_of_the_listing(images: Path, stub: Stub, tmp_path: Path) -> None:
    (images / "b" / "torn.png").write_bytes(REFUSED)
    out = tmp_path / "vectors.npz"
    embed(*words(images, out, stub.url), "--concurrency", "8")
    with np.load(out) as found:
        assert dict(zip(found["path"], found["embedding"].tolist(), strict=True)) == expected(
            images
        )
        assert found["path"].tolist() == list(expected(images))


def test_parts_inside_the_data_are_none_of_its_images(images: Path, stub: Stub) -> None:
    for name in ("one", "two", "one"):
        done = CliRunner().invoke(app, words(images, images / name, stub.url))
        assert done.exit_code == 0, done.output
        assert len(find_images(images, parts=True)) == COUNT


def test_one_output_alone_can_be_kept(images: Path, stub: Stub, tmp_path: Path) -> None:
    out = tmp_path / "vectors.parquet"
    embed(*words(images, out, stub.url), "--output", "projection")
    assert pq.read_schema(out).names == ["path", "label", "projection"]
    assert pq.read_schema(out).metadata[b"default_output"] == b"projection"


def test_rows_of_another_job_are_never_mixed_in(images: Path, stub: Stub, tmp_path: Path) -> None:
    out, other = tmp_path / "vectors", tmp_path / "other"
    embed(*words(images, out, stub.url))
    other.mkdir()
    (other / "a.png").write_bytes(b"x")
    with pytest.raises(JepackError, match=f"images of {images}, not {other}"):
        embed(*words(other, out, stub.url))
    with pytest.raises(JepackError, match=r"outputs embedding and projection, not embedding\."):
        embed(*words(images, out, stub.url), "--output", "embedding")
    stub.fingerprints["embedding"] = "00000000000000dd"
    with pytest.raises(JepackError, match=r"encoder .*ee, .*, not .*dd"):
        embed(*words(images, out, stub.url))
    with pytest.raises(JepackError, match=r"holds other files \(a.png\)"):
        embed(*words(images, other, stub.url))


def test_bad_images_have_a_part_of_their_own_and_are_tried_again_on_request(
    images: Path, stub: Stub, tmp_path: Path
) -> None:
    (images / "b" / "torn.png").write_bytes(REFUSED)
    out = tmp_path / "vectors"
    told = embed(*words(images, out, stub.url))
    assert (told["images"], told["bad_images"]) == (COUNT, 1)
    assert told["bad"] == {"b/torn.png": "no picture"}
    (bad,) = out.glob("bad-*.parquet")
    assert pq.read_table(bad).to_pylist() == [
        {"path": "b/torn.png", "label": "b", "reason": "no picture"}
    ]
    (images / "b" / "torn.png").write_bytes(b"mended")
    assert embed(*words(images, out, stub.url))["bad_images"] == 1
    assert embed(*words(images, out, stub.url), "--retry-bad")["bad_images"] == 0
    assert rows(out) == expected(images)


def test_a_run_with_nothing_left_says_so_and_names_bad_images_as_their_table_does(
    images: Path, stub: Stub, tmp_path: Path
) -> None:
    (images / "b" / "torn.png").write_bytes(REFUSED)
    line = words(images, tmp_path / "vectors", stub.url)
    assert embed(*line)["images_per_s"] > 0
    told = embed(*line)
    assert (told["there"], told["images_per_s"], list(told["bad"])) == (COUNT, None, ["b/torn.png"])
    said = CliRunner().invoke(app, line[:-1]).stderr
    assert f"{COUNT} of {COUNT + 1} images are in" in said
    assert "1 of 61 images were refused before" in said
    assert f"(their names count from {images}):" in said
    assert "- b/torn.png: no picture" in said
    assert "60 images, nothing was left to do" in said


def test_one_file_takes_new_images_and_tells_the_bad_ones_beside_it(
    images: Path, stub: Stub, tmp_path: Path
) -> None:
    (images / "b" / "torn.png").write_bytes(REFUSED)
    out = tmp_path / "vectors.parquet"
    embed(*words(images, out, stub.url))
    (images / "new.png").write_bytes(b"new")
    (images / "worse.png").write_bytes(REFUSED + b"!")
    told = embed(*words(images, out, stub.url))
    assert (told["there"], told["images"], told["bad_images"]) == (COUNT, COUNT + 1, 2)
    assert rows(out) == expected(images)
    beside = pq.read_table(tmp_path / "vectors.bad.parquet")["path"].to_pylist()
    assert sorted(beside) == ["b/torn.png", "worse.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images", "vectors.bad.parquet", "vectors.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["vectors", "vectors.parquet"])
def test_rows_of_images_that_are_gone_are_counted_apart(
    name: str, images: Path, stub: Stub, tmp_path: Path
) -> None:
    (images / "torn.png").write_bytes(REFUSED)
    line = words(images, tmp_path / name, stub.url)
    embed(*line)
    for number in (0, 1):
        next(images.rglob(f"{number:03}.png")).unlink()
    (images / "new.png").write_bytes(b"new")
    (images / "worse.png").write_bytes(REFUSED + b"!")
    told = embed(*line)
    assert (told["images"], told["gone"], told["bad_images"]) == (COUNT - 1, 2, 2)
    shown = CliRunner().invoke(app, line[:-1])
    assert f"{COUNT - 1} images, nothing was left to do" in shown.stderr
    assert "(and 2 rows of images that are gone)" in shown.stderr


def test_ctrl_c_says_that_the_same_command_goes_on(
    images: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.embedding.work", interrupted)
    done = CliRunner().invoke(app, words(images, tmp_path / "vectors", stub.url))
    assert "is written: the same command goes on with the rest" in done.stderr


def test_a_file_that_took_its_parts_does_not_take_them_again(
    images: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ended between renaming the file and removing the parts."""
    from serving.bulk.store import Parts

    out = tmp_path / "vectors.parquet"
    monkeypatch.setattr(Parts, "remove", lambda parts: None)
    embed(*words(images, out, stub.url))
    monkeypatch.undo()
    assert len(list((tmp_path / "vectors.parquet.parts").glob("part-*"))) == 8
    (images / "new.png").write_bytes(b"new")
    embed(*words(images, out, stub.url))
    assert rows(out) == expected(images)


def test_endpoints_share_the_work_and_one_that_dies_ends_nothing(
    images: Path, stub: Stub, tmp_path: Path
) -> None:
    out = tmp_path / "vectors"
    with running() as other:
        other.script = [lambda handler: False] + [reset] * 10_000
        line = words(images, out, stub.url, other.url)
        line[line.index("10")] = "6"  # so long each is asked again; an answer may take as long
        done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert rows(out) == expected(images)
    assert stub.began
    assert other.began


def test_when_all_endpoints_die_what_is_done_is_kept(
    images: Path, stub: Stub, tmp_path: Path
) -> None:
    out = tmp_path / "vectors"
    stub.script = [lambda handler: False] * 5 + [reset] * 10_000
    line = words(images, out, stub.url)
    line[line.index("10")] = "6"  # so long each is asked again; an answer may take as long
    done = CliRunner().invoke(app, line)
    assert isinstance(done.exception, JepackError)
    assert done.exception.exit_code == 6
    kept = len(rows(out))
    assert kept == 20
    stub.script = []
    assert embed(*line)["there"] == kept
    assert rows(out) == expected(images)


def test_endpoints_of_two_encoders_are_refused(images: Path, stub: Stub, tmp_path: Path) -> None:
    with running() as other:
        other.fingerprints["embedding"] = "00000000000000dd"
        with pytest.raises(JepackError, match="serve different encoders"):
            embed(*words(images, tmp_path / "vectors", stub.url, other.url))


def test_an_image_that_a_manifest_names_twice_has_one_row(
    images: Path, stub: Stub, tmp_path: Path
) -> None:
    manifest = images / "list.csv"
    manifest.write_text("path\n" + "a/000.png\nb/001.png\n" * 20)
    embed(*words(manifest, tmp_path / "vectors", stub.url))
    assert sorted(rows(tmp_path / "vectors")) == ["a/000.png", "b/001.png"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--engine", "spark"), "endpoint, local, ray"),
        (("--engine", "local"), "needs --bundle"),
        (("--engine", "local", "--bundle", "x", "--url", "127.0.0.1:1"), "leave out --url"),
        (("--bundle", "x"), "--engine local or ray"),
        (("--address", "auto"), "are for --engine ray"),
    ],
)
def test_what_does_not_go_together_is_told(
    more: tuple[str, ...], told: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(JepackError, match=told):
        embed("embed", str(images), "--out", str(tmp_path / "vectors"), *more)


def test_a_kept_probe_answers_in_columns_beside_the_rows(
    digits_folder: Path, exported_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = bundles.load(shutil.copytree(exported_bundle.folder, tmp_path / "bundle"))
    width = bundle.dimensions["embedding"]
    head = bundles.Probe(
        name="side", output="embedding", fingerprint=bundle.fingerprints["embedding"],
        classes=("left", "right"), mean_D=np.zeros(width, np.float32), scale_D=np.ones(width, np.float32),
        weight_CD=np.eye(2, width, dtype=np.float32), bias_C=np.zeros(2, np.float32),
        error_rate=0.1, threshold=0.45,
    )  # fmt: skip
    keep(bundle, head)
    out = tmp_path / "vectors"
    line = ["embed", str(digits_folder), "--out", str(out), "--engine", "local", "--json"]
    line += ["--bundle", str(bundle.folder)]
    told = embed(*line, "--probe", "side")
    found = [row for file in sorted(out.glob("part-*")) for row in pq.read_table(file).to_pylist()]
    assert len(found) == told["images"] > 0
    for row in found:
        shares = head.probabilities(row["embedding"])
        assert row["probe_side"] == head.named_by(shares)[0]
        assert row["probe_side_probability"] == pytest.approx(shares.max(), abs=1e-6)
        [may_be] = head.sets_by(shares)  # type: ignore
        assert row["probe_side_set"] == [
            n for n, one in zip(head.classes, may_be, strict=True) if one
        ]
    with pytest.raises(JepackError, match="probes side .*, not none"):
        embed(*line)
    with pytest.raises(JepackError, match="no probe is called"):
        embed(*line, "--probe", "other")
    with pytest.raises(JepackError, match="--output both"):
        embed(*line, "--probe", "side", "--output", "projection")


def test_the_local_engine_gives_the_rows_of_an_endpoint(
    gateway: Any, digits_folder: Path, exported_bundle: Bundle, tmp_path: Path
) -> None:
    embed(*words(digits_folder, tmp_path / "endpoint.parquet", gateway.url))
    local = words(digits_folder, tmp_path / "local.parquet")
    at = local.index("--timeout-s")  # of requests, which it does not send
    embed(*local[:at], "--engine", "local", "--bundle", str(exported_bundle.folder), "--json")
    for column in ("embedding", "projection"):
        one, other = (rows(tmp_path / f"{n}.parquet", column) for n in ("endpoint", "local"))
        assert one.keys() == other.keys()
        for name, row in one.items():
            np.testing.assert_allclose(row, other[name], atol=1e-6)

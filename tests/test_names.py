"""Names that are no UTF-8, hold markup, line breaks or backslashes: stored, printed and found again."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from stub_gateway import running

from jepack.errors import ConfigError
from jepack.names import examples, kept, marked, marked_lines, original, shown, stored
from jepack.sources import find_images

LATIN = os.fsdecode(b"caf\xe9.png")  # as an old archive unpacks it
ODD = [
    LATIN,
    "a\nb.png",
    "[red]x[/bold].png",
    "tab\there.png",
    "back\\slash.png",
    "é.png",
    "\x1b[31m.png",
]


@pytest.mark.parametrize(
    "name", [*ODD, r"caf\xe9.png", r"a\x0ab.png", r"\ud800", "\ud800", "\\", r"\\x41" + LATIN, ""]
)
def test_a_kept_name_is_one_line_of_valid_text_and_comes_back(name: str) -> None:
    text = kept(name)
    text.encode()
    assert len(text.splitlines()) <= 1
    assert original(text) == name
    assert stored(text) == text


def test_different_names_are_kept_apart_and_plain_ones_as_they_are() -> None:
    names = [*ODD, r"caf\xe9.png", r"a\x0ab.png"]
    assert len({kept(name) for name in names}) == len(names)
    assert kept("cat/é 猫 \\ [1].png") == "cat/é 猫 \\ [1].png"
    assert kept(LATIN) == r"caf\xe9.png"


@pytest.mark.parametrize("name", ODD)
def test_a_printed_name_is_seen_and_neither_read_as_markup_nor_acted_on(name: str) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=200, force_terminal=False)
    console.print(marked(name), marked_lines(f"one\n{name}"), highlight=False, soft_wrap=True)
    assert shown(name).encode() in stream.getvalue().encode()
    assert "\x1b" not in stream.getvalue()


def test_directions_are_not_turned_around_on_the_screen() -> None:
    assert shown("photo\u202egnp.exe") == "photo\\u202egnp.exe"
    assert examples(["a", "b\n", "c", "d", "e"]) == "a, b\\x0a, c and 2 more"


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names") / os.fsdecode(b"\xe9[red]")
    generator = np.random.default_rng(0)
    for name in (*ODD, "sub[/x]/" + LATIN, os.fsdecode(b"d\xe9/") + "plain.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 20), dtype=np.uint8)).save(path)
    broken = folder / os.fsdecode(b"d\xe9") / "broken[/].png"  # the bracket closes below a folder
    broken.parent.mkdir()
    broken.write_bytes(b"no picture")
    return folder


def jepack(*words: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "jepack", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, env={**os.environ, **variables}, timeout=300
    )


def test_inspect_tells_of_odd_names_on_any_terminal(
    odd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("inspect", odd_folder, "--max-bad", "0.5", "--sheet", tmp_path / "sheet.png")
    done = jepack(*words, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"d\xe9/broken[/].png: not an image" in done.stdout
    assert rb"d\xe9 2" in done.stdout  # the class
    from training.commands.inspect import inspect

    inspect(odd_folder, max_bad=0.5, as_json=True)
    told = json.loads(capsys.readouterr().out)
    [bad] = told["bad"]
    assert original(bad) == str(odd_folder / os.fsdecode(b"d\xe9/") / "broken[/].png")


def test_old_caches_of_odd_names_and_damaged_records_are_listed(
    odd_folder: Path, tmp_path: Path
) -> None:
    from training.data import open_cache

    root = tmp_path / "jepack"
    cache = open_cache(odd_folder, side=20, channels=1, root=root, max_bad=0.5)
    assert {str(file.path.relative_to(odd_folder)) for file in cache.files} >= set(ODD)
    for number, record in enumerate(("[]", "{", '{"images": "x", "data": 3}', "\ufeff")):
        (root / f"images-damaged{number}").mkdir()
        (root / f"images-damaged{number}" / "about.json").write_text(record)
    (root / "images-a-file").write_text("")
    (root / ".images-x.partial").write_text("")
    (root / "shards").mkdir()
    (root / "shards" / "x.tar").write_bytes(b"")
    (root / "shards" / "x.json").write_text("[1]")
    done = jepack("cache", JEPACK_CACHE=str(tmp_path), PYTHONIOENCODING="utf-8", COLUMNS="300")
    assert done.returncode == 0, done.stderr
    assert f"images of {kept(str(odd_folder))}".encode() in done.stdout
    assert jepack("cache", "--prune", "0", JEPACK_CACHE=str(tmp_path)).returncode == 0


def test_an_index_holds_odd_names_and_finds_them(
    odd_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("lancedb")
    from app.index_cli import index
    from app.search_cli import search

    files = [file for file in find_images(odd_folder) if "broken" not in file.name]
    names = [file.name_below(odd_folder) for file in files]
    vectors = np.eye(len(files), 16, dtype=np.float32)
    np.savez(
        tmp_path / "e.npz", path=np.array(names), embedding=vectors, projection=vectors,
        fingerprint_embedding="aa", fingerprint_projection="bb",
    )  # fmt: skip
    out = tmp_path / "index"
    index(odd_folder, out, embeddings=tmp_path / "e.npz")
    assert r"d\xe9/broken[/].png: not in the file" in capsys.readouterr().out
    for asked in (LATIN, kept(LATIN)):  # as the shell completes it, and as it was printed
        search(out, asked, k=len(files), as_json=True)
        found = {row["path"] for row in json.loads(capsys.readouterr().out)["neighbours"]}
        assert found == {str(file.path) for file in files} - {str(odd_folder / LATIN)}
    monkeypatch.setenv("COLUMNS", "400")
    search(out, LATIN, k=9)
    assert "/[red]x[/bold].png" in capsys.readouterr().out


def test_parquet_and_npz_keep_odd_names_and_labels(odd_folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with running() as stub:
        for name in ("e.parquet", "e.npz"):
            done = jepack("embed", odd_folder, "--out", tmp_path / name, "--url", stub.url)
            assert done.returncode == 0, done.stderr
    table = parquet.read_table(tmp_path / "e.parquet")
    with np.load(tmp_path / "e.npz") as arrays:
        for names, labels in (
            (table["path"].to_pylist(), table["label"].to_pylist()),
            (arrays["path"].tolist(), arrays["label"].tolist()),
        ):
            files = {file.path for file in find_images(odd_folder)}
            assert {odd_folder / original(name) for name in names} == files
            assert r"d\xe9" in labels


def test_a_card_of_oddly_named_data_can_be_written() -> None:
    from jepack.bundle.card.history import data
    from jepack.bundle.card.metadata import front_matter

    manifest = {"name": "x", "provenance": {"data": {"folder": f"/photos/{LATIN}", "images": 3}}}
    report = {"embedding": {"statistic": 1.0}}
    assert r"caf\\xe9.png" in data(manifest).encode().decode()
    assert "caf" in front_matter(manifest, [], report).encode().decode()


def test_a_run_whose_folder_no_library_could_write_is_refused_before_any_work(
    tmp_path: Path,
) -> None:
    from training.settings import TrainConfig
    from training.train import train

    with pytest.raises(ConfigError, match="not a UTF-8 name"):
        train(TrainConfig(), tmp_path / "nothing is read", tmp_path / LATIN)

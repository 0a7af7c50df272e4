"""An elongated image asks square by square, and each neighbour says which square it is near to."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import OtherEncoder, PixelEmbedder
from typer.testing import CliRunner

from app.desk import Desk
from app.engine import at_endpoint
from app.lance import open_index
from app.library import Library
from app.tabs.search.answer import Answers
from app.tabs.search.question import parse
from app.tabs.search.visit import Visit
from app.tiles import by_tiles, squares_of
from app.toolkit import Upload
from jepack.cli import app
from jepack.errors import ArtifactError, DataError


@pytest.mark.parametrize(("height", "width"), [(200, 1200), (1200, 200), (32, 80), (50, 50)])
def test_squares_cover_the_image_from_end_to_end(height: int, width: int) -> None:
    squares = squares_of(height, width)
    assert len(squares) == -(-max(height, width) // min(height, width))
    seen = np.zeros((height, width))
    for left, top, right, bottom in squares:
        tall, wide = (bottom - top) * height, (right - left) * width
        assert tall == pytest.approx(wide)
        seen[
            round(top * height) : round(bottom * height), round(left * width) : round(right * width)
        ] = 1
    assert seen.all()


def test_a_hair_is_told_rather_than_cut_into_a_thousand() -> None:
    with pytest.raises(DataError, match="4000 x 10 px are 400 squares, up to 64 can ask"):
        squares_of(10, 4000)


@pytest.fixture
def three(digits_folder: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A strip of three digits in a row, and these digits."""
    paths = sorted(digits_folder.rglob("*.png"))[:40:15]
    strip = np.concatenate([np.asarray(Image.open(path)) for path in paths], axis=1)
    Image.fromarray(strip).save(tmp_path / "strip.png")
    return tmp_path / "strip.png", paths


def test_each_image_in_a_strip_is_found_by_its_square(
    digits_index: Path, three: tuple[Path, list[Path]]
) -> None:
    strip, paths = three
    store = open_index(digits_index)
    found = by_tiles(store, strip.read_bytes(), PixelEmbedder(), 3)
    wanted = {path.relative_to(path.parents[1]).as_posix(): n for n, path in enumerate(paths)}
    assert {hit.row.id: n for hit, n in zip(found.hits, found.matched, strict=True)} == wanted
    assert max(hit.distance for hit in found.hits) < 1e-5
    more = by_tiles(store, strip.read_bytes(), PixelEmbedder(), 10, but=found.hits[0].row.id).hits
    assert [hit.row.id for hit in more[:2]] == [hit.row.id for hit in found.hits[1:]]
    assert len({hit.row.id for hit in more}) == 10
    with pytest.raises(ArtifactError):
        by_tiles(store, strip.read_bytes(), OtherEncoder(), 3)


def test_the_command_says_which_square(
    digits_index: Path, three: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = at_endpoint("127.0.0.1:8001", lambda url: PixelEmbedder())
    monkeypatch.setattr("app.opening.engine_of", lambda *told: engine)
    words = ["search", str(digits_index), str(three[0]), "--tiles", "--k", "3"]
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert len(told["tiles"]) == 3
    assert {Path(one["path"]).name: one["tile"] for one in told["neighbours"]} == {
        path.name: number for number, path in enumerate(three[1], start=1)
    }
    narrow = CliRunner().invoke(app, words, env={"COLUMNS": "30"}).stdout
    assert "2 of 3" in narrow
    assert [line.split()[-1] for line in narrow.splitlines()[2:5]] == [
        one["path"] for one in told["neighbours"]
    ]
    # An image of the index is cut likewise, and is not its own neighbour.
    name = three[1][0].relative_to(three[1][0].parents[1]).as_posix()
    done = CliRunner().invoke(app, ["search", str(digits_index), name, "--tiles", "--json"])
    assert len(json.loads(done.stdout)["tiles"]) == 1
    assert name not in done.stdout.partition("neighbours")[2]


def test_the_page_lets_a_strip_ask_square_by_square(
    digits_index: Path, three: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    strip, paths = three
    engine = at_endpoint("127.0.0.1:8001", lambda url: PixelEmbedder())
    answers = Answers(Desk(Library(digits_index), engine))
    brought = Path(shutil.copy(strip, tmp_path / "brought.png"))
    asks, _, visit, _ = answers.upload([Upload(brought, "brought.png")], 3, Visit())
    [link] = re.findall(r'data-squares href="(#[^"]+)"', asks)
    asks, found, visit, _ = answers.ask(html.unescape(link), 3, visit)
    told = dict(re.findall(r'data-id="([^"]+)".*?data-square="(\d)"', found, re.DOTALL))
    names = {path.relative_to(path.parents[1]).as_posix() for path in paths}
    assert {name: told[name] for name in names} == {
        path.relative_to(path.parents[1]).as_posix(): str(n)
        for n, path in enumerate(paths, start=1)
    }
    [back] = re.findall(r'data-squares href="(#[^"]+)"', asks)
    assert "by=squares" not in back
    _, found, _, _ = answers.ask(html.unescape(back), 3, visit)
    assert "data-square" not in found


def test_the_address_of_squares_is_of_one_whole_image() -> None:
    assert parse("#like=a.png&by=squares").address == "#like=a.png&by=squares"
    for address in ("#like=a.png;0,0,0.5,1&by=squares", "#like=a.png&like=b.png&by=squares"):
        assert parse(address).address == address.replace("&by=squares", "")


def test_what_is_no_image_is_told(digits_index: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        by_tiles(open_index(digits_index), b"text", PixelEmbedder(), 3)
    path = tmp_path / "text.png"
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="text.png: not an image"):
        by_tiles(open_index(digits_index), path, PixelEmbedder(), 3)

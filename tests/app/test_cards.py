"""What pictures, labels and the engine's state look like as HTML."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import FINGERPRINT, NobodyThere, PixelEmbedder

from app import cards, place
from app.engine import at_endpoint, in_process, state_of
from app.indexing import from_embedder, write_index
from app.library import Library
from app.quality import of_encoder
from app.store import IndexInfo, Row
from app.tabs.search.results import percent
from app.thumbnail import size_of, webp
from jepack.bundle import Bundle
from jepack.decoding import Preprocessing, crop, elongation, seen_box
from jepack.sources import find_images


def picture(height: int, width: int) -> Row:
    return Row(id="a.png", thumbnail=webp(np.zeros((height, width, 3), np.uint8)))


@pytest.mark.parametrize(("height", "width"), [(200, 20), (20, 200), (64, 64), (90, 60)])
def test_a_picture_keeps_its_shape_and_shows_what_is_seen_of_it(height: int, width: int) -> None:
    row = picture(height, width)
    tall, wide = size_of(row.thumbnail)
    assert wide / tall == pytest.approx(width / height, rel=0.05)
    html = cards.picture(row, (1.0, "center"))
    assert f"aspect-ratio:{wide}/{tall}" in html
    assert ("jp-seen" in html) == (height != width)
    assert "jp-seen" not in cards.picture(row, (1.0, "border"))


@pytest.mark.parametrize(("height", "width"), [(160, 40), (40, 160), (80, 80)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.5])
@pytest.mark.parametrize("mode", ["center", "border", "squash"])
def test_the_seen_box_is_what_the_encoder_gets(
    height: int, width: int, crop_pct: float, mode: str
) -> None:
    settings = Preprocessing(
        size=32, channels=1, mean=(0.0,), std=(0.5,), crop_pct=crop_pct, crop_mode=mode
    )
    top, left, tall, wide = seen_box(height, width, crop_pct, mode)
    rows = slice(round(top * height), round((top + tall) * height))
    columns = slice(round(left * width), round((left + wide) * width))
    inside = np.zeros((height, width, 1), np.uint8)
    inside[rows, columns] = 255
    # All of it lies in the crop, beside paper where a whole image is laid on some.
    square = (
        1
        if mode != "border"
        else tall * height * wide * width / (max(height, width) * crop_pct) ** 2
    )
    assert np.mean(crop(inside, settings)) > 250 * square
    outside = 255 - inside
    assert np.mean(crop(outside, settings)) < 5  # and nothing else does


def test_elongated_images_are_told_with_their_share() -> None:
    told = elongation([(100, 300)] * 3 + [(100, 100)] * 7)
    assert told is not None
    assert told.startswith("3 of 10 images (30%) are elongated")
    assert "33% of each" in told
    assert elongation([(100, 149)] * 10) is None
    assert elongation([(100, 300)] + [(100, 100)] * 200) is None
    assert elongation([]) is None


@pytest.mark.parametrize(("mode", "told"), [("center", True), ("border", False)])
def test_an_index_of_strips_tells_what_its_encoder_misses(
    tmp_path: Path, mode: str, told: bool
) -> None:
    for number in range(4):
        Image.new("L", (160, 40), 60 * number).save(tmp_path / f"{number}.png")
    info = IndexInfo(
        name="strips", output="embedding", dimension=64, fingerprint=FINGERPRINT,
        data=str(tmp_path), crop_mode=mode,
    )  # fmt: skip
    parts = from_embedder(find_images(tmp_path), "embedding", PixelEmbedder(), {})
    found = write_index(tmp_path / "index", info, parts, {}).elongated
    assert (found is not None) == told
    if found is not None:
        assert "4 of 4 images (100%) are elongated" in found


def test_forty_labels_have_forty_marks() -> None:
    labels = [f"label {number:02}" for number in range(40)]
    colours = cards.colours_of(labels)
    assert len(set(colours.values())) == 40
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours.values())
    shapes = {re.findall("jp-shape-.", cards.label_chip(one, colours))[0] for one in labels}
    assert len(shapes) == 5


def test_what_to_start_is_said_with_port_and_bundle(
    digits_index: Path, exported_bundle: Bundle
) -> None:
    info = Library(digits_index).info
    state = state_of(at_endpoint("127.0.0.1:8123", NobodyThere), info, digits_index)
    assert (state.kind, state.remedy) == ("down", "jepack serve BUNDLE --port 8123")
    known = at_endpoint("127.0.0.1:8123", NobodyThere, exported_bundle.folder)
    assert state_of(known, info, digits_index).remedy == (
        f"jepack serve {exported_bundle.folder} --port 8123"
    )


def test_an_endpoint_that_is_not_there_is_told_without_grpcs_words(digits_index: Path) -> None:
    from jepack.machine import loopback

    with loopback.hold(0) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        state = state_of(at_endpoint(address), Library(digits_index).info, digits_index)
    assert f"{address}: nothing answers there" in state.detail
    assert not re.search("ipv4|UNKNOWN|StatusCode|last error", state.detail)


def test_the_encoders_quality_is_told_in_sentences(
    exported_bundle: Bundle, digits_index: Path
) -> None:
    info = Library(digits_index).info
    manifest: dict[str, Any] = {
        **exported_bundle.manifest,
        "retrieval": {
            "basis": "measured", "queries": 1200, "classes": 9, "chance": 0.2,
            "outputs": {"embedding": {"precision_at_10": 0.834}},
        },
    }  # fmt: skip
    told = of_encoder(info, Bundle(exported_bundle.folder, manifest), None)
    assert told[0].startswith(
        "On 1,200 held-out images, 83% of the ten nearest have the same label"
    )
    assert any("Cannot say how ordinary" in one for one in told)
    with_null = in_process(exported_bundle.folder)
    if with_null.null is not None:
        found = with_null.atypicality(exported_bundle.golden()["projection"][0])
        assert found is not None
        assert 0 < found <= 1


def test_uploads_lie_in_a_folder_that_nobody_else_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(place.FOLDER, raising=False)
    place.own_folder.cache_clear()
    folder = place.own_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.is_dir()
    place.own_folder.cache_clear()
    monkeypatch.undo()


def test_a_share_is_never_rounded_to_all_or_none() -> None:
    assert [percent(x) for x in (1.0, 0.99999, 0.5, 0.001, 0.0)] == [
        "100 %", "99.99 %", "50 %", "less than 1 %", "0 %",
    ]  # fmt: skip

"""What the values mean is said before training: few levels, nodata, spare channels; stacks stay together."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jepack.errors import AxisError, DataError
from jepack.sources import find_images
from training.data import cautions, guess_channels, measure_window, training_split
from training.views import crop_boxes, cut_views, draw, preset


def deep(folder: Path, top: int, kind: str = "png", count: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        values = np.random.default_rng(n).integers(0, top, (20, 24), dtype=np.uint16)
        values[0, :2] = (0, top - 1)
        Image.fromarray(values).save(folder / f"{n}.{kind}")
    return folder


@pytest.mark.parametrize(
    ("top", "levels", "window"), [(4096, 16, "0,4095"), (16384, 64, "0,16383"), (1000, 4, "0,1023")]
)
def test_values_that_fill_little_of_16_bits_are_told_with_the_window_to_take(
    top: int, levels: int, window: str, tmp_path: Path
) -> None:
    files = find_images(deep(tmp_path, top))
    [told] = cautions(files, 1, None)
    assert f"span 0..{top - 1} of 0..65535" in told
    assert f"become {levels} of 256 levels. Take --window {window}, or" in told
    assert cautions(files, 1, measure_window(files, window, 1)) == []


def test_full_depths_8_bits_and_mixed_sets_say_nothing(tmp_path: Path) -> None:
    assert cautions(find_images(deep(tmp_path / "full", 65536)), 1, None) == []
    deep(tmp_path / "mixed", 4096)
    deep(tmp_path / "mixed" / "more", 65536)
    assert cautions(find_images(tmp_path / "mixed"), 1, None) == []
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "dark.png")
    assert cautions(find_images(tmp_path / "dark.png"), 1, None) == []


def test_floats_of_a_small_range_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.linspace(0.1, 0.15, 400).reshape(20, 20))
    [told] = cautions(find_images(tmp_path), 1, None)
    assert "become 13 of 256 levels. Take --window 0.1,0.15" in told


@pytest.mark.parametrize(
    ("low", "high", "window"), [(32768, 34808, "32768,34808"), (0.5, 0.50004, "0.5,0.50004")]
)
def test_the_window_to_take_is_narrow_where_the_values_are(
    low: float, high: float, window: str, tmp_path: Path
) -> None:
    values = np.linspace(low, high, 400).reshape(20, 20)
    np.save(tmp_path / "a.npy", values.astype(np.uint16) if low > 1 else values)
    files = find_images(tmp_path)
    [told] = cautions(files, 1, None)
    assert f"Take --window {window}, or" in told
    assert measure_window(files, window, 1) is not None


def test_a_hot_pixel_does_not_hide_that_the_others_fill_little(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (40, 60), dtype=np.uint16)
    values[:2] = 4095
    values[20, 20] = 65535
    np.save(tmp_path / "a.npy", values)
    [told] = cautions(find_images(tmp_path), 1, None)
    assert "Take --window 0,4095" in told


def test_deep_colour_that_keeps_8_bits_is_colour_and_is_told(tmp_path: Path) -> None:
    import typer

    from training.commands.inspect import inspect

    values = np.random.default_rng(0).integers(0, 65536, (20, 24, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png_of_16_bits(values))
    files = find_images(tmp_path)
    assert guess_channels(files) == 3
    [told] = cautions(files, 3, None)
    assert "1 of 1 images looked at hold colour of more than 8 bits, of which 8 are kept" in told
    with pytest.raises(DataError, match="a window cannot apply"):
        measure_window(files, "p1,p99", 3)
    command = typer.Typer()
    command.command()(inspect)
    facts = json.loads(CliRunner().invoke(command, [str(tmp_path), "--json"]).stdout)
    assert (facts["bad"], facts["channels"], facts["cautions"]) == ({}, {"3": 1}, [told])


def png_of_16_bits(values: Any) -> bytes:
    """[H, W, 3] uint16 as PNG, which Pillow cannot write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def test_views_draws_cubes_whose_channels_are_told(tmp_path: Path) -> None:
    import typer

    from training.commands.views import views

    cube = np.random.default_rng(0).integers(0, 256, (32, 32, 200), dtype=np.uint8)
    np.save(tmp_path / "a.npy", cube)
    command = typer.Typer()
    command.command()(views)
    words = [str(tmp_path), "--out", str(tmp_path / "v.png"), "--set", "channels=200", "--json"]
    done = CliRunner().invoke(
        command, [*words, "--global-views", "1", "--local-views", "0", "--size", "32"]
    )
    assert done.exit_code == 0
    assert json.loads(done.stdout)["images"] == 1


def test_inspect_names_the_window_nodata_and_what_to_ask(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    import typer

    from training.commands.inspect import inspect

    command = typer.Typer()
    command.command()(inspect)
    values = np.arange(400, dtype=np.uint16).reshape(20, 20)
    tag = [(42113, "s", 0, "7", True)]
    values[:5] = 7
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", extratags=tag)
    done = CliRunner().invoke(command, [str(tmp_path), "--json"])
    facts = json.loads(done.stdout)
    assert "Take --window 0,511" in facts["cautions"][0]
    assert "nodata covers 25.0% of the values (1 of 1 images looked at)" in facts["cautions"][1]
    assert facts["suspicious"][str(tmp_path / "a.tif")][0] == "25.0% of its values are nodata"
    assert facts["values"]["low"] == 100
    np.save(tmp_path / "b.npy", np.zeros((32, 32, 200), np.uint8))
    asked = json.loads(CliRunner().invoke(command, [str(tmp_path), "--json"]).stdout)
    assert "Say how many: --channels 200" in asked["bad"][str(tmp_path / "b.npy")]
    told = CliRunner().invoke(command, [str(tmp_path), "--json", "--channels", "200"])
    assert json.loads(told.stdout)["bad"] == {}


def test_training_asks_for_the_channels_of_a_cube_and_takes_the_answer(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((32, 32, 200), np.uint8))
    files = find_images(tmp_path)
    with pytest.raises(AxisError, match="--set channels=200"):
        guess_channels(files)
    with pytest.raises(AxisError):
        measure_window(files, "p1,p99", 3)
    assert measure_window(files, "p1,p99", 200) is not None


def test_channels_are_guessed_with_infrared_and_without_transparency(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    for name, channels in (("unspecified", 4), ("unassalpha", 3)):
        path = tmp_path / name / "a.tif"
        path.parent.mkdir()
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=[name])
        assert guess_channels(find_images(path)) == channels
    [told] = cautions(find_images(tmp_path / "unspecified"), 3, None)
    assert "hold 4 channels: the encoder of 3 sees red, green and blue only" in told


def test_pages_of_one_file_are_never_on_both_sides_of_a_split(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for n in range(6):
        pages = np.random.default_rng(n).integers(0, 256, (5, 20, 24), dtype=np.uint8)
        tifffile.imwrite(tmp_path / f"{n}.tif", pages, photometric="minisblack")
    files = find_images(tmp_path, parts=True)
    assert len(files) == 30
    for seed in range(5):
        train, held_out = training_split(files, 0.2, seed)
        assert len(train) + len(held_out) == 30
        assert not {files[i].path for i in train} & {files[i].path for i in held_out}


@pytest.mark.parametrize("name", ["astronomy", "satellite"])
def test_views_of_200_channels_are_those_of_fewer_channels_side_by_side(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 200), dtype=np.uint8)
    look = replace(preset(name), jitter=0.0, band_dropout=0.0)
    numbers = draw(2, 1, seed=0, step=0, preset=look)
    boxes = crop_boxes(np.array([[60, 70]]), numbers, 32, (0.2, 1.0), look)

    def views(channels: slice) -> Any:
        some = np.ascontiguousarray(image[..., channels])
        return cut_views([some], boxes, numbers=numbers, preset=look)

    found = views(slice(0, 200))
    assert found.shape == (2, 1, 32, 32, 200)
    for start in (0, 100):
        part = slice(start, start + 100)
        assert np.array_equal(found[..., part], views(part))

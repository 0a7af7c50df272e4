"""`jepack inspect` and `jepack views`, asked as a user would."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from PIL import Image

from jepack.errors import DataError
from training.data import open_cache

RNG = np.random.default_rng(0)


def jepack(*words: object) -> subprocess.CompletedProcess[str]:
    return processes.run(*words)


def width_of(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def noise(height: int = 40, width: int = 50, channels: int = 3) -> Any:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(kind: str = "PNG", image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(noise())).save(stream, kind, **options)
    return stream.getvalue()


def huge_png() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header
    end = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    body = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + chunk + end + body


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def seeded(folder: Path, good: int = 30) -> tuple[dict[str, str], dict[str, str]]:
    """A folder with 20 kinds of damage: ({bad name: words of the reason}, {suspicious name: words})."""
    folder.mkdir(parents=True)
    for number in range(good):
        (folder / f"good{number:02d}.png").write_bytes(encoded())
    whole = encoded()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2 : len(flipped) // 2 + 40] = bytes(40)
    bad = {
        "01-empty.png": (b"", "empty file"),
        "02-truncated.png": (whole[: len(whole) // 2], "truncated|broken"),
        "03-truncated.jpg": (encoded("JPEG")[:700], "truncated"),
        "04-text.jpg": (b"<html>404 not found</html>", "not an image of a known format"),
        "05-flipped.png": (bytes(flipped), "broken|decompress|truncated|CRC|Error"),
        "06-huge.png": (huge_png(), "exceeds limit"),
        "07-header.jpg": (encoded("JPEG")[:20], "not an image|truncated"),
        "08-nan.npy": (npy(np.full((9, 9), np.nan)), "NaN"),
        "09-objects.npy": (npy(np.array(["a"], dtype="U1")), "not an image"),
        "10-five-axes.npy": (npy(np.zeros((2, 2, 2, 2, 2), np.uint8)), "not one image"),
        "11-short.npy": (npy(noise())[:300], "npy"),
    }
    shot = np.asarray(Image.fromarray(noise(12, 15)).resize((300, 240), Image.Resampling.BICUBIC))
    turned = Image.fromarray(noise())
    exif = turned.getexif()
    exif[0x0112] = 6
    frames = [Image.fromarray(noise()) for _ in range(3)]
    doubtful = {
        "12-cmyk.jpg": (encoded("JPEG", Image.fromarray(noise()).convert("CMYK")), "CMYK"),
        "13-alpha.png": (encoded("PNG", Image.fromarray(noise(channels=4))), "transparency"),
        "14-animated.gif": (encoded("GIF", frames[0], save_all=True, append_images=frames[1:]), "3 frames"),
        "15-wrong.jpg": (encoded("PNG"), "is called .jpg but is png"),
        "z16-copy.png": ((folder / "good05.png").read_bytes(), "same bytes as .*good05.png"),
        "17-recompressed.png": (encoded("PNG", Image.fromarray(shot)), ""),
        "18-recompressed.jpg": (encoded("JPEG", Image.fromarray(shot), quality=95), "looks the same as"),
        "19-turned.jpg": (encoded("JPEG", turned, exif=exif), "stored turned"),
        "20-flat.png": (encoded("PNG", Image.new("RGB", (40, 40), (9, 9, 9))), "the same value"),
        "21-tiny.png": (encoded("PNG", Image.fromarray(noise(5, 40))), "tiny: 40 x 5"),
        "22-palette.png": (encoded("PNG", Image.fromarray(noise()).convert("P")), "palette"),
    }  # fmt: skip
    for name, (data, _) in {**bad, **doubtful}.items():
        (folder / name).write_bytes(data)
    return (
        {name: words for name, (_, words) in bad.items()},
        {name: words for name, (_, words) in doubtful.items() if words},
    )


def test_twenty_kinds_of_damage_are_named_with_their_reason(tmp_path: Path) -> None:
    bad, doubtful = seeded(tmp_path / "data")
    assert len(bad) + len(doubtful) >= 20
    for name in ("clip.MOV", "LICENSE"):
        (tmp_path / "data" / name).write_bytes(b"not read")
    sheet = tmp_path / "sheet.png"
    done = jepack("inspect", tmp_path / "data", "--json", "--max-bad", 0.9, "--sheet", sheet)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"] == 30 + len(bad) + len(doubtful) + 1
    found_bad = {Path(name).name: reason for name, reason in told["bad"].items()}
    found_doubts = {Path(name).name: "; ".join(r) for name, r in told["suspicious"].items()}
    assert set(found_bad) == set(bad) - {"08-nan.npy"}
    for name, words in bad.items():
        reason = found_bad.get(name) or found_doubts[name].replace("not numbers", "NaN")
        assert any(word in reason for word in words.split("|")), (name, reason)
    assert set(found_doubts) == {*doubtful, "08-nan.npy"}
    for name, words in doubtful.items():
        assert re.search(words, found_doubts[name]), (name, found_doubts[name])
    assert told["passed_over"] == {".mov": 1, "no ending": 1}
    assert told["need_window"] == 1  # 08-nan.npy
    assert told["same_bytes"] == 1
    assert told["look_the_same"] == 1
    assert width_of(sheet) > 500


def test_too_many_bad_images_end_inspect_and_training_alike(tmp_path: Path) -> None:
    bad, _ = seeded(tmp_path / "data")
    done = jepack("inspect", tmp_path / "data")
    assert done.returncode == 3
    assert f"{len(bad) - 1} of" in done.stderr
    with pytest.raises(DataError, match=f"{len(bad)} of .* cannot be read, the limit is 1.0%"):
        open_cache(tmp_path / "data", side=40, channels=3, root=tmp_path / "c")
    cache = open_cache(tmp_path / "data", side=40, channels=3, root=tmp_path / "c", max_bad=0.5)
    assert {Path(name).name for name, _ in cache.bad} == set(bad)
    assert all(reason for _, reason in cache.bad)


def test_one_image_is_a_data_set_and_an_empty_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(encoded())
    done = jepack("inspect", tmp_path / "one", "--json")
    assert json.loads(done.stdout)["readable"] == 1
    (tmp_path / "none").mkdir()
    done = jepack("inspect", tmp_path / "none")
    assert done.returncode == 3
    assert "no images found" in done.stderr


@pytest.mark.parametrize(("preset", "fit"), [("astronomy", "pad"), ("satellite", "squash")])
def test_views_draws_a_picture_of_what_is_the_same(
    tmp_path: Path, digits_folder: Path, preset: str, fit: str
) -> None:
    out = tmp_path / "views.png"
    words = ("--preset", preset, "--fit", fit, "--out", out, "--size", 48, "--json")
    done = jepack("views", digits_folder, *words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"] == 5
    assert told["reason"]
    assert width_of(out) > 800


def test_views_takes_any_knob_and_refuses_unknown_ones(tmp_path: Path, digits_folder: Path) -> None:
    out = tmp_path / "views.png"
    done = jepack("views", digits_folder, "--set", "view.blurr=0", "--out", out)
    assert done.returncode == 2
    assert "Did you mean blur" in done.stderr


def test_elongated_images_are_told_with_how_much_of_them_is_seen(tmp_path: Path) -> None:
    for number in range(10):
        image = Image.fromarray(noise(40, 160 if number < 6 else 40))
        image.save(tmp_path / f"{number}.png")
    told = json.loads(jepack("inspect", tmp_path, "--json").stdout)["cautions"]
    assert any("6 of 10 images (60%) are elongated" in one and "25% of each" in one for one in told)
    assert any("`--fit pad` of train and import" in one for one in told)

"""The client's own behaviour; the answers of a real server are in test_triton.py."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jepack.client import Client, items
from jepack.client.items import batches_of, bytes_of
from jepack.decoding import Preprocessing, load
from jepack.errors import ConfigError, ServerError

GREY = Preprocessing(size=32, channels=1, mean=(0.5,), std=(0.25,))
COLOUR = Preprocessing(size=32)


def test_when_nothing_listens_the_error_says_how_to_start_a_server() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = Client(f"127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ServerError, match="jepack serve BUNDLE"):
            client.embed([b"image"])
        assert client.health() is False
        assert "nothing answers" in (client.diagnose(timeout_s=60) or "")


def test_a_port_that_cannot_be_is_told_and_no_other_is_asked() -> None:
    with pytest.raises(ConfigError, match="127.0.0.1:99999: ports go from 1 to 65535"):
        Client("127.0.0.1:99999")


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_no_time_is_told(limit: float) -> None:
    with pytest.raises(ConfigError, match="timeout_s is a number of seconds above 0"):
        Client("127.0.0.1:8001", timeout_s=limit)


@pytest.mark.parametrize("count", [0, -1, 1.5, "4", None])
@pytest.mark.parametrize("name", ["batch_size", "concurrency"])
def test_a_count_that_is_none_is_told_before_anything_is_asked(name: str, count: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a whole number above 0, found"):
        Client("127.0.0.1:9").embed([b"image"], **{name: count})


@pytest.mark.parametrize("items", ["", [""]])
def test_an_empty_path_is_not_the_working_folder(items: Any) -> None:
    with pytest.raises(TypeError, match="item 0 is an empty path; an image is a path"):
        Client("127.0.0.1:9").embed(items)


def test_batches_keep_the_order_and_are_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"123456")
    images = [b"1", b"2", b"3", file, b"12345", tmp_path / "missing.png", b"12345678901"]
    batches = list(batches_of(images, 3, 10))
    assert [list(batch.images) for batch in batches] == [[0, 1, 2], [3], [4], [6]]
    assert [number for batch in batches for number in batch.unread] == [5]
    assert "No such file" in batches[2].unread[5]


def test_a_huge_file_is_refused_unsent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MAX_BYTES", 4)
    file = tmp_path / "big.png"
    file.write_bytes(b"12345")
    [batch] = batches_of([file], 4)
    assert "the limit is" in batch.unread[0]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        7,
        {"a.png": b""},
        [Path("a.png"), 3.5],
        [["a.png"]],
        np.zeros((4, 4), np.float32),
        [np.zeros((4, 4, 3), np.int32)],
        [np.zeros((4, 4), np.uint8).tolist()],
        np.zeros((2, 2, 2, 2, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
    ids=repr,
)
def test_what_is_no_image_is_a_type_error_that_names_what_is(wrong: Any) -> None:
    told = "item [01] is .* a path .*bytes, a PIL image, .*uint8 or uint16 as .H, W. or .H, W, C.*a folder"
    with pytest.raises(TypeError, match=told):
        Client("127.0.0.1:9").embed(wrong)


def picture(mode: str) -> Image.Image:
    """40 x 30 pixels of a mode, all different."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32))
    if mode.startswith("I"):
        return Image.fromarray(pixels[..., 0].astype(np.uint16 if mode == "I;16" else np.int32))
    if mode in ("RGBA", "CMYK"):
        return Image.fromarray(pixels, mode="RGBA" if mode == "RGBA" else None).convert(mode)
    return Image.fromarray(pixels[..., :3]).convert(mode)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]
)
def test_a_pil_image_is_sent_without_loss(mode: str) -> None:
    image = picture(mode)
    with Image.open(io.BytesIO(bytes_of(image))) as sent:
        kept = image.convert("RGB") if mode in ("HSV", "YCbCr") else image
        assert sent.size == image.size
        assert np.array_equal(np.asarray(sent.convert(kept.mode)), np.asarray(kept))


def test_a_picture_opened_from_a_file_gives_what_its_file_gives(tmp_path: Path) -> None:
    """Turned as its EXIF data say, and transparent where its palette is."""
    turned, clear = tmp_path / "turned.jpg", tmp_path / "clear.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("RGB").save(turned, exif=exif)
    picture("P").save(clear, transparency=7)
    for path in (turned, clear):
        with Image.open(path) as image:
            assert np.array_equal(load(bytes_of(image), COLOUR), load(path, COLOUR))
    assert turned.read_bytes() == bytes_of(str(turned)) == bytes_of(turned)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 1), (32, 32, 3), (32, 32, 4), (32, 32, 5)])
def test_an_array_is_sent_without_loss_and_its_fourth_channel_is_no_alpha(
    shape: tuple[int, ...],
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    channels = shape[2] if len(shape) == 3 else 1
    look = Preprocessing(size=32, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    assert np.array_equal(load(bytes_of(pixels), look), pixels.reshape(32, 32, channels))


FORKED = """
import os, sys
from jepack.client import Client

client = Client(sys.argv[1])
assert not client.health()
if os.fork() == 0:
    for call in (lambda: client.embed([b""]), client.diagnose, lambda: Client(sys.argv[1])):
        try:
            print(call(), flush=True)
        except Exception as error:
            print(error, flush=True)
    sys.exit()
os.wait()
"""


def test_a_forked_child_is_told_at_once_and_both_end_quietly() -> None:
    """gRPC's threads stay behind in the parent, and a call would wait for them forever."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORKED, f"127.0.0.1:{closed.getsockname()[1]}"],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.count("was forked from one that uses the client") == 3
    assert 'get_context("spawn")' in done.stdout
    assert "Traceback" not in done.stderr

"""Small pictures show what the encoder sees, and never a black square where there is something to see."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from app.thumbnail import make_thumbnail, seen, thumbnail_of


def png(values: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def ramp(top: int) -> Any:
    return (np.arange(4096).reshape(64, 64) * top // 4095).astype(np.uint16)


def test_12_bit_values_are_shown_by_the_window_and_without_one_by_their_own_range() -> None:
    data = png(ramp(4095))
    found, narrow = seen(data, ((0.0, 4095.0),))
    assert narrow
    assert np.array_equal(found[..., 0], np.rint(ramp(4095) / 4095 * 255))
    made, narrow = thumbnail_of(data)
    shown = np.asarray(Image.open(io.BytesIO(made)))
    assert narrow
    assert shown.min() < 10
    assert shown.max() > 245
    full, narrow = seen(png(ramp(65535)))
    assert not narrow
    assert np.array_equal(full[..., 0], ramp(65535) >> 8)


def test_8_bits_are_shown_as_they_are_and_under_a_window_as_the_encoder_sees_them() -> None:
    dark = (ramp(4095) >> 8).astype(np.uint8)
    assert seen(png(dark))[0].max() == 15
    assert seen(png(dark), ((0.0, 15.0),))[0].max() == 255


def test_each_channel_has_its_window_and_a_cube_has_a_picture() -> None:
    bands = np.stack(
        [np.full((20, 20), v, np.float32) for v in (1.0, 20.0, 300.0, 4.0, 5.0)], axis=-1
    )
    window = ((0.0, 2.0), (0.0, 20.0), (0.0, 600.0), (0.0, 9.0), (0.0, 9.0))
    assert seen(npy(bands), window)[0][0, 0].tolist() == [128, 255, 128]
    cube = np.random.default_rng(0).integers(0, 256, (32, 32, 200), dtype=np.uint8)
    assert np.array_equal(seen(npy(cube))[0], cube[..., :3])
    assert make_thumbnail(npy(cube))

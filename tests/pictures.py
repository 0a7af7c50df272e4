"""Small pictures as the bytes of files, and as what travels in JSON."""

from __future__ import annotations

import base64
import io

from PIL import Image


def png(value: int = 7, size: tuple[int, int] = (40, 30)) -> bytes:
    """A grey slope; another `value` is another picture."""
    stream = io.BytesIO()
    slope = Image.linear_gradient("L").resize(size)
    slope.point([(level + value) % 256 for level in range(256)]).save(stream, "PNG")
    return stream.getvalue()


def data_url(image: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(image).decode()}"

"""One item of a request, in whatever form its dialect writes it, as the bytes of an image file.

Nothing here opens an address: what a caller could make this machine fetch, a caller could learn.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from serving.gateway.errors import Refusal, invalid
from serving.gateway.limits import Limits, check_image

# A scheme and a colon, which base64 never holds.
ADDRESS = re.compile(r"\s*(//|[A-Za-z][A-Za-z0-9+.-]{1,20}:)")
MEDIA = ("image/", "application/octet-stream", "application/dicom")
# Where the dialects put an image, and what stands beside it.
IMAGE_FIELDS = ("image", "image_url", "image_base64", "bytes", "url", "base64", "b64_json", "data")
OTHER_FIELDS = {
    "text": "text", "input_text": "text", "video": "video", "video_url": "video",
    "video_base64": "video", "audio": "audio", "input_audio": "audio", "audio_url": "audio",
    "pdf": "pdf", "doc": "text",
}  # fmt: skip
DEPTH = 6  # of lists and objects in one another: vLLM's messages have five
TAKEN = 'a data URL ("data:image/png;base64,...") or base64'


def image_of(value: Any, param: str, limits: Limits, depth: int = DEPTH) -> bytes:
    """The file's bytes. Raises Refusal naming `param`."""
    if isinstance(value, str):
        return from_text(value, param, limits)
    if is_tokens(value):
        raise invalid(
            "token_ids",
            "token ids of a text. LangChain's OpenAIEmbeddings makes them of strings: give it "
            "check_embedding_ctx_length=False",
            param,
        )
    if depth and isinstance(value, dict):
        return from_object(value, param, limits, depth - 1)
    if depth and isinstance(value, list):
        return from_parts(value, param, limits, depth - 1)
    raise invalid("invalid_item", f"of type {kind_of(value)}; an image is {TAKEN}", param)


def is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def kind_of(value: Any) -> str:
    names = {dict: "object", list: "list", int: "number", float: "number", bool: "boolean"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def from_object(value: dict[str, Any], param: str, limits: Limits, depth: int) -> bytes:
    for field in ("content", "parts"):  # Voyage, Cohere, vLLM: parts of one item
        if isinstance(value.get(field), (list, dict)):
            return image_of(value[field], f"{param}.{field}", limits, depth)
    given = [name for name in IMAGE_FIELDS if value.get(name) is not None]
    for name, kind in OTHER_FIELDS.items():
        if value.get(name) not in (None, "") and (not given or kind != "text"):
            raise no_side(kind, param)
    if value.get("text") or value.get("input_text"):
        raise no_side("text beside an image", param)
    if len(given) != 1:
        told = "no image in it" if not given else f"more than one image ({', '.join(given)})"
        raise invalid("invalid_item", f"{told}; an item is one image", param)
    return image_of(value[given[0]], param, limits, depth)


def from_parts(parts: list[Any], param: str, limits: Limits, depth: int) -> bytes:
    if len(parts) != 1:
        raise invalid(
            "invalid_item", f"{len(parts)} parts in one item; an item is one image", param
        )
    return image_of(parts[0], param, limits, depth)


def no_side(kind: str, param: str) -> Refusal:
    side = kind.split()[0]
    return invalid(
        "unsupported_modality", f"{kind}, and this encoder has no {side} side: images only", param
    )


def from_text(text: str, param: str, limits: Limits) -> bytes:
    check_image(len(text) * 3 // 4 - 2048, limits, param)  # before it is held twice
    if text[:5].lower() == "data:":
        return from_data_url(text, param, limits)
    if ADDRESS.match(text):
        raise invalid(
            "address_not_fetched",
            f"an address, and none is fetched; send the file as {TAKEN}",
            param,
        )
    if len(text) < 4096 and not re.fullmatch(r"[\w+/=\s-]*", text, re.ASCII):
        raise no_side("text", param)
    return from_base64(text, param, limits)


def from_data_url(text: str, param: str, limits: Limits) -> bytes:
    comma = text.find(",", 0, 1024)
    media, *options = text[5 : max(comma, 5)].lower().split(";")
    if comma < 0 or "base64" not in (option.strip() for option in options):
        raise invalid("invalid_data_url", f"a data URL without base64; send {TAKEN}", param)
    media = media.strip()
    if media and not media.startswith(MEDIA):
        raise no_side(media.split("/")[0], param)
    return from_base64(text[comma + 1 :], param, limits)


def from_base64(text: str, param: str, limits: Limits) -> bytes:
    """Either alphabet, with line breaks and without padding too."""
    compact = text.replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        compact = "".join(compact.split())
        compact += "=" * (-len(compact) % 4)
        try:
            data = base64.b64decode(compact, validate=True)
        except (binascii.Error, ValueError):
            raise invalid(
                "invalid_base64", f"base64 that cannot be read; send {TAKEN}", param
            ) from None
    if not data:
        raise invalid("empty_image", "zero bytes; an image is a whole file", param)
    check_image(len(data), limits, param)
    return data

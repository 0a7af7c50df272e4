"""A request of any dialect -> its images and what else it asks for. One function a dialect."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from python_multipart import create_form_parser
from python_multipart.exceptions import FormParserError

from jepack.decoding import SUFFIXES
from jepack.names import shown
from serving.gateway.errors import Refusal, invalid
from serving.gateway.items import MEDIA, image_of, no_side
from serving.gateway.limits import Limits, check_image, check_items, too_many_items
from serving.gateway.options import HEADERS, Offer, Options, options_of

MOST_VALUES = 100_000  # base64 holds no comma and no bracket
MOST_FIELDS = 100  # of a form, beside its files


@dataclass(frozen=True)
class Received:
    """A request as it came: nothing of it is trusted."""

    body: bytes
    content_type: str  # with its parameters
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    caller: str = ""  # who asks, where the request names no user: its key or its address


@dataclass(frozen=True)
class Asked:
    """A request understood: `params` names each image in its own dialect, as in "input[3]"."""

    images: list[bytes]
    params: list[str]
    options: Options
    fields: dict[str, Any]  # what the dialect's answer may need: an id, the outputs asked for
    pixels: int = 0  # of all images, as their headers tell


# What a dialect's function gives: values with their names, and the other fields.
Found = tuple[list[tuple[str, Any]], dict[str, Any]]
Dialect = Callable[[Received, Limits], Found]


def read(received: Received, dialect: Dialect, limits: Limits) -> Found:
    """What the dialect's function finds, and options of the headers. Raises Refusal."""
    values, fields = dialect(received, limits)
    by_header = {
        field: received.headers[name] for name, field in HEADERS.items() if name in received.headers
    }
    return values, {**by_header, **fields}


FILE_FIELDS = (
    "file",
    "files",
    "image",
    "images",
    "input",
    "inputs",
)  # what people call a file in a form
URLENCODED = "application/x-www-form-urlencoded"  # what curl says of a body unless told


def parsed(found: Found, offer: Offer, limits: Limits) -> Asked:
    """The one parser of what was read. Raises Refusal."""
    values, fields = found
    options = options_of(fields, offer)
    check_items(len(values), limits, "input")
    images, pixels = [], 0
    for param, value in values:
        image = value if isinstance(value, bytes) else image_of(value, param, limits)
        if not image:
            raise invalid("empty_image", "zero bytes; an image is a whole file", param)
        check_image(len(image), limits, param)
        pixels += check_pixels(image, limits, param)
        images.append(image)
    return Asked(images, [param for param, _ in values], options, fields, pixels)


def by_media(from_json: Callable[[dict[str, Any]], Found]) -> Dialect:
    """A dialect whose JSON `from_json` reads; a raw image and a form mean the same in all of them."""

    def read(received: Received, limits: Limits) -> Found:
        media = received.content_type.partition(";")[0].strip().lower()
        if media == "multipart/form-data":
            return from_form(received, limits)
        if media.startswith(MEDIA):
            return [("body", received.body)], dict(received.query)
        if media == "application/json" or media.endswith("+json"):
            values, fields = from_json(json_object(received.body))
            return values, {**received.query, **fields}
        hint = (
            "; curl's -d needs -H 'content-type: application/json'" if media == URLENCODED else ""
        )
        raise Refusal(
            415,
            "unsupported_media_type",
            f"content-type {media or '(none)':.60}; send application/json, multipart/form-data or image/*"
            + hint,
        )

    return read


def json_object(body: bytes) -> dict[str, Any]:
    """Raises Refusal. A short text of many values would be many times larger as Python's objects."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MOST_VALUES:
        raise Refusal(413, "too_many_values", f"more than {MOST_VALUES:,} values in the JSON")
    try:
        value = json.loads(body)
    except RecursionError:
        raise invalid("invalid_json", "nested too deeply") from None
    except ValueError as error:
        raise invalid("invalid_json", f"the body is not JSON ({error!s:.120})") from None
    if not isinstance(value, dict):
        raise invalid("invalid_json", "the body must be a JSON object")
    return value


def from_form(received: Received, limits: Limits) -> Found:
    """Files in their order are the images, other parts are options."""
    values: list[tuple[str, Any]] = []
    fields: dict[str, Any] = dict(received.query)

    def on_file(part: Any) -> None:
        if len(values) >= limits.items:
            raise too_many_items(len(values) + 1, limits)
        part.file_object.seek(0)
        name = (part.field_name or b"file").decode("utf-8", "replace")[:60]
        values.append((f"{name}[{len(values)}]", part.file_object.read()))

    def on_field(part: Any) -> None:
        if len(fields) >= MOST_FIELDS:
            raise Refusal(413, "too_many_fields", f"more than {MOST_FIELDS} fields in the form")
        name = (part.field_name or b"").decode("utf-8", "replace")[:60]
        fields[name] = (part.value or b"").decode("utf-8", "replace")

    most = len(received.body) + 1
    config = {"MAX_MEMORY_FILE_SIZE": most, "MAX_BODY_SIZE": most}  # bounded already; never on disk
    head = {"Content-Type": received.content_type.encode("latin-1", "replace")}
    try:
        parser = create_form_parser(head, on_field, on_file, config=config)
        parser.write(received.body)
        parser.finalize()
    except (FormParserError, ValueError, AssertionError) as error:
        raise invalid("invalid_form", f"the multipart body cannot be read ({error})") from error
    if not values:
        refuse_name(fields)
    return values, fields


def refuse_name(fields: Mapping[str, Any]) -> None:
    """Of a form without files: text where a file was meant, as of curl without its @. Raises Refusal."""
    for name, value in fields.items():
        text = str(value)
        if name in FILE_FIELDS or text.lower().endswith(SUFFIXES):
            raise invalid(
                "no_file",
                f"the text {text!r:.80}, where a file is needed; curl sends a file by an @ before its name: "
                f"-F {name}=@{shown(text[:80])}",
                name,
            )


def check_pixels(image: bytes, limits: Limits, param: str) -> int:
    """Pixels by the header, 0 where Pillow alone cannot tell; the decoder has the last word."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(image), formats=("PNG", "JPEG", "GIF", "BMP")) as opened:
                width, height = opened.size
    except Exception:  # Pillow's parsers raise a wide family
        return 0
    if width * height > limits.pixels:
        raise Refusal(
            413,
            "too_many_pixels",
            f"{width} x {height} pixels, the limit is {limits.pixels / 1e6:g} megapixels; send it smaller",
            param=param,
        )
    return int(width * height)


def numbered(name: str, value: Any) -> list[tuple[str, Any]]:
    """A list as its items, anything else as one."""
    if isinstance(value, list) and not (value and all(type(one) is int for one in value)):
        return [(f"{name}[{number}]", one) for number, one in enumerate(value)]
    return [] if value is None else [(name, value)]


@by_media
def openai(body: dict[str, Any]) -> Found:
    """`input` of OpenAI, NVIDIA, Infinity, Jina and vLLM; `messages` of vLLM, one image in them."""
    if body.get("input") is None and isinstance(body.get("messages"), list):
        return [("messages", body["messages"])], body
    if body.get("input") is None:
        raise invalid(
            "missing_input", 'no input; send {"input": ["data:image/png;base64,..."]}', "input"
        )
    return numbered("input", body["input"]), body


@by_media
def cohere(body: dict[str, Any]) -> Found:
    """`images`, or `inputs` whose content is one image each; `texts` are refused."""
    if body.get("texts"):
        raise no_side("text", "texts[0]")
    for name in ("images", "inputs"):
        if body.get(name) is not None:
            return numbered(name, body[name]), body
    raise invalid("missing_input", "no images; send data URLs in `images`", "images")


@by_media
def voyage(body: dict[str, Any]) -> Found:
    if body.get("inputs") is None:
        raise invalid("missing_input", "no inputs", "inputs")
    return numbered("inputs", body["inputs"]), body


@by_media
def weaviate(body: dict[str, Any]) -> Found:
    """One image a request; no model is named."""
    return [("image", body.get("image"))], {
        key: body[key] for key in ("id", "on_error", "atypicality", "probe") if key in body
    }

"""Whatever a body holds, the parser gives images within the limits or a refusal that says where."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import data_url, png

from jepack.client import Endpoint
from serving.gateway import Limits, oip, parse
from serving.gateway.errors import Refusal, body_of
from serving.gateway.options import Offer, Options, options_of

LIMITS = Limits(items=4, image=20_000, pixels=10_000)
ENDPOINT = Endpoint(
    bundle="team/photos", fingerprints={"embedding": "a", "projection": "b"},
    dimensions={"embedding": 512, "projection": 64}, max_batch_size=16,
)  # fmt: skip
FORM = "multipart/form-data; boundary=y"
OFFER = Offer(ENDPOINT, {})
DIALECTS = {
    "openai": parse.openai, "cohere": parse.cohere, "voyage": parse.voyage,
    "weaviate": parse.weaviate, "oip": oip.read,
}  # fmt: skip
# Of every dialect: what holds images, what says how, and words that mean something to the parser.
NAMES = (
    "input", "inputs", "images", "image", "texts", "messages", "content", "parts", "type", "image_url",
    "image_base64", "url", "bytes", "text", "name", "datatype", "data", "parameters", "binary_data_size",
    "model", "output", "dimensions", "output_dimension", "encoding_format", "embedding_type",
    "embedding_types", "normalize", "modality", "on_error", "endianness", "id",
)  # fmt: skip
WORDS = (
    data_url(png()), base64.b64encode(png()).decode(), data_url(b"GARBAGE"), "data:,",
    "data:image/png;base64,", "https://example.org/a.png", "file:///etc/passwd", "a cat", "", "image",
    "BYTES", "float", "base64", "int8",
    "projection", "team/photos", "photos:projection", "skip", "0", "512", "\ud800",
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from(WORDS),
    st.text(max_size=9),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
FEW = settings(
    derandomize=True, max_examples=60, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


def refusal_of(ask: Callable[[], Any]) -> Refusal | None:
    try:
        ask()
    except Refusal as refusal:
        return refusal
    return None


def holds(received: parse.Received, dialect: parse.Dialect) -> None:
    """Images within the limits, or a refusal that can be written as an answer."""
    found: list[parse.Asked] = []
    refusal = refusal_of(
        lambda: found.append(parse.parsed(parse.read(received, dialect, LIMITS), OFFER, LIMITS))
    )
    if refusal is not None:
        assert 400 <= refusal.status < 500
        assert refusal.code
        assert json.dumps(body_of(refusal, "")).encode()
        assert all(value.encode("latin-1") for value in refusal.headers.values())
        return
    asked = found[0]
    assert 1 <= len(asked.images) == len(asked.params) <= LIMITS.items
    assert all(0 < len(image) <= LIMITS.image for image in asked.images)


@pytest.mark.parametrize("dialect", DIALECTS)
@FEW
@given(body=OBJECTS)
def test_any_object_is_images_or_a_refusal(dialect: str, body: dict[str, Any]) -> None:
    received = parse.Received(json.dumps(body).encode(), "application/json", {})
    holds(received, DIALECTS[dialect])


@FEW
@given(
    body=st.binary(max_size=300),
    media=st.sampled_from(
        ["application/json", "image/png", FORM, "multipart/form-data; boundary", ""]
    ),
    size=st.one_of(st.none(), st.integers(-5, 400).map(str), st.text(max_size=5)),
    query=st.dictionaries(st.sampled_from(NAMES), st.text(max_size=9), max_size=3),
)  # fmt: skip
def test_any_bytes_are_images_or_a_refusal(
    body: bytes, media: str, size: str | None, query: dict[str, str]
) -> None:
    headers = {} if size is None else {oip.HEAD_SIZE: size}
    received = parse.Received(body, media, query, headers)
    for dialect in DIALECTS.values():
        holds(received, dialect)


@FEW
@given(
    parts=st.lists(
        st.tuples(st.text(max_size=9), st.binary(max_size=60), st.booleans()), max_size=6
    )
)
def test_any_form_is_images_or_a_refusal(parts: list[tuple[str, bytes, bool]]) -> None:
    lines = []
    for name, value, is_file in parts:
        told = f'form-data; name="{name}"' + ('; filename="a"' if is_file else "")
        head = f"--y\r\nContent-Disposition: {told}\r\n\r\n".encode("utf-8", "replace")
        lines.append(head + value + b"\r\n")
    body = b"".join([*lines, b"--y--\r\n"])
    holds(parse.Received(body, FORM, {}), parse.openai)


@pytest.mark.parametrize(("name", "text"), [("file", "photo"), ("x", "a b.PNG"), ("image", "")])
def test_a_name_where_curl_was_to_send_a_file_is_told_of_the_at_sign(name: str, text: str) -> None:
    head = f'--y\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    received = parse.Received(f"{head}{text}\r\n--y--\r\n".encode(), FORM, {})
    with pytest.raises(Refusal) as caught:
        parse.openai(received, LIMITS)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "no_file", name)
    assert f"-F {name}=@{text}" in caught.value.message


@FEW
@given(fields=OBJECTS)
def test_any_options_are_understood_or_refused(fields: dict[str, Any]) -> None:
    found: list[Options] = []
    refusal = refusal_of(lambda: found.append(options_of(fields, OFFER)))
    if refusal is not None:
        assert refusal.status in (400, 404)
        return
    assert found[0].output in ENDPOINT.dimensions
    assert (found[0].numbers, found[0].dimensions) == ("float", None)  # nothing was measured

"""The gateway as any HTTP client meets it: one route, images in every form, errors that say where."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pictures import data_url, png
from PIL import Image

from jepack.bundle import Bundle

ONE, TWO = png(7), png(90)


def rows(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


def test_a_data_url_comes_back_as_the_engine_embeds_it(http: httpx.Client, embedded: Any) -> None:
    answer = http.post("/v1/embeddings", json={"input": data_url(ONE)})
    want = embedded.embed([ONE], limit_s=300).rows["embedding"]
    np.testing.assert_allclose(rows(answer), want, atol=1e-6)
    told = answer.json()
    assert (told["object"], told["data"][0]["index"], told["output"]) == ("list", 0, "embedding")
    assert told["fingerprint"] == embedded.endpoint.fingerprints["embedding"]


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


FORMS: dict[str, Any] = {
    "base64": b64(ONE),
    "base64 of the other alphabet, without padding, with line breaks": base64.urlsafe_b64encode(ONE)
    .decode()
    .rstrip("=")
    .replace("A", "A\n"),
    "a data URL with a name and a charset": f"data:image/png;name=a.png;charset=utf-8;base64,{b64(ONE)}",
    "Jina's image": {"image": b64(ONE)},
    "Jina's bytes": {"bytes": b64(ONE)},
    "Jina's url": {"url": data_url(ONE)},
    "vLLM's image": {"image": data_url(ONE)},
    "a part": {"type": "image_url", "image_url": {"url": data_url(ONE)}},
    "a part with a plain url": {"type": "image_url", "image_url": data_url(ONE)},
    "parts": {"content": [{"type": "image_url", "image_url": {"url": data_url(ONE)}}]},
    "Voyage's part": {"content": [{"type": "image_base64", "image_base64": data_url(ONE)}]},
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_is_taken_in_every_form_alone_and_in_a_list(http: httpx.Client, form: str) -> None:
    want = rows(http.post("/v1/embeddings", json={"input": [data_url(ONE), data_url(TWO)]}))
    alone = rows(http.post("/v1/embeddings", json={"input": FORMS[form]}))
    both = rows(http.post("/v1/embeddings", json={"input": [data_url(TWO), FORMS[form]]}))
    np.testing.assert_allclose(alone, want[:1], atol=1e-5)
    np.testing.assert_allclose(both, want[::-1], atol=1e-5)


def test_messages_hold_one_image(http: httpx.Client) -> None:
    content = [{"type": "image_url", "image_url": {"url": data_url(ONE)}}]
    body = {"messages": [{"role": "user", "content": content}]}
    want = rows(http.post("/v1/embeddings", json={"input": data_url(ONE)}))
    np.testing.assert_array_equal(rows(http.post("/v1/embeddings", json=body)), want)
    body["messages"][0]["content"] = content * 2  # type: ignore[assignment]
    assert http.post("/v1/embeddings", json=body).status_code == 400


def test_a_raw_body_and_a_form_are_images_too(http: httpx.Client) -> None:
    want = rows(http.post("/v1/embeddings", json={"input": [data_url(ONE), data_url(TWO)]}))
    raw = http.post("/v1/embeddings", content=ONE, headers={"content-type": "image/png"})
    form = http.post("/v1/embeddings", files=[("file", ONE), ("file", TWO)])
    np.testing.assert_allclose(rows(raw), want[:1], atol=1e-5)
    np.testing.assert_allclose(rows(form), want, atol=1e-5)


def test_options_come_from_the_body_the_address_and_a_form(http: httpx.Client) -> None:
    asked = {"output": "projection"}
    answers = [
        http.post("/v1/embeddings", json={"input": data_url(ONE), **asked}),
        http.post(
            "/v1/embeddings", content=ONE, headers={"content-type": "image/png"}, params=asked
        ),
        http.post("/v1/embeddings", files={"file": ONE}, data=asked),
    ]
    for answer in answers:
        np.testing.assert_array_equal(rows(answer), rows(answers[0]))
        assert answer.json()["output"] == "projection"
    assert rows(answers[0]).shape == (1, 64)


@pytest.mark.parametrize(
    ("endianness", "dtype"), [(None, "<f4"), ("little", "<f4"), ("big", ">f4")]
)
def test_base64_holds_the_same_float32(
    http: httpx.Client, endianness: str | None, dtype: str
) -> None:
    want = rows(http.post("/v1/embeddings", json={"input": data_url(ONE)}))
    body = {"input": data_url(ONE), "encoding_format": "base64", "endianness": endianness}
    text = http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(text), dtype), want[0])


@pytest.mark.parametrize("name", ["normalize", "normalized"])
def test_rows_of_unit_length_are_given_when_asked(http: httpx.Client, name: str) -> None:
    raw = rows(http.post("/v1/embeddings", json={"input": data_url(ONE)}))
    unit = rows(http.post("/v1/embeddings", json={"input": data_url(ONE), name: True}))
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw), atol=1e-6)


def test_all_dimensions_may_be_asked_for(http: httpx.Client) -> None:
    for value in (0, None, 512):
        body = {"input": data_url(ONE), "dimensions": value}
        assert rows(http.post("/v1/embeddings", json=body)).shape == (1, 512)


def strip(size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("1", size).save(stream, "PNG")
    return stream.getvalue()


def nested(depth: int) -> Any:
    return {"image": nested(depth - 1)} if depth else b64(ONE)


REFUSED: dict[str, tuple[Any, str, str]] = {  # item: (value, code, a word of the message)
    "text": ("a photograph of a cat!", "unsupported_modality", "no text side"),
    "a word that is base64": ("word", "invalid_image", "not an image"),
    "an address": ("https://example.org/a.png", "address_not_fetched", "none is fetched"),
    "an address in an object": ({"url": "http://127.0.0.1/a.png"}, "address_not_fetched", "none"),
    "an address of a file": ("file:///etc/passwd", "address_not_fetched", "none is fetched"),
    "an address in a part": (
        {"type": "image_url", "image_url": {"url": "s3://bucket/a.png"}}, "address_not_fetched", "none",
    ),
    "a text part": ({"type": "text", "text": "cat"}, "unsupported_modality", "no text side"),
    "text beside an image": (
        {"text": "cat", "image": b64(ONE)}, "unsupported_modality", "beside an image",
    ),
    "audio": (f"data:audio/wav;base64,{b64(ONE)}", "unsupported_modality", "no audio side"),
    "video": ({"video": b64(ONE)}, "unsupported_modality", "no video side"),
    "two images in one": ({"content": [b64(ONE), b64(TWO)]}, "invalid_item", "one image"),
    "token ids": ([101, 2023, 102], "token_ids", "check_embedding_ctx_length=False"),
    "null": (None, "invalid_item", "null"),
    "a number": (7, "invalid_item", "number"),
    "an empty object": ({}, "invalid_item", "no image"),
    "an object in an object for ever": (
nested(10), "invalid_item", "",
    ),
    "zero bytes": ("data:image/png;base64,", "empty_image", "zero bytes"),
    "broken base64": (data_url(ONE)[:-20] + "?" * 20, "invalid_base64", "base64"),
    "a data URL without base64": ("data:image/svg+xml,<svg/>", "invalid_data_url", "without base64"),
    "a cut file": (data_url(ONE[: len(ONE) // 2]), "invalid_image", ""),
    "not an image": (data_url(b"GARBAGE" * 50), "invalid_image", "not an image"),
    "too many pixels": (data_url(strip((30_000, 1_000))), "too_many_pixels", "25 megapixels"),
}  # fmt: skip


@pytest.mark.parametrize("item", REFUSED)
def test_a_bad_item_refuses_its_request_by_number_and_no_other(
    http: httpx.Client, item: str
) -> None:
    value, code, word = REFUSED[item]
    answer = http.post("/v1/embeddings", json={"input": [data_url(ONE), data_url(TWO), value]})
    told = answer.json()
    assert answer.status_code in (400, 413)
    assert told["error"]["code"] == code
    assert told["error"]["param"].startswith("input[2]")
    assert word in told["error"]["message"]
    assert told["detail"] == told["error"]["message"]
    assert told["request_id"] == answer.headers["x-request-id"]
    assert rows(http.post("/v1/embeddings", json={"input": data_url(ONE)})).shape == (1, 512)


def gif() -> bytes:
    stream = io.BytesIO()
    Image.new("P", (20, 20)).save(
        stream, "GIF", save_all=True, append_images=[Image.new("P", (20, 20), 9)]
    )
    return stream.getvalue()


ODD = {
    "one pixel": strip((1, 1)),
    "an animation": gif(),
    "a long strip": strip((1, 60_000)),
    "a flat strip": strip((60_000, 1)),
}


@pytest.mark.parametrize("picture", ODD)
def test_odd_pictures_are_embedded(http: httpx.Client, picture: str) -> None:
    answer = http.post("/v1/embeddings", json={"input": [data_url(ODD[picture]), data_url(ONE)]})
    assert np.isfinite(rows(answer)).all()


def test_bad_items_are_left_out_when_asked(http: httpx.Client) -> None:
    images = [data_url(ONE), data_url(b"GARBAGE"), data_url(TWO)]
    answer = http.post("/v1/embeddings", json={"input": images, "on_error": "skip"})
    want = rows(http.post("/v1/embeddings", json={"input": [images[0], images[2]]}))
    np.testing.assert_allclose(rows(answer), want, atol=1e-5)
    told = answer.json()
    assert [one["index"] for one in told["data"]] == [0, 2]
    assert [(one["index"], one["param"]) for one in told["errors"]] == [(1, "input[1]")]
    alone = http.post("/v1/embeddings", json={"input": images[1], "on_error": "skip"})
    assert (alone.status_code, alone.json()["error"]["code"]) == (400, "invalid_image")


BODIES: dict[str, tuple[bytes, str, int, str]] = {
    "no JSON": (b"{", "application/json", 400, "invalid_json"),
    "a list": (b"[]", "application/json", 400, "invalid_json"),
    "no input": (b"{}", "application/json", 400, "missing_input"),
    "an empty list": (b'{"input": []}', "application/json", 400, "no_images"),
    "deep nesting": (b'{"input": ' + b"[" * 90_000, "application/json", 400, "invalid_json"),
    "a million empty lists": (
        b'{"input": [' + b"[]," * 1_000_000 + b"[]]}", "application/json", 413, "too_many_values",
    ),
    "a hundred fields of a form": (
        b"".join(b'--y\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n' % n for n in range(101))
        + b"--y--", "multipart/form-data; boundary=y", 413, "too_many_fields",
    ),
    "deep nesting that closes": (
        b'{"input": ' + b"[" * 500 + b"]" * 500 + b"}", "application/json", 400, "invalid_item",
    ),
    "not UTF-8": (b'{"input": "\xff"}', "application/json", 400, "invalid_json"),
    "another type": (b"input=1", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    "a broken form": (b"--x", "multipart/form-data; boundary=y", 400, "invalid_form"),
    "a form without boundary": (b"--x", "multipart/form-data", 400, "invalid_form"),
    "nothing": (b"", "image/png", 400, "empty_image"),
    "an unknown model": (
        b'{"input": "a", "model": "text-embedding-3-large"}', "application/json", 404, "model_not_found",
    ),
    "an unknown encoding": (
        b'{"input": "a", "encoding_format": "hex"}', "application/json", 400, "invalid_option",
    ),
    "an embedding of another type": (
        b'{"input": "a", "embedding_type": "float16"}', "application/json", 400,
        "unsupported_embedding_type",
    ),
    "text asked for": (
        b'{"input": "a", "modality": ["image", "text"]}', "application/json", 400,
        "unsupported_modality",
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_says_nothing_of_use_is_told_why(http: httpx.Client, body: str) -> None:
    content, media, status, code = BODIES[body]
    answer = http.post("/v1/embeddings", content=content, headers={"content-type": media})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_fields_of_other_dialects_are_passed_over(http: httpx.Client) -> None:
    body = {
        "input": [data_url(ONE)], "model": "small-resnet10t", "user": "me", "task": "retrieval",
        "truncate": "NONE", "input_type": "passage", "modality": "image", "late_chunking": False,
        "embedding_type": "float", "unknown": {"a": [1]},
    }  # fmt: skip
    assert rows(http.post("/v1/embeddings", json=body)).shape == (1, 512)


def test_the_models_are_the_bundle_and_its_outputs(
    http: httpx.Client, exported_bundle: Bundle
) -> None:
    listed = http.get("/v1/models").json()["data"]
    assert [one["id"] for one in listed] == [
        "small-resnet10t", "small-resnet10t:embedding", "small-resnet10t:projection",
    ]  # fmt: skip
    for one in listed:
        assert one["fingerprint"] == exported_bundle.fingerprints[one["output"]]
        assert one["dimensions"] == exported_bundle.dimensions[one["output"]]
        assert isinstance(one["promises"], list)
        assert http.get(f"/v1/models/{one['id']}").json() == one
        answer = http.post("/v1/embeddings", json={"input": data_url(ONE), "model": one["id"]})
        assert answer.json()["fingerprint"] == one["fingerprint"]
    assert http.get("/v1/models/other").status_code == 404


def test_the_same_answers_below_other_roots(http: httpx.Client) -> None:
    body = {"input": data_url(ONE)}
    want = rows(http.post("/v1/embeddings", json=body))
    for path in ("/openai/v1/embeddings", "/embeddings"):
        np.testing.assert_array_equal(rows(http.post(path, json=body)), want)
    assert http.get("/openai/v1/models").json() == http.get("/v1/models").json()


def test_it_is_alive_and_ready(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/health/ready").json() == {"status": "ready"}


def test_ready_means_that_an_image_is_embedded(embedded: Any) -> None:
    from serving.gateway import Gateway

    class Broken:
        endpoint = embedded.endpoint
        embed = embedded.embed
        told: str | None = "the decoder has died"

        def problem(self) -> str | None:
            return self.told

        def close(self) -> None: ...

    engine = Broken()
    with (
        Gateway(engine, port=0) as one,
        httpx.Client(base_url=one.url, trust_env=False, timeout=300) as http,
    ):
        answer = http.get("/health/ready")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert "decoder has died" in answer.json()["error"]["message"]
        assert http.get("/health/live").status_code == 200


def test_a_request_keeps_the_id_it_came_with(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    odd = http.get("/v1/models", headers={"x-request-id": "a" * 500})
    assert len(odd.headers["x-request-id"]) == 32


def test_errors_are_json_wherever_they_arise(http: httpx.Client) -> None:
    for answer, status in (
        (http.get("/nowhere"), 404), (http.get("/v1/embeddings"), 405), (http.delete("/v1/models"), 405),
    ):  # fmt: skip
        assert answer.status_code == status
        assert answer.json()["error"]["code"] in ("no_such_path", "no_such_method")


def test_the_openapi_document_needs_no_other_machine(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    body = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "image/*", "multipart/form-data"}


def test_figures_count_what_was_asked(http: httpx.Client) -> None:
    before = figure(http, "jepack_images_total", 'result="embedded"')
    http.post("/v1/embeddings", json={"input": [data_url(ONE), data_url(TWO)]})
    assert figure(http, "jepack_images_total", 'result="embedded"') == before + 2
    http.get("/a/path/nobody/has")
    assert "nobody" not in http.get("/metrics").text


def figure(http: httpx.Client, name: str, label: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return float(next(one for one in lines if one.startswith(f"{name}{{{label}")).split()[-1])


def test_no_module_of_the_gateway_can_open_an_address() -> None:
    """What an SSRF needs: a client of HTTP, or a socket that connects."""
    folder = Path(__file__).parents[2] / "serving" / "gateway"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    for word in (
        "urlopen",
        "urllib.request",
        "import httpx",
        "import requests",
        "aiohttp",
        ".connect(",
    ):
        assert word not in text


WORDS = (
    "input", "images", "inputs", "image", "messages", "content", "text", "type", "image_url", "url",
    "model", "dimensions", "encoding_format", "embedding_types", "modality", "normalize", "output",
    "on_error", "id", "outputs", "name", "datatype", "data", "shape", "parameters", "binary_data_size",
)  # fmt: skip
VALUES = (
    None, True, 0, -1, 3.5, 10**30, "", "x", "word", "\0", "é", "http://a/b", [], {}, "data:,", [1, 2],
    "BYTES", "image", "base64", data_url(ONE),
)  # fmt: skip


def anything(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if depth > 4 or kind < 0.35:
        return draw.choice(VALUES)
    if kind < 0.65:
        return [anything(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    return {draw.choice(WORDS): anything(draw, depth + 1) for _ in range(draw.randint(0, 5))}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v2/embed",
        "/v1/multimodalembeddings",
        "/vectors",
        "/v2/models/embed/infer",
    ],
)
def test_whatever_is_sent_is_answered_or_told_why(http: httpx.Client, path: str) -> None:
    draw = random.Random(path)
    for _ in range(60):
        value = anything(draw)
        body = {"input": value, "images": value, "inputs": value, "image": value}
        answer = http.post(path, json=value if isinstance(value, dict) and value else body)
        assert answer.status_code in (200, 400, 404, 413), value
        if answer.status_code != 200:
            assert answer.json()["error"]["code"]


def test_a_damaged_file_or_request_is_answered_or_told_why(http: httpx.Client) -> None:
    draw = random.Random(0)
    sound = {"image/png": ONE, "application/json": json.dumps({"input": [data_url(ONE)]}).encode()}
    for number in range(100):
        media = list(sound)[number % 2]
        data = bytearray(sound[media])
        for _ in range(draw.randint(1, 8)):
            at = draw.randrange(len(data))
            data[at : at + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
        answer = http.post("/v1/embeddings", content=bytes(data), headers={"content-type": media})
        assert answer.status_code in (200, 400, 413)

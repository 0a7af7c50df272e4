"""Each dialect's own request and answer, at its own path; every one holds the engine's rows."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from pictures import data_url, png

ONE, TWO = png(7), png(90)
URLS = [data_url(ONE), data_url(TWO)]


@pytest.fixture(scope="module")
def want(embedded: Any) -> Any:
    """Both outputs, as the engine gives them."""
    return embedded.embed([ONE, TWO], limit_s=300).rows


def told(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()


def close(found: Any, want: Any) -> None:
    np.testing.assert_allclose(np.array(found, np.float32), want, atol=1e-6)


COHERE = {
    "images": {"images": URLS},
    "inputs": {
        "inputs": [{"content": [{"type": "image_url", "image_url": {"url": url}}]} for url in URLS]
    },
}


@pytest.mark.parametrize("form", COHERE)
def test_cohere_gets_its_embeddings_by_type(http: httpx.Client, want: Any, form: str) -> None:
    body = {"model": "small-resnet10t", "input_type": "image", "embedding_types": ["float"]}
    answer = told(http.post("/v2/embed", json={**body, **COHERE[form]}))
    close(answer["embeddings"]["float"], want["embedding"])
    assert answer["meta"]["api_version"]["version"] == "2"
    assert answer["id"]
    both = told(
        http.post("/v2/embed", json={**COHERE[form], "embedding_types": ["base64", "float"]})
    )
    texts = both["embeddings"]["base64"]
    close([np.frombuffer(base64.b64decode(text), "<f4") for text in texts], want["embedding"])
    close(both["embeddings"]["float"], want["embedding"])


def test_cohere_is_told_that_there_is_no_text_side(http: httpx.Client) -> None:
    answer = http.post("/v2/embed", json={"texts": ["a cat"], "input_type": "search_query"})
    assert answer.status_code == 400
    assert "no text side" in answer.json()["message"]
    assert answer.json()["error"]["param"] == "texts[0]"


def test_voyage_gets_its_four_counts(http: httpx.Client, want: Any) -> None:
    inputs = [{"content": [{"type": "image_base64", "image_base64": url}]} for url in URLS]
    answer = told(http.post("/v1/multimodalembeddings", json={"inputs": inputs, "model": ""}))
    close([one["embedding"] for one in answer["data"]], want["embedding"])
    assert answer["usage"] == {
        "text_tokens": 0, "image_pixels": 2 * 40 * 30, "video_pixels": 0, "total_tokens": 0,
    }  # fmt: skip
    refused = http.post(
        "/v1/multimodalembeddings",
        json={"inputs": [{"content": [{"type": "text", "text": "cat"}]}]},
    )
    assert "no text side" in refused.json()["detail"]


def test_weaviate_gets_one_vector_with_its_id(http: httpx.Client, want: Any) -> None:
    image = base64.b64encode(ONE).decode()
    answer = told(http.post("/vectors", json={"id": "a-1", "image": image}))
    assert (answer["id"], answer["dim"]) == ("a-1", 512)
    close([answer["vector"]], want["embedding"][:1])
    for path in ("/.well-known/live", "/.well-known/ready"):
        assert http.get(path).status_code == 204


def test_infinity_asks_with_dimensions_zero_and_a_modality(http: httpx.Client, want: Any) -> None:
    body = {"model": "small-resnet10t", "input": URLS, "modality": "image", "dimensions": 0}
    answer = told(http.post("/embeddings", json=body))
    close([one["embedding"] for one in answer["data"]], want["embedding"])


def oip_body(data: list[str], **more: Any) -> dict[str, Any]:
    given = {
        "name": "image", "shape": [len(data), 1], "datatype": "BYTES", "data": data,
        "parameters": {"content_type": "base64"},
    }  # fmt: skip
    return {"id": "7", "inputs": [given], **more}


def test_the_open_inference_protocol_gives_both_outputs(http: httpx.Client, want: Any) -> None:
    body = oip_body([base64.b64encode(image).decode() for image in (ONE, TWO)])
    answer = told(http.post("/v2/models/embed/infer", json=body))
    assert (answer["id"], answer["model_name"]) == ("7", "embed")
    for output in answer["outputs"]:
        close(np.reshape(output["data"], output["shape"]), want[output["name"]])
    named = told(
        http.post("/v2/models/embed/infer", json={**body, "outputs": [{"name": "projection"}]})
    )
    assert [one["name"] for one in named["outputs"]] == ["projection"]


def test_its_binary_extension_is_spoken_both_ways(http: httpx.Client, want: Any) -> None:
    blob = b"".join(len(image).to_bytes(4, "little") + image for image in (ONE, TWO))
    given = {
        "name": "image", "shape": [2, 1], "datatype": "BYTES",
        "parameters": {"binary_data_size": len(blob)},
    }  # fmt: skip
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    size = {"inference-header-content-length": str(len(head))}
    answer = http.post("/v2/models/embed/infer", content=head + blob, headers=size)
    assert answer.status_code == 200, answer.text
    at = int(answer.headers["inference-header-content-length"])
    for output in json.loads(answer.content[:at])["outputs"]:
        end = at + output["parameters"]["binary_data_size"]
        rows = np.frombuffer(answer.content[at:end], "<f4").reshape(output["shape"])
        close(rows, want[output["name"]])
        at = end
    assert at == len(answer.content)


BAD: dict[str, tuple[bytes, str | None, str]] = {
    "no inputs": (b"{}", None, "invalid_inputs"),
    "another input": (b'{"inputs": [{"name": "x"}]}', None, "invalid_inputs"),
    "no data": (b'{"inputs": [{"name": "image", "datatype": "BYTES"}]}', None, "invalid_inputs"),
    "a header longer than the body": (b"{}", "3", "invalid_header"),
    "a header that is no number": (b"{}", "-1", "invalid_header"),
    "an unknown output": (
        json.dumps(oip_body(URLS[:1], outputs=[{"name": "logits"}])).encode(), None, "invalid_outputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", BAD)
def test_a_bad_inference_request_is_told_why(http: httpx.Client, body: str) -> None:
    content, size, code = BAD[body]
    headers = {"inference-header-content-length": size} if size else {}
    answer = http.post("/v2/models/embed/infer", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_a_body_that_is_no_json_is_told_of_the_binary_extension(http: httpx.Client) -> None:
    told = http.post("/v2/models/embed/infer", content=png()).json()["error"]
    assert told["code"] == "invalid_json"
    assert (
        "the header inference-header-content-length tells how long the JSON is" in told["message"]
    )
    wrong = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 1], "data": [1]}]}
    told = http.post("/v2/models/embed/infer", json=wrong).json()["error"]
    assert "of BYTES is needed, found 'image' of 'UINT8'" in told["message"]


def test_a_binary_tensor_that_is_cut_is_refused(http: httpx.Client) -> None:
    blob = (len(ONE) + 1).to_bytes(4, "little") + ONE
    given = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(blob)},
    }
    head = json.dumps({"inputs": [given]}).encode()
    size = {"inference-header-content-length": str(len(head))}
    answer = http.post("/v2/models/embed/infer", content=head + blob, headers=size)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image[0]")


def test_the_protocol_describes_the_model(http: httpx.Client) -> None:
    model = told(http.get("/v2/models/embed"))
    assert model["outputs"][0] == {"name": "embedding", "datatype": "FP32", "shape": [-1, 512]}
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/embed/ready"):
        told(http.get(path))
    assert http.get("/v2/models/resnet50").status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v2/embed", {"images": [URLS[0], data_url(b"GARBAGE")]}, "images[1]"),
        (
            "/v1/multimodalembeddings",
            {"inputs": [{"content": [data_url(b"GARBAGE")]}]},
            "inputs[0]",
        ),
        ("/vectors", {"id": "1", "image": "R0FSQkFHRQ=="}, "image"),
        ("/v2/models/embed/infer", oip_body([*URLS, "R0FSQkFHRQ=="]), "inputs[0].data[2]"),
    ],
)
def test_a_bad_image_is_named_as_its_dialect_names_it(
    http: httpx.Client, path: str, body: Any, param: str
) -> None:
    error = http.post(path, json=body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_image", param)

"""The gateway's dialects as whole HTTP/1.1 requests, made before benchmarks measure."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence

Images = Sequence[bytes]
Body = tuple[str, str, bytes, str]  # path, content-type, body, further header lines
EDGE = "an-edge-that-no-image-holds"


def text(image: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(image).decode()


def as_json(path: str, value: object) -> Body:
    return path, "application/json", json.dumps(value).encode(), ""


def openai(images: Images) -> Body:
    asked = {"input": [text(image) for image in images], "encoding_format": "base64"}
    return as_json("/v1/embeddings", asked)


def cohere(images: Images) -> Body:
    asked = {"input_type": "image", "embedding_types": ["float"], "images": [*map(text, images)]}
    return as_json("/v2/embed", asked)


def voyage(images: Images) -> Body:
    inputs = [
        {"content": [{"type": "image_base64", "image_base64": text(image)}]} for image in images
    ]
    return as_json("/v1/multimodalembeddings", {"inputs": inputs})


def weaviate(images: Images) -> Body:
    return as_json("/vectors", {"id": "1", "image": base64.b64encode(images[0]).decode()})


def raw(images: Images) -> Body:
    return "/v1/embeddings", "image/jpeg", images[0], ""


def multipart(images: Images) -> Body:
    parts = [
        f'--{EDGE}\r\ncontent-disposition: form-data; name="file"; filename="{number}.jpg"\r\n'
        "content-type: image/jpeg\r\n\r\n".encode()
        + image
        + b"\r\n"
        for number, image in enumerate(images)
    ]
    body = b"".join(parts) + f"--{EDGE}--\r\n".encode()
    return "/v1/embeddings", f"multipart/form-data; boundary={EDGE}", body, ""


def protocol(images: Images) -> Body:
    """The Open Inference Protocol with its binary extension, both ways."""
    rest = b"".join(len(image).to_bytes(4, "little") + image for image in images)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "shape": [len(images), 1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(rest)},
                }
            ],
            "outputs": [{"name": "embedding", "parameters": {"binary_data": True}}],
        }
    ).encode()
    size = f"inference-header-content-length: {len(head)}\r\n"
    return "/v2/models/embed/infer", "application/octet-stream", head + rest, size


ONE = ("raw", "weaviate")  # that take one image a request
DIALECTS: dict[str, Callable[[Images], Body]] = {
    "base64": openai,
    "multipart": multipart,
    "binary": protocol,
    "raw": raw,
    "cohere": cohere,
    "voyage": voyage,
    "weaviate": weaviate,
}


def request(place: str, path: str, media: str, body: bytes, headers: str = "") -> bytes:
    """What is written to the socket; `place` is host:port."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {place}\r\ncontent-type: {media}\r\n{headers}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def request_in(dialect: str, place: str, images: Images) -> bytes:
    path, media, body, headers = DIALECTS[dialect](images)
    return request(place, path, media, body, headers)

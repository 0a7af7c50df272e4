"""What /v1/models and the OpenAPI document say of the endpoint."""

from __future__ import annotations

import base64
from typing import Any

from jepack.bundle import Probe
from jepack.client.items import grey_png
from jepack.measures.codes import Kept
from serving.gateway.limits import Limits
from serving.gateway.options import COARSE, FLOATS, Offer, model_names

IMAGE = {"type": "string", "description": "A data URL (data:image/png;base64,...) or base64."}
ITEM = {"anyOf": [IMAGE, {"type": "object", "description": "An object with one image in it."}]}
ITEMS = {"anyOf": [ITEM, {"type": "array", "items": ITEM, "minItems": 1}]}
COMMON: dict[str, Any] = {
    "model": {"type": "string"},
    "encoding_format": {"enum": ["float", "base64"]},
    "embedding_type": {"enum": [*FLOATS, *COARSE]},
    "dimensions": {"type": "integer", "minimum": 0},
    "normalize": {"type": "boolean"},
    "output": {"enum": ["embedding", "projection"]},
    "on_error": {"enum": ["fail", "skip"]},
    "atypicality": {
        "type": "boolean",
        "description": "Answer with a list `atypicality` beside the rows, a conformal p-value each: at most "
        "a share p of ordinary images has p or less. The header x-jepack-atypicality: true says the same.",
    },
    "probe": {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
            {"type": "boolean"},
        ],
        "description": "Which of the probes that are served answer beside the rows, in `probes`: a name or "
        "several; all unless told, none with false. The header x-jepack-probe says the same.",
    },
    "fingerprint": {"type": "string", "description": "Of the space that the rows must lie in."},
}
ERRORS = {
    400: "The request or an image of it cannot be read",
    401: "A key is needed",
    403: "Asked from a place that may not ask",
    404: "No such model",
    408: "The body took too long",
    409: "The space of this `fingerprint` is not served",
    413: "Too large, or too many images",
    415: "A body of another kind than those above",
    429: "Busy: come again after `retry-after` seconds",
    500: "A fault of the gateway; its log tells more by `request_id`",
    503: "The engine cannot answer now",
    504: "The engine did not answer in time",
}
ERROR = "`error` says what was wrong, and with which item."
ABOUT = (
    "Embeddings of images, in the forms that clients of other servers send. To try it here: open a POST, "
    "*Try it out*, choose multipart/form-data to upload a file (or leave the JSON with its small grey "
    "picture; *Schema* lists all options), *Execute*. The Open Inference Protocol is at "
    "/v2/models/embed/infer."
)
# What a page sends unless changed: a picture that is one.
PICTURE = f"data:image/png;base64,{base64.b64encode(grey_png()).decode()}"
USUAL = {"encoding_format": "float", "normalize": False, "on_error": "fail"}  # beside it
ROW = {"object": "embedding", "index": 0, "embedding": [0.12, -0.5]}
ANSWER = {"example": {"object": "list", "data": [ROW], "model": "photos", "fingerprint": 16 * "0"}}
# path: (one line, the field of its images, its schema, an example)
ROUTES: dict[str, tuple[str, str, Any, Any]] = {
    "/v1/embeddings": ("OpenAI, NVIDIA, Jina, vLLM, curl", "input", ITEMS, [PICTURE]),
    "/openai/v1/embeddings": ("The same below another root", "input", ITEMS, [PICTURE]),
    "/embeddings": ("The same, for Infinity's clients", "input", ITEMS, [PICTURE]),
    "/v2/embed": ("Cohere", "images", {"type": "array", "items": IMAGE}, [PICTURE]),
    "/v1/multimodalembeddings": (
        "Voyage",
        "inputs",
        {"type": "array", "items": ITEM},
        [{"content": [{"type": "image_base64", "image_base64": PICTURE}]}],
    ),
    "/vectors": ("Weaviate's img2vec, one image", "image", IMAGE, PICTURE),
}


def models(offer: Offer, limits: Limits, label: str, share: float) -> list[dict[str, Any]]:
    """A model for the bundle and one for each of its outputs; jepack.client reads these.

    `share` of those who name no version get it.
    """
    endpoint, found = offer.endpoint, []
    for name in model_names(endpoint, label):
        output = name.rpartition(":")[2]
        output = output if output in endpoint.dimensions else endpoint.default_output
        found.append({
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "jepack",
            "root": endpoint.bundle,
            "version": endpoint.version,
            "share": share,
            "modality": "image",
            "output": output,
            "dimensions": endpoint.dimensions[output],
            **shorter(offer.kept.get(output)),
            "fingerprint": endpoint.fingerprints[output],
            "promises": list(endpoint.promises),
            "notes": list(endpoint.notes),
            "probes": [about(one) for one in offer.probes.values()],
            "window": endpoint.window,
            "crop_pct": endpoint.crop_pct,
            "crop_mode": endpoint.crop_mode,
            "max_batch_size": min(endpoint.max_batch_size, limits.items),
            "max_body_bytes": limits.body,
        })  # fmt: skip
    return found


def about(probe: Probe) -> dict[str, Any]:
    """What a probe can name, and how good it was when it was kept."""
    return {
        "name": probe.name,
        "output": probe.output,
        "classes": list(probe.classes),
        "error_rate": probe.error_rate,
        "figures": probe.figures,
    }


def shorter(kept: Kept | None) -> dict[str, Any]:
    """Which shorter rows may be asked for, and what each keeps of the nearest neighbours."""
    if kept is None:
        return {"shortest": None, "embedding_types": ["float"], "kept": None}
    good = [name for name, share in kept.numbers.items() if share >= kept.floor]
    shares = {**{str(size): share for size, share in kept.dimensions.items()}, **kept.numbers}
    return {"shortest": kept.shortest, "embedding_types": ["float", *good], "kept": shares}


def route(path: str) -> dict[str, Any]:
    """FastAPI's keywords: the handler reads the body itself, so the document is told here."""
    line, field, schema, example = ROUTES[path]
    needed: dict[str, Any] = {"required": [field]}
    if field == "input":
        needed = {"anyOf": [needed, {"required": ["messages"]}]}
    body = {"type": "object", "properties": {field: schema, **COMMON}, **needed}
    content = {
        "application/json": {"schema": body, "example": {field: example, **USUAL}},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
    }
    return {
        "summary": line,
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": {
            200: {
                "description": "A row for each image in this dialect's form, and `fingerprint` of its space.",
                "content": {"application/json": ANSWER if field == "input" else {}},
            },
            **told(*ERRORS),
        },
    }


def told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses`: every refusal has the same body."""
    return {
        status: {
            "description": f"{ERRORS[status]}. {ERROR}",
            "content": {"application/json": {}},
        }
        for status in statuses
    }


def drift() -> dict[str, Any]:
    """FastAPI's keywords for GET /v1/drift."""
    return {
        "summary": "Whether the images still look like the held-out images of the bundle",
        "description": "One entry of `data` for each model version. `state` is calm, alarm or unknown, "
        "`verdict` says it in words, and `windows` holds figures of the latest 64 to 4,096 images. All of "
        "it is in memory, of the images that this process embedded; a restart begins anew.",
        "openapi_extra": {
            "parameters": [
                {
                    "name": "history",
                    "in": "query",
                    "schema": {"type": "boolean", "default": False},
                    "description": "z of every window since the start, in 256 points at most.",
                }
            ]
        },
        "responses": {401: {"description": "A key is needed."}},
    }

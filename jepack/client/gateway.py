"""What the gateway is asked, and what its answers mean.

Requests go to its Open Inference Protocol in binary: one answer brings both outputs, and files are sent as
they are.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from jepack.client.answers import OUTPUTS, Endpoint, window_of
from jepack.client.failures import BusyError, ImageError, RequestError, UnreachableError
from jepack.client.wire import INPUT, MODEL, Answer, packed, unpacked
from jepack.errors import DataError, ServerError

HEAD = 64 * 1024  # bytes of a body that are not images
HEAD_SIZE = "inference-header-content-length"
MODELS = "/v1/models"


@dataclass(frozen=True)
class Received:
    status: int
    headers: Mapping[str, str]  # names in any case
    body: bytes


def infer_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='@')}/infer"


def request_of(images: Sequence[bytes], outputs: Sequence[str]) -> tuple[dict[str, str], bytes]:
    """Headers and body: JSON, and behind it the images."""
    data = packed(images)
    head = json.dumps({
        "inputs": [{
            "name": INPUT, "datatype": "BYTES", "shape": [len(images), 1],
            "parameters": {"binary_data_size": len(data)},
        }],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }).encode()  # fmt: skip
    return {
        "content-type": "application/octet-stream",
        HEAD_SIZE: str(len(head)),
    }, head + data


def rows_of(answer: Received) -> Answer:
    """Raises ValueError, KeyError or TypeError for what is no such answer."""
    size = int(answer.headers[HEAD_SIZE])
    head, at, rows = json.loads(answer.body[:size]), size, {}
    for told in head["outputs"]:
        count = int(told["parameters"]["binary_data_size"])
        rows[told["name"]] = unpacked(answer.body[at : at + count], told["shape"])
        at += count
    parameters = head.get("parameters", {})
    return Answer(rows, {
        output: str(parameters[name])
        for output in OUTPUTS if (name := f"fingerprint_{output}") in parameters
    } or None)  # fmt: skip


def listed_as(told: dict[str, Any], model: str) -> str:
    """The label that `model` has in the gateway's list, with its version where there are several.

    So one client asks one version, whatever share of callers gets another. Raises ServerError.
    """
    labels = {one["id"]: int(one.get("version", 1)) for one in told["data"] if ":" not in one["id"]}
    names = {label for label in labels if "@" not in label} or set(labels)
    name = next(iter(names)) if model == MODEL and len(names) == 1 else model
    if name not in labels:
        raise ServerError(
            f"there is no model {model!r}, but {', '.join(labels)}. Name one: "
            "Client(url, model=...), or `jepack embed --model`"
        )
    pinned = f"{name}@{labels[name]}"
    return pinned if pinned in labels else name


def endpoint_of(told: dict[str, Any], label: str) -> Endpoint:
    """From what the gateway lists: the bundle first, then each of its outputs."""
    among = [one for one in told["data"] if one["id"].partition(":")[0] == label]
    first, *outputs = among
    return Endpoint(
        bundle=str(first["root"]),
        fingerprints={one["output"]: one["fingerprint"] for one in outputs},
        dimensions={one["output"]: int(one["dimensions"]) for one in outputs},
        max_batch_size=int(first["max_batch_size"]),
        default_output=first["output"],
        promises=tuple(first["promises"]),
        window=window_of(json.dumps(first["window"])),
        crop_pct=float(first.get("crop_pct", 1.0)),
        crop_mode=str(first.get("crop_mode", "center")),
        notes=tuple(first["notes"]),
        version=int(first.get("version", 1)),
        max_bytes=int(first["max_body_bytes"]) - HEAD,
        probes={
            str(one["name"]): tuple(map(str, one["classes"])) for one in first.get("probes", ())
        },
    )


def failure_of(answer: Received, url: str) -> DataError | ServerError:
    """An answer other than 200 as an error of ours: what happened at `url`, and what to do."""
    try:
        error = json.loads(answer.body)["error"]
        code, text, param = error["code"], str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        code, text, param = "", f"HTTP status {answer.status}", None
    status, after_s = answer.status, retry_after_s(answer.headers.get("retry-after"))
    item = re.fullmatch(r"image\[(\d+)\]", str(param))
    if status in (400, 413) and item is not None:
        return ImageError(text.removeprefix(f"{param}: "), int(item[1]))
    if status == 413:
        return ImageError(f"too large for this gateway ({text})")
    if status == 429 or code == "overloaded" or (status == 503 and code == "deadline"):
        return BusyError(
            f"{url}: overloaded ({text}). Send less at once, or add servers.",
            again=True,
            after_s=after_s,
        )
    if status == 504:
        return BusyError(f"{url}: no answer in time ({text}). Is the server busy?")
    if status in (502, 503):
        return UnreachableError(f"{url}: not ready ({text})", after_s=after_s)
    if status in (401, 403):
        return ServerError(
            f"{url}: refused ({text}). A key is given by Client(..., key=...), or by JEPACK_KEY in the "
            "environment"
        )
    if not code or status == 404:
        return no_gateway(url, text)
    return RequestError(f"{url}: the server failed ({code}: {text})")


def retry_after_s(told: str | None) -> float | None:
    """Seconds, or a date as HTTP writes it; None for neither."""
    if told is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", told):
        return float(told)
    try:
        return max(parsedate_to_datetime(told).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def no_gateway(url: str, told: str) -> ServerError:
    return ServerError(
        f"{url}: this is no gateway of a jepack bundle ({told}). An address of gRPC is written host:port"
    )

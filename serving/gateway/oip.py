"""The Open Inference Protocol: `/v2/models/NAME/infer` as KServe's and Triton's HTTP clients speak it.

One input "image" of BYTES, shape [N] or [N, 1]: base64 in JSON with the parameter content_type "base64", or
Triton's binary extension, in which JSON comes first and every file after its length of four bytes.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import APIRouter

from jepack import __version__
from jepack.bundle import Probe
from jepack.client.wire import PROBE
from serving.gateway.answers import Answered, Written, shaped
from serving.gateway.errors import Refusal, invalid
from serving.gateway.fleet import Fleet
from serving.gateway.limits import Limits
from serving.gateway.options import Offer
from serving.gateway.parse import Dialect, Found, Received, json_object

NAME = "embed"
INPUT = "image"
HEAD_SIZE = "inference-header-content-length"
OUTPUTS = ("embedding", "projection")
STRANGE = "atypicality"  # asked for as a parameter, as an output [N, 1], or by its header
STRANGE_HEADER = "x-jepack-atypicality"  # of the answer: a number an image, commas between
PROBE_HEADER = "x-jepack-probe"


def read(received: Received, limits: Limits) -> Found:
    """Images, as bytes where they came in binary, and the JSON. Raises Refusal."""
    told = received.headers.get(HEAD_SIZE)
    size = (
        len(received.body)
        if told is None
        else int(told)
        if told.isascii() and told.isdigit()
        else -1
    )
    if not 0 <= size <= len(received.body):
        raise invalid("invalid_header", f"{told!r:.40} of {len(received.body)} bytes", HEAD_SIZE)
    try:
        body, rest = json_object(received.body[:size]), received.body[size:]
    except Refusal as refusal:
        if told is not None or refusal.code != "invalid_json":
            raise
        raise invalid(
            "invalid_json",
            f"{refusal.message}. Of the binary extension the header {HEAD_SIZE} tells how long the JSON is "
            "that comes first; a file as it is, is taken by /v1/embeddings",
        ) from None
    note_beside(body, told_by_header=PROBE_HEADER in received.headers)
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise invalid("invalid_inputs", f'one input named "{INPUT}" is needed', "inputs")
    given = inputs[0]
    if (given.get("name"), given.get("datatype")) != (INPUT, "BYTES"):
        found = f"{given.get('name')!r:.40} of {given.get('datatype')!r:.20}"
        raise invalid(
            "invalid_inputs",
            f'an input named "{INPUT}" of BYTES is needed, found {found}',
            "inputs[0]",
        )
    if (binary := parameters_of(given).get("binary_data_size")) is not None:
        if binary != len(rest):
            raise invalid(
                "invalid_inputs",
                f"binary_data_size {binary!r:.20}, {len(rest)} bytes came",
                "inputs[0]",
            )
        return binary_values(rest), body
    data = given.get("data")
    if not isinstance(data, list):
        raise invalid("invalid_inputs", "data must be a list", "inputs[0].data")
    flat = [one for part in data for one in (part if isinstance(part, list) else [part])]
    return [(f"inputs[0].data[{number}]", one) for number, one in enumerate(flat)], body


def reader(label: str) -> Dialect:
    """`read` for a model that the address names."""

    def dialect(received: Received, limits: Limits) -> Found:
        values, body = read(received, limits)
        return values, {**body, "model": label}

    return dialect


def label(name: str, version: str) -> str:
    """A model of the address by the names of the gateway; `embed` is the only one, as it is for Triton."""
    return f"{'' if name == NAME else name}{'@' if version else ''}{version}"


def parameters_of(value: dict[str, Any]) -> dict[str, Any]:
    found = value.get("parameters")
    return found if isinstance(found, dict) else {}


def note_beside(body: dict[str, Any], *, told_by_header: bool) -> None:
    """Where this protocol asks for what stands beside the rows, told as the other dialects tell it.

    Who names outputs gets those alone: no probe, unless one is among them, or a parameter or the header asks.
    """
    asked, parameters = body.get("outputs"), parameters_of(body)
    named = (
        [one.get("name") for one in asked if isinstance(one, dict)]
        if isinstance(asked, list)
        else []
    )
    if STRANGE in named:
        body[STRANGE] = True
    elif STRANGE in parameters:
        body[STRANGE] = parameters[STRANGE]
    probes = [str(one).removeprefix(PROBE) for one in named if str(one).startswith(PROBE)]
    if probes:
        body["probe"] = probes
    elif "probe" in parameters:
        body["probe"] = parameters["probe"]
    elif asked and not told_by_header:
        body["probe"] = False


def binary_values(data: bytes) -> list[tuple[str, Any]]:
    values: list[tuple[str, Any]] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise invalid(
                "invalid_inputs", "the binary data ends inside an image", f"image[{len(values)}]"
            )
        values.append((f"image[{len(values)}]", data[at + 4 : at + 4 + size]))
        at += 4 + size
    return values


def wanted(body: dict[str, Any], probes: Iterable[str]) -> list[tuple[str, bool]]:
    """(output, whether in binary) in the order asked for; both where none is named.

    `probes`, which are asked for too, come last unless they are named.
    """
    all_binary = bool(parameters_of(body).get("binary_data_output"))
    asked = body.get("outputs")
    answers = [f"{PROBE}{name}" for name in probes]
    if not asked:
        return [(name, all_binary) for name in (*OUTPUTS, *answers)]
    found: list[tuple[str, bool]] = []
    for number, one in enumerate(asked if isinstance(asked, list) else [asked]):
        name = one.get("name") if isinstance(one, dict) else None
        known = (*OUTPUTS, STRANGE, *answers)
        if name not in known:
            raise invalid(
                "invalid_outputs",
                f"{name!r:.40}; there are {', '.join(known)}",
                f"outputs[{number}]",
            )
        found.append((name, bool(parameters_of(one).get("binary_data", all_binary))))
    named = {name for name, _ in found}
    return found + [(name, all_binary) for name in answers if name not in named]


def answer(answered: Answered) -> Written:
    """JSON, followed by the outputs that were asked for in binary."""
    asked, outputs, blobs = answered.asked, [], []
    whole = replace(asked.options, dimensions=None)  # the metadata tells the shape
    for name, binary in wanted(asked.fields, answered.probes):
        parameters: dict[str, Any] = {}
        if name == STRANGE:
            rows_ND = np.array(answered.atypicality, np.float32).reshape(-1, 1)
        elif name.startswith(PROBE):
            said = answered.probes[name.removeprefix(PROBE)]
            rows_ND, parameters = said.shares_NC.astype(np.float32), about(said.probe)
        else:
            rows_ND = shaped(answered.rows[name], whole)
        told: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(rows_ND.shape)}
        if binary:
            blobs.append(np.ascontiguousarray(rows_ND, "<f4").tobytes())
            parameters = {**parameters, "binary_data_size": len(blobs[-1])}
        if parameters:
            told["parameters"] = parameters
        if not binary:
            told["data"] = rows_ND.reshape(-1).tolist()
        outputs.append(told)
    head = json.dumps({
        "model_name": asked.fields.get("model") or NAME,
        "model_version": str(answered.endpoint.version),
        "id": str(asked.fields.get("id") or answered.request_id),
        "parameters": {f"fingerprint_{k}": v for k, v in answered.endpoint.fingerprints.items()},
        "outputs": outputs,
    }).encode()  # fmt: skip
    headers = {"content-type": "application/json"}
    if answered.atypicality is not None:
        headers[STRANGE_HEADER] = ",".join(f"{p:.6g}" for p in answered.atypicality)
    if blobs:
        headers |= {"content-type": "application/octet-stream", HEAD_SIZE: str(len(head))}
    return head + b"".join(blobs), headers


def about(probe: Probe) -> dict[str, Any]:
    """What the columns of a probe's output are; the protocol's parameters hold no lists. A class may be named
    whose probability is 1 - threshold or more."""
    told: dict[str, Any] = {"classes": json.dumps(probe.classes)}
    if probe.threshold is not None:
        told |= {"error_rate": probe.error_rate, "threshold": probe.threshold}
    return told


def metadata(name: str, versions: Sequence[int], offer: Offer) -> dict[str, Any]:
    endpoint = offer.endpoint
    probes = [
        {"name": f"{PROBE}{one.name}", "datatype": "FP32", "shape": [-1, len(one.classes)],
         "parameters": about(one)}
        for one in offer.probes.values()
    ]  # fmt: skip
    return {
        "name": name,
        "versions": [str(one) for one in versions],
        "platform": "jepack",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1, 1]}],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, dims]}
            for name, dims in endpoint.dimensions.items()
        ]
        + probes,
    }


def routes(fleet: Fleet[Any], ready: Callable[[], Awaitable[Any]]) -> APIRouter:
    """All of the protocol but inference."""
    router = APIRouter(prefix="/v2", include_in_schema=False)

    @router.get("")
    async def server() -> dict[str, Any]:
        return {"name": "jepack", "version": __version__, "extensions": ["binary_tensor_data"]}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready")
    async def is_ready() -> dict[str, bool]:
        await ready()
        return {"ready": True}

    @router.get("/models/{name}")
    @router.get("/models/{name}/versions/{version}")
    async def model(name: str, version: str = "") -> dict[str, Any]:
        served, place = fleet.find(label(name, version))
        return metadata(name, sorted(fleet.by_name[served]), place.offer)

    @router.get("/models/{name}/ready")
    @router.get("/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str = "") -> dict[str, bool]:
        fleet.find(label(name, version))
        await ready()
        return {"ready": True}

    return router

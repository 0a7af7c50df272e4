"""Rows of embeddings as each dialect's answer. One function a dialect; N images, D numbers each."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.client import Endpoint
from jepack.measures import codes
from serving.gateway.options import COARSE, Options, numbers_of
from serving.gateway.parse import Asked
from serving.gateway.probing import Said

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answered:
    """What the engine gave for a request: rows of the good images, and why the others are not there."""

    asked: Asked
    rows: dict[str, Rows]  # of both outputs, each [N, D]
    good: list[int]  # numbers of the images that the rows belong to
    bad: dict[int, str]  # number of an image: reason
    endpoint: Endpoint
    request_id: str
    atypicality: list[float] | None = None  # of each row; None where it was not asked for
    probes: dict[str, Said] = field(default_factory=dict)  # by name; of all rows

    @property
    def rows_ND(self) -> Rows:
        """Of the output that was asked for, normalised if that was."""
        return shaped(self.rows[self.asked.options.output], self.asked.options)


Written = tuple[bytes, dict[str, str]]  # body and headers
Writer = Callable[[Answered], Written]


def written(rows_ND: Rows, options: Options) -> list[Any]:
    """Each row as a list of numbers, or as base64 of their bytes."""
    if options.numbers == "float":
        values = rows_ND.astype(">f4" if options.big_endian else "<f4")
    else:
        values = coarse(rows_ND, options.numbers)
    if options.encoding == "float":
        return list(values.tolist())
    return [base64.b64encode(row.tobytes()).decode() for row in values]


def coarse(rows_ND: Rows, numbers: str) -> npt.NDArray[Any]:
    """int8, or eight signs a byte: as they are ("ubinary"), or 128 less, as signed bytes ("binary")."""
    if numbers == "int8":
        return codes.int8(rows_ND)
    bits = codes.packed(rows_ND)
    return bits if COARSE[numbers][1] else (bits.astype(np.int16) - 128).astype(np.int8)


def shaped(rows_ND: Rows, options: Options) -> Rows:
    """Cut, then to unit length, each where asked; a row of zeros stays."""
    if options.dimensions:
        rows_ND = codes.cut(rows_ND, options.dimensions)
    if not options.normalize:
        return rows_ND
    length_N1 = np.linalg.norm(rows_ND.astype(np.float64), axis=1, keepdims=True)
    return (rows_ND / np.maximum(length_N1, 1e-30)).astype(np.float32)


def beside(answered: Answered) -> dict[str, Any]:
    """What is ours, beside the dialect's own fields and never instead of them."""
    options, output = answered.asked.options, answered.asked.options.output
    space = answered.endpoint.fingerprints[output]
    told: dict[str, Any] = {
        # Cut rows are a space of their own, which never mixes with another.
        "fingerprint": f"{space}/{options.dimensions}" if options.dimensions else space,
        "version": answered.endpoint.version,
        "output": output,
        "request_id": answered.request_id,
    }
    if answered.atypicality is not None:
        told["atypicality"] = answered.atypicality
    if answered.probes:
        told["probes"] = {name: said.to_json() for name, said in answered.probes.items()}
    if options.skip_bad:
        told["errors"] = [
            {"index": number, "param": answered.asked.params[number], "message": reason}
            for number, reason in answered.bad.items()
        ]
    return told


def as_json(value: dict[str, Any]) -> Written:
    return json.dumps(value, allow_nan=False).encode(), {"content-type": "application/json"}


def data_of(answered: Answered) -> list[dict[str, Any]]:
    rows = written(answered.rows_ND, answered.asked.options)
    return [
        {"object": "embedding", "index": number, "embedding": row}
        for number, row in zip(answered.good, rows, strict=True)
    ]


def openai(answered: Answered) -> Written:
    """Tokens are zero: there is no text."""
    return as_json({
        "object": "list",
        "data": data_of(answered),
        "model": answered.endpoint.bundle,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
        **beside(answered),
    })  # fmt: skip


def cohere(answered: Answered) -> Written:
    asked = {"embedding_types": answered.asked.fields.get("embedding_types")}
    kinds = [kind for _, kind in numbers_of(asked)] or ["float"]
    options = answered.asked.options
    by_kind = {}
    for kind in dict.fromkeys(kinds):
        numbers, encoding = (kind, "float") if kind in COARSE else ("float", kind)
        as_kind = replace(options, numbers=numbers, encoding=encoding.replace("32", ""))
        by_kind[kind] = written(answered.rows_ND, as_kind)
    return as_json({
        "id": answered.request_id,
        "response_type": "embeddings_by_type",
        "embeddings": by_kind,
        "texts": [],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"images": len(answered.good)}},
        **beside(answered),
    })  # fmt: skip


def voyage(answered: Answered) -> Written:
    """Its client wants all four counts."""
    usage = {"text_tokens": 0, "image_pixels": answered.asked.pixels, "video_pixels": 0,
             "total_tokens": 0}  # fmt: skip
    return as_json({
        "object": "list",
        "data": data_of(answered),
        "model": answered.endpoint.bundle,
        "usage": usage,
        **beside(answered),
    })  # fmt: skip


def weaviate(answered: Answered) -> Written:
    row = answered.rows_ND[0].tolist()
    return as_json({
        "id": answered.asked.fields.get("id"), "vector": row, "dim": len(row), **beside(answered),
    })  # fmt: skip

"""ONNX graphs, read as protobuf: the server's environment has onnxruntime but not onnx."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
# Where tensors and operator sets hide: {message: {field: message inside}}, from onnx.proto.
ONNX_FIELDS = {
    "model": {7: "graph", 8: "opset", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


def onnx_problems(path: Path) -> list[str]:
    """External data (a path that the runtime would open) and operators of unknown makers."""
    problems = []
    try:
        with path.open("rb") as stream:
            # Not closed by hand: the views of an unsound file may outlive the error about it.
            view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        for kind, value in onnx_facts(view, "model", 0):
            if kind == "external":
                problems.append(f"{path.name}: tensor {value!r} lies in another file")
            elif value not in ONNX_DOMAINS:
                problems.append(f"{path.name}: needs operators of {value!r}")
    except (ValueError, IndexError) as error:
        return [f"{path.name}: not an ONNX file ({error})"]
    return problems[:5]


def onnx_facts(view: memoryview, message: str, depth: int) -> Iterator[tuple[str, str]]:
    """("external", tensor name) and ("domain", operator set) of everything inside."""
    if depth > 32:
        raise ValueError("nested too deeply")
    name, external = "", False
    for field, value in protobuf_fields(view):
        inner = ONNX_FIELDS.get(message, {}).get(field)
        if inner and isinstance(value, memoryview):
            yield from onnx_facts(value, inner, depth + 1)
        elif message == "opset" and field == 1 and isinstance(value, memoryview):
            yield "domain", bytes(value).decode("utf-8", "replace")
        elif message == "tensor" and field == 8 and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8", "replace")
        elif message == "tensor" and (field == 13 or (field == 14 and value == 1)):
            external = True
    if external:
        yield "external", name


def protobuf_fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message; bytes come as views, fixed-width numbers as 0."""
    at = 0
    while at < len(view):
        key, at = varint(view, at)
        wire = key & 7
        if wire == 0:
            value, at = varint(view, at)
            yield key >> 3, value
        elif wire == 2:
            size, at = varint(view, at)
            if at + size > len(view):
                raise ValueError("truncated")
            yield key >> 3, view[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            yield key >> 3, 0
        else:
            raise ValueError(f"wire type {wire}")


def varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")

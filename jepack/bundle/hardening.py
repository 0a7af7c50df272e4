"""What a hostile or damaged file may hold that the libraries' own readers accept. numpy and safetensors only.

Each check gives the problems it found, a sentence each. Hashes come first (bundle.py): these checks are
for a bundle whose manifest agrees with its files and is wrong all the same.
"""

from __future__ import annotations

import json
import math
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from jepack.bundle.rules import (
    PREPROCESSING,
    config_problems,
    loader_problems,
    shown,
    table_problems,
)

MAX_HEADER = 16 * 1024 * 1024  # bytes; a ViT-g needs 0.1 MB
MAX_TENSORS = 20_000
MAX_FILES = 10_000
MAX_JSON = 64 * 1024 * 1024  # bytes
MAX_GOLDEN = 4096  # images
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
SIZES |= {"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
# Bits of the exponent: all ones mean NaN or infinity.
EXPONENTS = {
    "F64": ("<u8", 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
BLOCK = 1 << 22  # elements looked at at once
ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads: two values under one name mean that two readers may see two files."""
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{', '.join(twice[:3])} named twice")
    return found


def read_json(path: Path) -> Any:
    """The value of a JSON file, read strictly. Raises ValueError saying what is wrong with it."""
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError("not a plain file")
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path.stat().st_size} bytes, at most {MAX_JSON}")
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def manifest_problems(manifest: dict[str, Any], outputs: tuple[str, ...]) -> list[str]:
    """Entries of the wrong kind, and file names that lead out of the bundle."""
    files = manifest["files"]
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        return [f"manifest.json: files must be a table of at most {MAX_FILES} names"]
    problems = []
    for name, entry in files.items():
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            problems.append(f"manifest.json: {name!r} is not a path inside the bundle")
        size, digest = (
            (entry.get(k) for k in ("bytes", "sha256")) if isinstance(entry, dict) else (0, 0)
        )
        if type(size) is not int or not isinstance(digest, str) or len(digest) != 64:
            problems.append(f"manifest.json: {name!r} needs bytes and a SHA-256")
    dimensions = manifest["dimensions"]
    for output in outputs:
        value = dimensions.get(output) if isinstance(dimensions, dict) else None
        if type(value) is not int or not 0 < value <= 65_536:
            problems.append(
                f"manifest.json: the dimension of {output} is {value!r}, not in 1..65536"
            )
    default = manifest.get("default_output", outputs[0])
    if default not in outputs:
        problems.append(
            f"manifest.json: default_output is {default!r}, must be {' or '.join(outputs)}"
        )
    promises = manifest.get("promises") or {}
    if not isinstance(promises, dict) or any(type(kept) is not bool for kept in promises.values()):
        problems.append("manifest.json: promises must be a table of true and false")
    if not isinstance(manifest["fingerprints"], dict):
        problems.append("manifest.json: fingerprints must be a table")
    if not isinstance(manifest["name"], str):
        problems.append(f"manifest.json: the name is {shown(manifest['name'])}, not text")
    for part in ("provenance", "gate", "card", "retrieval"):
        if not isinstance(manifest.get(part) or {}, dict):
            problems.append(f"manifest.json: {part} must be a table")
    gate = manifest.get("gate")
    if isinstance(gate, dict) and not isinstance(gate.get("forced_files") or {}, dict):
        problems.append("manifest.json: gate.forced_files must be a table")
    look = table_problems("preprocessing", manifest["preprocessing"], PREPROCESSING)
    return problems + [f"manifest.json: {problem}" for problem in look]


def safetensors_problems(path: Path) -> list[str]:
    """Duplicate names, absurd headers, tensors outside the file or over each other, NaN."""
    if path.stat().st_size < 8:
        return [f"{path.name}: {path.stat().st_size} bytes, too short for a safetensors file"]
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            start, tensors = safetensors_header(data)
        except ValueError as error:
            return [f"{path.name}: {error}"]
        problems, end = [], 0
        for name, (kind, shape, begin, stop) in sorted(
            tensors.items(), key=lambda item: item[1][2]
        ):
            want = math.prod(shape) * SIZES[kind]
            if begin != end or stop - begin != want or start + stop > len(data):
                return [
                    f"{path.name}: {name!r} takes bytes {begin}..{stop} of {len(data) - start}, "
                    f"should take {want} from {end}: truncated or forged"
                ]
            end = stop
            bad = not_finite(data, kind, start + begin, want)
            if bad:
                problems.append(
                    f"{path.name}: {name!r} holds {bad} values that are NaN or infinite"
                )
        if start + end != len(data):
            problems.append(f"{path.name}: {len(data) - start - end} bytes belong to no tensor")
    return problems


def shapes_in(path: Path) -> dict[str, list[int]]:
    """Names and shapes of a safetensors file, by its header. Raises ValueError saying what is wrong."""
    if path.stat().st_size < 8:
        raise ValueError("too short for a safetensors file")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _, tensors = safetensors_header(data)
    return {name: entry[1] for name, entry in tensors.items()}


def misfit(found: Mapping[str, list[int]], wanted: Mapping[str, list[int]]) -> str | None:
    """How many tensors are missing, unknown or of another shape than `wanted`, and the first of them."""
    problems = [f"{shown(name)} is missing" for name in wanted if name not in found]
    problems += [f"{shown(name)} has no place there" for name in found if name not in wanted]
    problems += [
        f"{shown(name)} is {found[name]}, should be {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    return f"{len(problems)} problems, first: {problems[0]}" if problems else None


def projector_problems(path: Path, config: dict[str, Any]) -> list[str]:
    """Whether the projector's file holds the tensors that config.json's sizes mean (encoder.Projector)."""
    head = config["jepack"]["projector"]
    wanted: dict[str, list[int]] = {}
    width, hidden, out = head["in_features"], head["hidden"], head["out_features"]
    last = 3 * (head["layers"] - 1)
    for place in range(0, last, 3):  # linear, BatchNorm, ReLU
        wanted[f"{place}.weight"] = [hidden, width]
        for name in ("weight", "bias", "running_mean", "running_var"):
            wanted[f"{place + 1}.{name}"] = [hidden]
        wanted[f"{place + 1}.num_batches_tracked"] = []
        width = hidden
    wanted |= {f"{last}.weight": [out, width], f"{last}.bias": [out]}
    wanted |= {"calibration.mean": [out], "calibration.matrix": [out, out]}
    try:
        problem = misfit(shapes_in(path), wanted)
    except ValueError as error:
        return [f"{path.name}: {error}"]
    return [f"{path.name}: not the projector that config.json names ({problem})"] if problem else []


Entry = tuple[str, list[int], int, int]  # dtype, shape, first byte, byte after the last


def safetensors_header(data: Any) -> tuple[int, dict[str, Entry]]:
    """(where the tensors' bytes start, the tensors). Raises ValueError saying what is wrong."""
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER or size + 8 > len(data):
        raise ValueError(f"its header claims {size} bytes (file {len(data)}, limit {MAX_HEADER})")
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"its header is not sound JSON ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not a table of tensors")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or any(type(note) is not str for note in notes.values()):
        raise ValueError("its header's __metadata__ is not a table of texts")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"{len(header)} tensors (at most {MAX_TENSORS})")
    tensors = {}
    for name, entry in header.items():
        try:
            kind, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{name!r} lacks dtype, shape or data_offsets") from None
        numbers = [*shape, begin, stop] if isinstance(shape, list) else [-1]
        known = isinstance(kind, str) and kind in SIZES
        if not known or any(type(n) is not int or n < 0 for n in numbers) or len(shape) > 8:
            raise ValueError(f"{name!r} has dtype {shown(kind)} and shape {shown(shape)}")
        tensors[name] = (kind, shape, begin, stop)
    return 8 + size, tensors


def not_finite(data: Any, kind: str, start: int, size: int) -> int:
    """How many numbers are NaN or infinite."""
    if kind not in EXPONENTS:
        return 0
    dtype, mask = EXPONENTS[kind]
    count, width, bad = size // SIZES[kind], SIZES[kind], 0
    for first in range(0, count, BLOCK):
        block = data[start + first * width : start + min(first + BLOCK, count) * width]
        bits = np.frombuffer(block, dtype)
        bad += int((bits & bits.dtype.type(mask) == mask).sum())
    return bad


def onnx_problems(path: Path) -> list[str]:
    """External data (a path that the runtime would open) and operators of unknown makers.

    Reads the protobuf itself: the server's environment has onnxruntime but not onnx.
    """
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


def json_problems(folder: Path, name: str, manifest: dict[str, Any]) -> list[str]:
    """JSON that two readers may read differently, or that leads a loader out of the bundle."""
    try:
        value = read_json(folder / name)
    except ValueError as error:
        return [f"{name}: not sound JSON ({error})"]
    if name == "config.json":
        return config_problems(value, manifest["dimensions"])
    return loader_problems(name, value)


def golden_problems(path: Path, manifest: dict[str, Any], outputs: tuple[str, ...]) -> list[str]:
    """Golden tensors that are missing, unknown, or of another shape than the manifest says."""
    try:
        golden = load_file(path)
    except Exception as error:  # safetensors raises a wide family for kinds that numpy lacks
        return [f"golden.safetensors: cannot be read ({error or type(error).__name__})"]
    if set(golden) != {"images", *outputs}:
        found = ", ".join(map(shown, sorted(golden)[:5])) or "nothing"
        return [f"golden.safetensors: holds {found}, needs images, {' and '.join(outputs)}"]
    look, images, problems = manifest["preprocessing"], golden["images"], []
    shape = (look["size"], look["size"], look["channels"])
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        found = f"{images.dtype} {images.shape}"
        return [f"golden.safetensors: images are {found}, not uint8 [N, {shape}]"]
    if not 0 < len(images) <= MAX_GOLDEN:
        return [f"golden.safetensors: {len(images)} images, must be 1 to {MAX_GOLDEN}"]
    for output in outputs:
        want, value = (len(images), manifest["dimensions"][output]), golden[output]
        if value.shape != want:
            problems.append(f"golden.safetensors: {output} is {value.shape}, not {want}")
        elif value.dtype.kind != "f":
            problems.append(f"golden.safetensors: {output} is {value.dtype}, not floats")
    return problems


# Where tensors and operator sets hide: {message: {field: message inside}}, from onnx.proto.
ONNX_FIELDS = {
    "model": {7: "graph", 8: "opset", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


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

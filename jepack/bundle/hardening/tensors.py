"""Tensors on disk: safetensors files, and the shapes that other files mean them to have."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from jepack.bundle.hardening.json_files import unique_keys
from jepack.bundle.values import shown

MAX_HEADER = 16 * 1024 * 1024  # bytes; a ViT-g needs 0.1 MB
MAX_TENSORS = 20_000
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
Entry = tuple[str, list[int], int, int]  # dtype, shape, first byte, byte after the last


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


def misfit(shapes: Mapping[str, list[int]], wanted: Mapping[str, list[int]]) -> str | None:
    """How many tensors are missing, unknown or of another shape than `wanted`, and the first of them."""
    problems = [f"{shown(name)} is missing" for name in wanted if name not in shapes]
    problems += [f"{shown(name)} has no place there" for name in shapes if name not in wanted]
    problems += [
        f"{shown(name)} is {shapes[name]}, should be {shape}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
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


def golden_problems(path: Path, manifest: dict[str, Any], outputs: tuple[str, ...]) -> list[str]:
    """Golden tensors that are missing, unknown, or of another shape than the manifest says."""
    try:
        golden = load_file(path)
    except Exception as error:  # safetensors raises a wide family for kinds that numpy lacks
        return [f"golden.safetensors: cannot be read ({error or type(error).__name__})"]
    if set(golden) != {"images", *outputs}:
        names = ", ".join(map(shown, sorted(golden)[:5])) or "nothing"
        return [f"golden.safetensors: holds {names}, needs images, {' and '.join(outputs)}"]
    preprocessing, images, problems = manifest["preprocessing"], golden["images"], []
    size = preprocessing["size"]
    shape = (size, size, preprocessing["channels"])
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        kind = f"{images.dtype} {images.shape}"
        return [f"golden.safetensors: images are {kind}, not uint8 [N, {shape}]"]
    if not 0 < len(images) <= MAX_GOLDEN:
        return [f"golden.safetensors: {len(images)} images, must be 1 to {MAX_GOLDEN}"]
    for output in outputs:
        want, value = (len(images), manifest["dimensions"][output]), golden[output]
        if value.shape != want:
            problems.append(f"golden.safetensors: {output} is {value.shape}, not {want}")
        elif value.dtype.kind != "f":
            problems.append(f"golden.safetensors: {output} is {value.dtype}, not floats")
    return problems

"""Triton's model configuration as dataclasses, and the one writer of its text, config.pbtxt.

Classes and fields have the names of Triton's own messages (model_config.proto); only those that jepack uses
are here. Tests read what is written with Triton's protobuf, which knows the names and the types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any


class DataType(Enum):
    STRING = "TYPE_STRING"
    UINT8 = "TYPE_UINT8"
    FP32 = "TYPE_FP32"


class Kind(Enum):
    AUTO = "KIND_AUTO"  # the GPU where there is one
    CPU = "KIND_CPU"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or an output; `dims` without the batch."""

    name: str
    data_type: DataType
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class InstanceGroup:
    count: int
    kind: Kind = Kind.AUTO


@dataclass(frozen=True, kw_only=True)
class QueuePolicy:
    """A request says how long it may wait; what has waited longer is not computed. Triton takes only what is
    below the default, so there is one."""

    max_queue_size: int  # requests; more are refused at once
    default_timeout_microseconds: int = 600_000_000
    allow_timeout_override: bool = True


@dataclass(frozen=True, kw_only=True)
class DynamicBatching:
    """No preferred_batch_size: it only delays unless each size has its own TensorRT profile."""

    max_queue_delay_microseconds: int = 0
    default_queue_policy: QueuePolicy


@dataclass(frozen=True, kw_only=True)
class WarmupInput:
    """Zeros, or the bytes of a file of the model's folder `warmup`."""

    data_type: DataType
    dims: tuple[int, ...]
    zero_data: bool = False
    input_data_file: str = ""


@dataclass(frozen=True, kw_only=True)
class Warmup:
    name: str
    batch_size: int
    inputs: Mapping[str, WarmupInput]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A model of an ensemble: its inputs and outputs by the ensemble's names for them."""

    model_name: str
    model_version: int = -1  # the latest
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    step: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    name: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Accelerators:
    gpu_execution_accelerator: tuple[Accelerator, ...]


@dataclass(frozen=True, kw_only=True)
class Optimization:
    execution_accelerators: Accelerators


@dataclass(frozen=True, kw_only=True)
class Parameter:
    string_value: str


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    name: str
    backend: str = ""
    platform: str = ""
    default_model_filename: str = ""
    max_batch_size: int
    input: tuple[Tensor, ...]
    output: tuple[Tensor, ...]
    instance_group: tuple[InstanceGroup, ...] = ()
    dynamic_batching: DynamicBatching | None = None
    ensemble_scheduling: Ensemble | None = None
    model_warmup: tuple[Warmup, ...] = ()
    optimization: Optimization | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


def write(config: ModelConfig, comment: str = "") -> str:
    """The text of a config.pbtxt, `comment` above it."""
    head = [f"# {line}" for line in comment.splitlines()]
    return "\n".join([*head, *lines(config), ""])


def lines(message: Any) -> Iterator[str]:
    """A message's fields in their order; those that have protobuf's default are left out, as it does."""
    for name in (one.name for one in fields(message)):
        value = getattr(message, name)
        if value in (None, "", 0, ()):
            continue
        if isinstance(value, Mapping):
            for key, one in value.items():
                yield from block(name, [f"key: {scalar(key)}", *entry("value", one)])
        elif isinstance(value, tuple) and is_dataclass(value[0]):
            for one in value:
                yield from entry(name, one)
        elif isinstance(value, tuple):
            yield f"{name}: [{', '.join(map(scalar, value))}]"
        else:
            yield from entry(name, value)


def entry(name: str, value: Any) -> list[str]:
    if is_dataclass(value):
        return block(name, list(lines(value)))
    return [f"{name}: {scalar(value)}"]


def block(name: str, inner: list[str], width: int = 100) -> list[str]:
    """On one line where it fits."""
    short = " ".join([name, "{", *inner, "}"])
    if len(short) <= width:
        return [short]
    return [f"{name} {{", *(f"  {line}" for line in inner), "}"]


def scalar(value: Any) -> str:
    """A word of protobuf's text format; its strings take JSON's escapes."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)

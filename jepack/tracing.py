"""Turning an encoder's graph into a program, and saying in a sentence why torch could not. torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jepack.errors import ArtifactError


def exported(graph: nn.Module, images: Tensor) -> Any:
    """torch.export's program of an EncoderGraph with a free batch size; `images` are two or more,
    since it takes an example batch of 1 for a constant."""
    batch = {"pixel_values": {0: torch.export.Dim("batch_size")}}
    return torch.export.export(graph, (images[:2],), dynamic_shapes=batch)


@contextmanager
def attention_written_out(graph: nn.Module) -> Iterator[bool]:
    """timm's attention without the fused operator while the block runs; yields whether there was any."""
    fused: list[Any] = [m for m in graph.modules() if getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield bool(fused)
    finally:
        for module in fused:
            module.fused_attn = True


def untraceable(what: str, error: Exception) -> ArtifactError:
    """What torch could not do, in a sentence: its own text is a report of a hundred lines."""
    return ArtifactError(f"torch cannot write this encoder as {what} ({reason_of(error)})")


def reason_of(error: Exception) -> str:
    """The first cause that torch's report names, and the operator it stands at."""
    text = str(error)
    summary = text.partition("## Exception summary")[2] or text
    lines = [line.strip() for line in summary.splitlines() if line.strip()]
    first = re.sub(r"^<class '[\w.]+'>: ", "", lines[0]) if lines else type(error).__name__
    operator = re.search(r"torch\.ops\.([\w.]+)", text)
    return (f"{operator[1]}: " if operator else "") + first[:200].rstrip(".")

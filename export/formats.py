"""The formats: how each is written and run. One graph for all, see jepack.encoder.EncoderGraph."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from export.extras import WithExtras
from export.measure import Engine, torch_engine
from export.providers import onnx_engine
from jepack.bundle import ONNX_NAMES
from jepack.encoder import EncoderGraph
from jepack.errors import ArtifactError
from jepack.tracing import attention_written_out, exported, untraceable

OPSET = 20  # what torch 2.14 writes without conversion; onnxruntime >= 1.17 and TensorRT 10 read it
PROTOBUF_LIMIT = 2_000_000_000  # bytes; a larger graph would need external data


@dataclass
class Source:
    """What a writer may use: the graph, images of the domain (uint8 NHWC), a folder to work in."""

    graph: EncoderGraph
    images: npt.NDArray[np.uint8]  # to calibrate int8 ranges on: none of those that judge it
    folder: Path
    extras: WithExtras | None = None  # further outputs of the ONNX formats

    @property
    def onnx_model(self) -> Any:
        """The float32 ONNX graph; other ONNX formats start from it. Tried once, for all of them."""
        model = self._onnx_model
        if isinstance(model, ArtifactError):
            raise model
        return model

    @cached_property
    def _onnx_model(self) -> Any:
        names = [*ONNX_NAMES.values(), *(self.extras.names if self.extras else ())]
        try:
            return trace_onnx(self.extras or self.graph, self.images, names)
        except ArtifactError as error:
            return error


@dataclass(frozen=True, kw_only=True)
class Format:
    """`write` makes the file and returns facts about it; `engine` opens the file and runs images."""

    name: str
    file: str  # place in the bundle
    write: Callable[[Source, Path], dict[str, Any]]
    engine: Callable[[Path], Engine]
    precision: str = "float32"  # which row of Thresholds.parity judges it
    optional: bool = False  # an optional format that fails its gate is left out, not fatal


def trace_onnx(graph: torch.nn.Module, images: npt.NDArray[np.uint8], names: list[str]) -> Any:
    """The graph as an onnx.ModelProto: input `pixel_values` with a free `batch_size`.

    Where torch's exporter cannot translate its fused attention (more than four axes in Hiera and Twins,
    a view of its output in MaxViT), the same attention is written out as products and a softmax. Raises
    ArtifactError, in one sentence, where that does not help either.
    """
    try:
        program = to_onnx(graph, images, names)
    except Exception as error:  # torch raises a wide family, with tracebacks as their text
        with attention_written_out(graph) as changed:
            if not changed:
                raise untraceable("ONNX", error) from error
            try:
                program = to_onnx(graph, images, names)
            except Exception as second:
                raise untraceable("ONNX", second) from second
    model = program.model_proto
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise ArtifactError(
            f"the ONNX graph takes {model.ByteSize() / 1e9:.1f} GB, ONNX files without external data "
            "end at 2 GB. Export the other formats: --formats torchscript"
        )
    strip_traces(model)
    return model


def to_onnx(graph: torch.nn.Module, images: npt.NDArray[np.uint8], names: list[str]) -> Any:
    program = torch.onnx.export(
        graph,
        # Two images: torch.export takes an example batch of 1 for a constant.
        (torch.from_numpy(images[:2]),),
        dynamo=True,
        input_names=["pixel_values"],
        output_names=names,
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch_size")}},
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return program


def strip_traces(model: Any) -> None:
    """Drop torch's debug notes: they hold this machine's paths and are no part of the graph."""
    graph = model.graph
    for items in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in items:
            del item.metadata_props[:]
            item.doc_string = ""
    del graph.metadata_props[:]


def write_onnx(source: Source, path: Path) -> dict[str, Any]:
    return save_onnx(source.onnx_model, path)


def save_onnx(model: Any, path: Path) -> dict[str, Any]:
    """Check the graph with shape inference, write it, and give its opset and IR version."""
    used = {"", *(node.domain for node in model.graph.node)}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]  # the quantiser lists every domain that onnxruntime knows
    model.opset_import.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": opset, "ir_version": model.ir_version}


def write_fp16(source: Source, path: Path) -> dict[str, Any]:
    from export.reduced import to_float16

    return save_onnx(to_float16(source.onnx_model), path)


def write_int8(source: Source, path: Path) -> dict[str, Any]:
    from export.reduced import to_int8

    model = to_int8(source.onnx_model, source.images, source.folder)
    return {**save_onnx(model, path), "calibration_images": len(source.images)}


@contextmanager
def torchscript_is_deprecated() -> Iterator[None]:
    """torch >= 2.9 warns on every use of torch.jit; users ask for the format, so it stays on offer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=Warning)
        yield


def write_torchscript(source: Source, path: Path) -> dict[str, Any]:
    with torchscript_is_deprecated(), torch.no_grad():
        traced = torch.jit.trace(
            source.graph, torch.from_numpy(source.images[:2]), check_trace=False
        )
        stream = io.BytesIO()  # torch's own writing to a full disk ends the process (SIGABRT)
        torch.jit.save(traced, stream)
    path.write_bytes(stream.getbuffer())
    return {}


def torchscript_engine(path: Path) -> Engine:
    with torchscript_is_deprecated():
        module = torch.jit.load(path, map_location="cpu")
    return torch_engine(module.eval())


def write_pt2(source: Source, path: Path) -> dict[str, Any]:
    program = exported(source.graph, torch.from_numpy(source.images[:2]))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    stream = io.BytesIO()
    torch.export.save(program, stream)
    path.write_bytes(stream.getbuffer())
    return {}


def pt2_engine(path: Path) -> Engine:
    return torch_engine(torch.export.load(path).module())


FORMATS = {
    kind.name: kind
    for kind in (
        Format(name="onnx", file="onnx/model.onnx", write=write_onnx, engine=onnx_engine),
        Format(
            name="torchscript",
            file="torchscript/model.pt",
            write=write_torchscript,
            engine=torchscript_engine,
        ),
        Format(name="pt2", file="model.pt2", write=write_pt2, engine=pt2_engine),
        Format(
            name="fp16",
            file="onnx/model_fp16.onnx",
            write=write_fp16,
            engine=onnx_engine,
            precision="float16",
            optional=True,
        ),
        Format(
            name="int8",
            file="onnx/model_quantized.onnx",
            write=write_int8,
            engine=onnx_engine,
            precision="int8",
            optional=True,
        ),
    )
}

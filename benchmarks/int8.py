"""What int8 keeps of trained encoders, what it gains in speed, and what else was tried.

    jepack quickstart --no-app ...              (or any trained bundles that know their data)
    python -m benchmarks.int8 runs/earth/bundle runs/solar/bundle --threads 1

Each way to quantise is made, compared with PyTorch on held-out images as the gate does, and timed at batch 8
beside the float32 graph, in turn and by processor time: a busy machine lengthens the wall clock only. Then
the other lever: a calibration whose weakest directions are enlarged less, with what that costs in isotropy
of the float32 projection.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import CalibrationMethod
from rich.console import Console
from rich.table import Table

from export.evaluation import Evaluation, divide, find_evaluation, load_some
from export.formats import Source
from export.gates import Thresholds, judge_export
from export.measure import (
    Engine,
    Outputs,
    compare,
    measure_graph,
    run_engine,
    statistic,
)
from export.providers import onnx_engine
from export.reduced import LAYERS, after, before_layers, corrected, prepare, quantise
from export.timing import processor
from jepack import bundle as bundles
from jepack.bundle import ONNX_NAMES, OUTPUTS, Bundle, cosine
from jepack.encoder import Encoder, EncoderGraph, load_encoder
from jepack.files import write_json
from jepack.measures import isotropy
from jepack.sources import record_of

OUT = Path(__file__).parent / "results" / "int8.json"
ROUNDS = 9
FLOORS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # of the mean variance; the first is fit_calibration's own
FITTED = 1024  # images that calibrations are fitted on

Nodes = list[str]


@dataclass(frozen=True)
class Graph:
    """The prepared float32 graph, and groups of its nodes that may stay in float32."""

    model: Any
    stages: list[str]  # timm's names of the stages, as the weights begin

    @property
    def normalisation(self) -> Nodes:
        return before_layers(self.model)

    @property
    def first_layer(self) -> Nodes:
        return [next(node.name for node in self.model.graph.node if node.op_type in LAYERS)]

    def last_stages(self, count: int) -> Nodes:
        """Every node from the weights of the last `count` stages on."""
        start = f"backbone.{self.stages[-count]}."
        weights = (tensor.name for tensor in self.model.graph.initializer)
        read = [
            node for name in weights if name.startswith(start) for node in after(self.model, name)
        ]
        return list(dict.fromkeys(read))

    @property
    def after_layers(self) -> Nodes:
        """What follows the last layer of the backbone: sums, pooling."""
        head = set(after(self.model, ONNX_NAMES["embedding"]))
        nodes = [node for node in self.model.graph.node if node.name not in head]
        last = max(place for place, node in enumerate(nodes) if node.op_type in LAYERS)
        return [node.name for node in nodes[last + 1 :]]

    @property
    def sums(self) -> Nodes:
        return [node.name for node in self.model.graph.node if node.op_type == "Add"]


@dataclass(frozen=True)
class Way:
    """One way to quantise: nodes in float32 beside the projector, options of quantize_static."""

    name: str
    floats: Callable[[Graph], Nodes] = lambda graph: graph.normalisation
    options: dict[str, Any] = field(default_factory=dict)
    correct: bool = False


def percentile(share: float) -> dict[str, Any]:
    method = CalibrationMethod.Percentile
    return {"calibrate_method": method, "extra_options": {"CalibPercentile": share}}


WAYS = (
    Way("all int8, as before", lambda graph: []),
    Way("all int8, last stage float", lambda graph: graph.last_stages(1)),
    Way("normalisation float"),
    Way("+ last stage float", lambda graph: graph.normalisation + graph.last_stages(1)),
    Way("+ last two stages float", lambda graph: graph.normalisation + graph.last_stages(2)),
    Way("+ what follows the last layer float", lambda graph: graph.normalisation + graph.after_layers),
    Way("+ first layer float", lambda graph: graph.normalisation + graph.first_layer),
    Way("+ sums float", lambda graph: graph.normalisation + graph.sums),
    Way("+ one scale per weight", options={"per_channel": False}),
    Way("+ ranges of 99.99 %", options=percentile(99.99)),
    Way("+ ranges of 99.999 %", options=percentile(99.999)),
    Way("+ ranges by entropy", options={"calibrate_method": CalibrationMethod.Entropy}),
    Way("+ weights in 8 bits", options={"reduce_range": False}),
    Way("all int8, corrected", lambda graph: [], correct=True),
    Way("normalisation float, corrected: as shipped", correct=True),
    Way(
        "+ first layer float", lambda graph: graph.normalisation + graph.first_layer, correct=True
    ),
    Way(
        "+ last stage float",
        lambda graph: graph.normalisation + graph.last_stages(1),
        correct=True,
    ),
)  # fmt: skip
SHIPPED = next(way for way in WAYS if way.name.endswith("as shipped"))


@dataclass(frozen=True)
class Subject:
    """A trained encoder and the images that judge its exports."""

    bundle: Bundle
    evaluation: Evaluation
    encoder: Encoder
    graph: EncoderGraph
    truth: Outputs

    @classmethod
    def of(cls, folder: Path, images: int) -> Subject:
        bundle = bundles.load(folder)
        evaluation = find_evaluation(bundle, None, images)
        encoder, calibration = load_encoder(bundle)
        graph = EncoderGraph(encoder, bundle.preprocessing, calibration).eval()
        truth = measure_graph(graph, encoder, evaluation)
        return cls(bundle, evaluation, encoder, graph, truth)

    def judged(self, truth: Outputs, outputs: Outputs) -> dict[str, Any]:
        """The gate's figures, the mean cosine beside them, and whether it passes."""
        parity = compare(truth, outputs, self.evaluation)
        for name in OUTPUTS:
            mean = cosine(getattr(truth, name), getattr(outputs, name)).mean()
            parity[name]["mean_cosine"] = float(mean)
        limits = Thresholds().parity["int8"]
        return {**parity, "refusals": judge_export("int8", parity, limits).refusals}


def ways_of(subject: Subject, work: Path, only: list[str] | None) -> list[dict[str, Any]]:
    """A row per way, and one of the float32 graph."""
    images = subject.evaluation.calibration
    source = Source(subject.graph, images, work)
    prepared = prepare(source.onnx_model, work)
    info = getattr(subject.encoder.backbone, "feature_info", [])
    graph = Graph(onnx.load(prepared), [one["module"] for one in info])
    projector = after(graph.model, ONNX_NAMES["embedding"])
    engines: list[Engine] = [onnx_engine(work / "f32.onnx")]
    rows: list[dict[str, Any]] = [{"way": "float32"}]
    for number, way in enumerate(WAYS):
        if only is not None and not any(word in way.name for word in only):
            continue
        started = time.monotonic()
        floats = list(dict.fromkeys([*way.floats(graph), *projector]))
        model = quantise(prepared, images, floats, **way.options)
        if way.correct:
            model = corrected(model, prepared, images)
        made_s = time.monotonic() - started
        path = work / f"way-{number}.onnx"
        onnx.save(model, path)
        engines.append(onnx_engine(path))
        outputs = run_engine(engines[-1], subject.evaluation.images)
        figures = subject.judged(subject.truth, outputs)
        rows.append({"way": way.name, "corrected": way.correct, "made_s": made_s, **figures})
        if way is SHIPPED:
            rows[-1]["outputs"] = outputs
    for row, milliseconds in zip(rows, time_batch(engines, subject.evaluation.images), strict=True):
        row["ms_batch_8"] = milliseconds
        row["over_float32"] = rows[0]["ms_batch_8"] / milliseconds
    return rows


def time_batch(engines: list[Engine], images: npt.NDArray[np.uint8]) -> list[float]:
    """Milliseconds of processor time for 8 images, the least of some rounds in which the engines take turns.

    On one thread that is the wall clock of a machine that does nothing else.
    """
    feed = np.ascontiguousarray(np.resize(images, (8, *images.shape[1:])))
    best = [float("inf")] * len(engines)
    for engine in engines:
        engine(feed)
    for _ in range(ROUNDS):
        for place, engine in enumerate(engines):
            start = time.process_time()
            engine(feed)
            best[place] = min(best[place], 1e3 * (time.process_time() - start))
    return best


def calibrations_of(subject: Subject, int8: Outputs) -> list[dict[str, Any]]:
    """The shipped int8 under calibrations with other floors, fitted on training images."""
    record = record_of(subject.bundle.manifest)
    recipe = (subject.bundle.manifest.get("provenance") or {}).get("recipe") or {}
    cut = {"tile": recipe.get("tile", 0), "stride": recipe.get("tile_stride", 0)}
    _, others, _ = divide(record.data, record, cut, asked=False)
    images, _ = load_some(others, subject.bundle, FITTED)
    raw = measure_graph(
        subject.graph, subject.encoder, Evaluation(images, 0, "fitted", images)
    ).raw_projection
    rows = []
    for floor in FLOORS:
        calibration = isotropy.fit_calibration(raw, floor=floor)
        graph = EncoderGraph(subject.encoder, subject.bundle.preprocessing, calibration).eval()
        truth, outputs = (projected(graph, side) for side in (subject.truth, int8))
        rows.append(
            {
                "floor": floor,
                "fitted_on": len(images),
                "statistic_float32": statistic(truth.projection[subject.evaluation.judged]),
                **subject.judged(truth, outputs)["projection"],
            }
        )
    return rows


def projected(graph: EncoderGraph, outputs: Outputs) -> Outputs:
    """The same embeddings under the projection of this graph."""
    with torch.inference_mode():
        projection = graph.projector(torch.from_numpy(outputs.embedding)).numpy()
    return Outputs(outputs.embedding, projection, outputs.raw_projection)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", help="comma-separated words of the ways to try")
    parser.add_argument("--images", type=int, default=512, help="most held-out images")
    parser.add_argument("--calibrations", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    only = options.only.split(",") if options.only else None
    console, results = Console(width=150), []
    for folder in options.bundles:
        subject = Subject.of(folder, options.images)
        with TemporaryDirectory(prefix="jepack-int8-") as work:
            ways = ways_of(subject, Path(work), only)
        shipped = [row.pop("outputs") for row in ways if "outputs" in row]
        calibrations = (
            calibrations_of(subject, shipped[0]) if shipped and options.calibrations else []
        )
        held = subject.truth.projection[subject.evaluation.judged]
        found = {
            "encoder": subject.bundle.config()["architecture"],
            "bundle": subject.bundle.name,
            "size_px": subject.bundle.preprocessing.size,
            "steps": (subject.bundle.manifest.get("provenance") or {}).get("steps"),
            "images": subject.evaluation.to_json(),
            "clock": "processor time",
            "ranges_from": len(subject.evaluation.calibration),
            "statistic_float32": statistic(held),
            "ways": ways,
            "calibrations": calibrations,
        }
        show(found, console)
        results.append(found)
        write_json(
            options.out,
            {"processor": processor(), "threads": options.threads, "encoders": results},
        )
    console.print(f"written to {options.out}")


def show(found: dict[str, Any], console: Console) -> None:
    table = Table(
        "way", "embedding: cosine least, mean", "recall@10", "projection: cosine least, mean", "recall@10",
        "T", "ms, batch 8", "over float32", "gate", box=None,
        title=f"{found['bundle']} ({found['encoder']}, {found['size_px']} px), T of float32 "
        f"{found['statistic_float32']:.2f}",
    )  # fmt: skip
    for row in found["ways"]:
        cells = []
        for name in OUTPUTS if "embedding" in row else ():
            one = row[name]
            cells += [
                f"{one['cosine']:.4f}, {one['mean_cosine']:.4f}",
                f"{one['recall_at_10']:.3f}",
            ]
        cells += [f"{row['projection']['statistic']:.2f}"] if cells else [""] * 5
        gate = "" if "refusals" not in row else "left out" if row["refusals"] else "passes"
        speed = (f"{row['ms_batch_8']:.2f}", f"{row['over_float32']:.2f}")
        table.add_row(row["way"], *cells, *speed, gate)
    console.print(table)
    if not found["calibrations"]:
        return
    table = Table(
        "floor of the calibration", "T of float32", "T of int8", "projection: cosine least, mean",
        "recall@10", box=None,
    )  # fmt: skip
    for row in found["calibrations"]:
        table.add_row(
            f"{row['floor']:g}", f"{row['statistic_float32']:.2f}", f"{row['statistic']:.2f}",
            f"{row['cosine']:.4f}, {row['mean_cosine']:.4f}", f"{row['recall_at_10']:.3f}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()

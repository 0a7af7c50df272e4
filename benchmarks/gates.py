"""Does the export gate tell good encoders from collapsed and corrupted ones? A confusion table.

Real encoders are trained with the training stage on scikit-learn's handwritten digits (or --data), left
undertrained, collapsed by training without SIGReg, or spoilt by surgery on their weights, and each goes
through the gate as `jepack export` would send it.

    python -m benchmarks.gates            (some 10 minutes on two cores; runs/gates keeps the encoders)
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import nn

from export.evaluation import find_evaluation
from export.gates import Thresholds, Verdict, judge_export, judge_weights
from export.measure import compare, measure_graph
from export.run import judge_encoder
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.encoder import Encoder, EncoderGraph, encoder_files, load_encoder
from jepack.errors import ArtifactError
from jepack.files import write_json
from jepack.measures import isotropy
from training.settings import TrainConfig
from training.train import train

OUT = Path(__file__).parent / "results" / "gates.json"
Surgery = Callable[[Encoder], None]
SMALL = TrainConfig(
    size=32, local_views=0, global_views=2, images_per_step=128, epochs=8, slices=256,
    projector_hidden=256, precision="fp32", ema_decay=0.0, warmup_fraction=0.1,
    evaluate_epochs=100, checkpoint_minutes=60,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One encoder and what the gate should say of it: pass, warn or refuse."""

    name: str
    kind: str  # good, undertrained, withered (collapsed while training), collapsed, corrupted
    make: Callable[[], tuple[Verdict, dict[str, Any]]]

    @property
    def expected(self) -> str:
        # A projection that shrank to a point while training looks like one that never left it.
        return {"good": "pass", "undertrained": "warn", "withered": "warn"}.get(self.kind, "refuse")


class Bench:
    """The trained encoders, made once and kept below `folder`."""

    def __init__(self, folder: Path, data: Path, device: str | None) -> None:
        self.folder, self.data, self.device = folder, data, device

    def bundle(self, name: str, **changes: Any) -> Bundle:
        """Train (or find) an encoder with SMALL, changed."""
        out = self.folder / name
        if not (out / "bundle" / "manifest.json").is_file():
            train(
                replace(SMALL, **changes),
                self.data,
                out,
                device=self.device,
                cache_root=self.folder,
            )
        return bundles.load(out / "bundle")

    def judged(
        self, bundle: Bundle, encoder: Encoder | None = None
    ) -> tuple[Verdict, dict[str, Any]]:
        """The encoder gate on a bundle; `encoder` replaces the bundle's weights, the golden file stays."""
        loaded, calibration = load_encoder(bundle)
        evaluation = find_evaluation(bundle, None, 512)
        encoder = encoder or loaded
        graph = EncoderGraph(encoder, bundle.preprocessing, calibration).eval()
        verdict, reports = judge_encoder(
            bundle, measure_graph(graph, encoder, evaluation), evaluation, Thresholds()
        )
        verdict += judge_weights(encoder, Thresholds())
        return verdict, {name: figures(report) for name, report in reports.items()}

    def spoilt(self, base: Bundle, surgery: Surgery) -> tuple[Verdict, dict[str, Any]]:
        """The encoder gate on a bundle written after surgery: golden images and calibration agree."""
        encoder, _ = load_encoder(base)
        with torch.no_grad():
            surgery(encoder)
        folder = self.folder / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            return self.judged(rewrite(base, encoder, folder))
        except ArtifactError as error:  # the bundle itself is unsound: it does not even load
            return Verdict([str(error)]), {}

    def altered(self, base: Bundle, surgery: Surgery) -> tuple[Verdict, dict[str, Any]]:
        """The encoder gate on weights changed after the bundle was written."""
        encoder, _ = load_encoder(base)
        with torch.no_grad():
            surgery(encoder)
        return self.judged(base, encoder)

    def distorted(self, base: Bundle, surgery: Surgery) -> tuple[Verdict, dict[str, Any]]:
        """The export gate on an export whose graph differs from PyTorch's by the surgery."""
        encoder, calibration = load_encoder(base)
        evaluation = find_evaluation(base, None, 512)
        graph = EncoderGraph(encoder, base.preprocessing, calibration).eval()
        truth = measure_graph(graph, encoder, evaluation)
        with torch.no_grad():
            surgery(encoder)
        graph = EncoderGraph(encoder, base.preprocessing, calibration).eval()
        parity = compare(truth, measure_graph(graph, encoder, evaluation), evaluation)
        return judge_export("export", parity, Thresholds().parity["float32"]), {"parity": parity}


def rewrite(base: Bundle, encoder: Encoder, folder: Path) -> Bundle:
    """A bundle of these weights with its own calibration and golden outputs."""
    evaluation = find_evaluation(base, None, 512)
    _, calibration = load_encoder(base)
    graph = EncoderGraph(encoder, base.preprocessing, calibration).eval()
    raw = measure_graph(graph, encoder, evaluation).raw_projection
    if np.isfinite(raw).all():
        calibration = isotropy.fit_calibration(raw)
    graph = EncoderGraph(encoder, base.preprocessing, calibration).eval()
    images = torch.from_numpy(base.golden()["images"])
    with torch.no_grad():
        embedding, projection = (output.contiguous() for output in graph(images))
    architecture = base.config()["architecture"]
    config, backbone, head = encoder_files(
        encoder, calibration, base.preprocessing,
        architecture=architecture, method="lejepa", license="other",
    )  # fmt: skip
    with bundles.writing(folder, base.manifest) as stage:
        write_json(stage / "config.json", config)
        write_json(stage / "isotropy.json", {})
        save_file(backbone, stage / "model.safetensors")
        save_file(head, stage / "projector.safetensors")
        golden = {"images": images, "embedding": embedding, "projection": projection}
        save_file(golden, stage / "golden.safetensors")
    return bundles.load(folder)


def figures(report: isotropy.IsotropyReport) -> dict[str, float]:
    """What the thresholds are about."""
    total = report.variance * report.dimensions
    return {
        "effective_rank": report.effective_rank,
        "top_share": report.spectrum[0] / max(sum(report.spectrum), 1e-300),
        "dead_share": report.dead_dimensions / report.dimensions,
        "variation": float(np.sqrt(total / max(total + report.mean_norm**2, 1e-300))),
        "variance": report.variance,
        "excess": (report.statistic - report.floor) / report.samples,
    }


# Surgery: each changes the weights in place.


def last(encoder: Encoder) -> nn.Linear:
    layer = encoder.projector[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def constant(encoder: Encoder) -> None:
    last(encoder).weight.zero_()


def nearly_constant(encoder: Encoder) -> None:
    last(encoder).weight.mul_(1e-6)
    last(encoder).bias.fill_(1.0)


def half_dead(encoder: Encoder) -> None:
    last(encoder).weight[::2] = 0


def eighth_dead(encoder: Encoder) -> None:
    last(encoder).weight[::8] = 0


def rotated_half(encoder: Encoder) -> None:
    weight = last(encoder).weight
    rotation, _ = torch.linalg.qr(torch.randn(len(weight), len(weight)))
    weight[::2] = 0
    weight.copy_(rotation @ weight)


def rank_one(encoder: Encoder) -> None:
    weight = last(encoder).weight
    weight.copy_(torch.outer(torch.randn(len(weight)), weight[0]))


def one_line_and_noise(encoder: Encoder) -> None:
    weight = last(encoder).weight
    weight.copy_(torch.outer(torch.randn(len(weight)), weight[0]) + 0.02 * weight)


def bottleneck(encoder: Encoder) -> None:
    """All but one hidden unit of the projector dead."""
    for part in encoder.projector:
        if isinstance(part, nn.BatchNorm1d):
            part.weight[1:] = 0
            part.bias[1:] = 0


def constant_backbone(encoder: Encoder) -> None:
    """Every convolution and linear map of the backbone zero: only biases speak."""
    for part in encoder.backbone.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.weight.zero_()


def half_dead_backbone(encoder: Encoder) -> None:
    block = encoder.backbone.layer4[-1]
    for norm in (block.bn2, block.downsample[-1]):
        norm.weight[::2] = 0
        norm.bias[::2] = 0


def not_a_number(encoder: Encoder) -> None:
    first(encoder).weight.view(-1)[0] = float("nan")


def first(encoder: Encoder) -> nn.Conv2d:
    return next(part for part in encoder.backbone.modules() if isinstance(part, nn.Conv2d))


def flipped_exponent(encoder: Encoder) -> None:
    """One bit of one weight: the exponent's highest."""
    bits = last(encoder).weight.view(torch.int32)
    bits[0, 0] ^= 1 << 30


def shuffled_filters(encoder: Encoder) -> None:
    first(encoder).weight.copy_(first(encoder).weight.flip(0))


def reset_statistics(encoder: Encoder) -> None:
    """BatchNorm's running statistics lost, as when a checkpoint is loaded not strictly."""
    for part in encoder.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()


def noise(share: float) -> Surgery:
    def surgery(encoder: Encoder) -> None:
        torch.manual_seed(0)
        for weight in encoder.parameters():
            weight.add_(share * weight.std(correction=0) * torch.randn_like(weight))

    return surgery


def training_mode(encoder: Encoder) -> None:
    """Dropping a projector layer's normalisation: the export of a module left in another mode."""
    for part in encoder.projector:
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.zero_()
            part.running_var.fill_(1)


def cases(bench: Bench) -> list[Case]:
    def trained(kind: str, name: str, **changes: Any) -> Case:
        slug = name.replace(" ", "-").replace(",", "")
        return Case(name, kind, lambda: bench.judged(bench.bundle(slug, **changes)))

    def after(kind: str, name: str, way: Any, surgery: Surgery, base: str = "resnet") -> Case:
        changes = BASES[base]
        return Case(f"{base}: {name}", kind, lambda: way(bench.bundle(base, **changes), surgery))

    few = {"epochs": 0.2}
    return [
        *(trained("good", name, **changes) for name, changes in BASES.items()),
        trained("undertrained", "resnet, 2 steps", encoder="resnet10t", **few),
        trained("undertrained", "convnext, 2 steps", encoder="convnext_atto", **few),
        trained("undertrained", "vit, 2 steps", encoder="vit_tiny_patch16_224", **few),
        trained(
            "withered", "trained without SIGReg", encoder="resnet10t", sigreg_weight=1e-9,
            learning_rate=2e-3, projector_layers=1,
        ),
        *(
            after("collapsed", name, bench.spoilt, surgery, base)
            for base in ("resnet", "vit")
            for name, surgery in {
                "constant projection": constant,
                "nearly constant projection": nearly_constant,
                "half of the projection dead": half_dead,
                "an eighth of the projection dead": eighth_dead,
                "half dead, rotated": rotated_half,
                "rank 1": rank_one,
                "one line and 2 % noise": one_line_and_noise,
                "one hidden unit left": bottleneck,
                "constant backbone": constant_backbone,
            }.items()
        ),
        after("collapsed", "half of the backbone dead", bench.spoilt, half_dead_backbone),
        *(
            after("corrupted", name, way, surgery, base)
            for base in ("resnet", "vit")
            for name, way, surgery in (
                ("a NaN weight", bench.spoilt, not_a_number),
                ("one exponent bit flipped", bench.altered, flipped_exponent),
                ("filters shuffled", bench.altered, shuffled_filters),
                ("5 % noise on the weights", bench.altered, noise(0.05)),
                ("projector's BatchNorm reset", bench.altered, training_mode),
                ("export with 0.5 % noise on the weights", bench.distorted, noise(0.005)),
                ("export with BatchNorm reset", bench.distorted, training_mode),
            )
        ),
        after("corrupted", "BatchNorm statistics lost", bench.altered, reset_statistics),
    ]  # fmt: skip


BASES: dict[str, dict[str, Any]] = {
    "resnet": {"encoder": "resnet10t"},
    "convnext": {"encoder": "convnext_atto"},
    "vit": {"encoder": "vit_tiny_patch16_224"},
    "resnet, 16 dimensions": {"encoder": "resnet10t", "projection_dims": 16},
}


def digits(folder: Path) -> Path:
    """scikit-learn's 1,797 handwritten digits as 32 px PNGs in class folders."""
    from sklearn.datasets import load_digits

    data = load_digits()
    for number, (image, target) in enumerate(zip(data.images, data.target, strict=True)):
        path = folder / str(target) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray((image / 16 * 255).astype(np.uint8))
        pixels.resize((32, 32), Image.Resampling.BICUBIC).save(path)
    return folder


def outcome(verdict: Verdict) -> str:
    return "refuse" if verdict.refusals else "warn" if verdict.warnings else "pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of images; default: digits")
    parser.add_argument("--work", type=Path, default=Path("runs/gates"))
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--device", help="to train on; default: a GPU if any")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.manual_seed(0)
    console = Console()
    data = options.data or options.work / "digits"
    if options.data is None and not data.is_dir():
        digits(data)
    table = Table(
        "encoder", "is", "gate says", "right", "rank", "top", "dead", "variance", "reason"
    )
    rows = []
    for case in cases(Bench(options.work, data, options.device)):
        if options.only not in case.name:
            continue
        with console.status(case.name):
            verdict, measured = case.make()
        said = outcome(verdict)
        raw = measured.get("raw_projection", {})
        reason = (verdict.refusals + verdict.warnings or [""])[0]
        shown = [
            f"{raw[key]:.3g}" if raw else ""
            for key in ("effective_rank", "top_share", "dead_share", "variance")
        ]
        right = said == case.expected
        console.print(f"{case.name}: {said}", "" if right else "[red](wrong)[/]", highlight=False)
        table.add_row(
            case.name, case.kind, said, "yes" if right else "[red]no[/]", *shown, reason[:70]
        )
        rows.append({
            "encoder": case.name, "kind": case.kind, "expected": case.expected, "said": said,
            "reasons": verdict.refusals + verdict.warnings, "measured": measured,
        })  # fmt: skip
    console.print(table)
    right = sum(row["said"] == row["expected"] for row in rows)
    console.print(f"{right} of {len(rows)} classified right; written to {options.out}")
    write_json(options.out, {"cases": rows, "right": right, "thresholds": Thresholds().to_json()})


if __name__ == "__main__":
    main()

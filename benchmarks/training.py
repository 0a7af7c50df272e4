"""One training step: ours, stable-pretraining's LeJEPA, and a plain loop; and time to the same kNN.

    python -m benchmarks.training                              (per step; ten minutes on two cores)
    python -m benchmarks.training --knn 0.83 --minutes 22      (time to a kNN accuracy, solar cells)

Everyone has the same backbone (ViT-Tiny/16), projector, batch and view sizes (2 x 64 px and 4 x 32 px, 3
channels). The contenders take turns in blocks of steps, so read the ratios. The plain loop decodes and
cuts each image with torchvision v2 in two DataLoader workers and computes SIGReg as the formula is
written. stable-pretraining (if it is installed) gets the plain loop's loader, since it leaves loading to
torchvision too, and its own model, loss and SIGReg. Processor seconds count all threads and workers; they
are what a busy machine does not blur.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from jepack.decoding import Preprocessing
from jepack.encoder import Encoder, build_encoder
from jepack.files import write_json
from jepack.sigreg import random_directions, sigreg
from jepack.sources import Source, demo, find_images
from training.commands.probe import read_images
from training.commands.saved_bytes import SavedBytes
from training.data import Split
from training.parallel import Ranks
from training.run import Session, one_step, prepare
from training.settings import TrainConfig, quickstart
from training.views import Prefetcher, preset
from training.watch import features, knn_accuracy

OUT = Path(__file__).parent / "results" / "training.json"
CPU = torch.device("cpu")
MEAN, STD = (0.5,) * 3, (0.25,) * 3
CONFIG = replace(
    quickstart(), encoder="vit_tiny_patch16_224", size=64, local_size=32, global_views=2, local_views=4,
    images_per_step=64, slices=1024, preset="industrial", channels=3, precision="fp32", minutes=None,
    sigreg_weight=0.05, ema_decay=0.0, epochs=100,
)  # fmt: skip
WARM, TIMED = 2, 4  # steps of a block
FOLDS = 10  # of kNN


@dataclass(frozen=True)
class Contender:
    """A way to train: its batches, what it does with one, and what it costs to make one."""

    name: str
    module: nn.Module
    batches: Callable[[], Any]  # context manager of an iterator
    step: Callable[[Any], None]
    views: Callable[[], None]  # one batch, ready for the backbone, in this process
    sigreg: str


class Pictures(Dataset[list[Tensor]]):
    """Decodes a file and cuts its views, as a torchvision tutorial would."""

    def __init__(self, files: list[Path], config: TrainConfig) -> None:
        self.files, self.config = files, config
        look = preset(config.preset, config.view_overrides)
        self.cuts = [self.pipeline(config.size, look.global_scale)] * config.global_views
        self.cuts += [self.pipeline(config.local_size, look.local_scale)] * config.local_views

    def pipeline(self, size: int, scale: tuple[float, float]) -> v2.Compose:
        return v2.Compose([
            v2.RandomResizedCrop(size, scale=scale), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(),
            v2.ColorJitter(0.3, 0.3), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[Tensor]:
        with Image.open(self.files[index]) as image:
            picture = image.convert("RGB")
        return [cut(picture) for cut in self.cuts]

    @contextmanager
    def batches(self) -> Iterator[Iterator[list[Tensor]]]:
        loader = DataLoader(
            self, self.config.images_per_step, shuffle=True, drop_last=True, num_workers=2
        )
        endless = (batch for _ in itertools.count() for batch in loader)
        with closing(endless):
            yield endless

    def one_batch(self) -> None:
        default_collate([self[index] for index in range(self.config.images_per_step)])


def plain_encoder(config: TrainConfig) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(
        config.encoder, channels=3, size=config.size, projection_dims=config.projection_dims,
        hidden=config.projector_hidden, layers=config.projector_layers, **config.building_options(),
    )  # fmt: skip


def plain(files: list[Path], config: TrainConfig) -> Contender:
    """The loop one writes first: a forward for each view size, the formula, AdamW."""
    encoder = plain_encoder(config).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=config.learning_rate, weight_decay=0.05)
    numbers = itertools.count()
    pictures = Pictures(files, config)

    def step(views: list[Tensor]) -> None:
        sizes = (views[: config.global_views], views[config.global_views :])
        embedding = torch.cat([encoder.backbone(torch.cat(some)) for some in sizes if some])
        z = encoder.projector(embedding).unflatten(0, (config.views, -1))
        prediction = (z - z[: config.global_views].mean(0)).square().mean()
        directions = random_directions(z.shape[2], config.slices, next(numbers))
        spread = sigreg(z, directions, implementation="plain")
        optimizer.zero_grad()
        ((1 - config.sigreg_weight) * prediction + config.sigreg_weight * spread).backward()
        optimizer.step()

    return Contender("plain loop", encoder, pictures.batches, step, pictures.one_batch, "plain")


def stable_pretraining(files: list[Path], config: TrainConfig) -> Contender | None:
    """Their model and loss; None where the package is not installed."""
    try:
        theirs: Any = importlib.import_module("stable_pretraining.methods.lejepa")
    except ImportError:
        return None
    torch.manual_seed(0)
    model = theirs.LeJEPA(
        config.encoder, projector=plain_encoder(config).projector, n_slices=config.slices,
        lamb=config.sigreg_weight, drop_path_rate=0.0,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.05)
    model.train()
    pictures = Pictures(files, config)

    def step(views: list[Tensor]) -> None:
        optimizer.zero_grad()
        model(views[: config.global_views], views[config.global_views :]).loss.backward()
        optimizer.step()

    one = pictures.one_batch
    return Contender("stable-pretraining", model, pictures.batches, step, one, "plain")


def ours(data: Path, config: TrainConfig) -> tuple[Contender, Session]:
    """The step of `jepack train`, its cache and views."""
    here = Ranks(0, 1, CPU)
    root = Path(tempfile.mkdtemp())
    prepared = prepare(config, Source.of(data), here, cache_root=root)
    # The others' mean and std, and all of the images, as they have them.
    look = replace(prepared.preprocessing, mean=MEAN, std=STD)
    everything = Split(np.arange(len(prepared.images)), prepared.split.held_out)
    prepared = replace(prepared, preprocessing=look, split=everything)
    session = prepared.start()
    state, finisher, cutter = session.state, prepared.finisher(), prepared.cutter()

    @contextmanager
    def batches() -> Iterator[Iterator[Any]]:
        with Prefetcher(cutter, state.step, config.workers) as prefetcher:
            yield iter(prefetcher)

    def step(batch: Any) -> None:
        one_step(prepared.config, session, finisher.finish(batch), here)

    def views() -> None:
        finisher.finish(cutter.cut(0))

    return Contender("jepack", state.method.trained, batches, step, views, "auto"), session


def processor() -> float:
    """Processor seconds of this process and its workers so far."""
    times = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(one.cpu_times()[:4]) for one in times)


def block(contender: Contender) -> tuple[float, float]:
    """Seconds and processor seconds of a step."""
    with contender.batches() as batches:
        for _ in range(WARM):
            contender.step(next(batches))
        begin, used = time.perf_counter(), processor()
        for _ in range(TIMED):
            contender.step(next(batches))
        return (time.perf_counter() - begin) / TIMED, (processor() - used) / TIMED


def seconds_of(work: Callable[[], object], times: int = 5) -> float:
    """Processor seconds, the median."""
    took = []
    for _ in range(times):
        begin = time.process_time()
        work()
        took.append(time.process_time() - begin)
    return statistics.median(took)


def sigreg_seconds(config: TrainConfig, implementation: str) -> float:
    z = torch.randn(
        config.views, config.images_per_step, config.projection_dims, requires_grad=True
    )
    directions = random_directions(config.projection_dims, config.slices, 0)
    return seconds_of(lambda: sigreg(z, directions, implementation=implementation).backward())


def kept(contender: Contender) -> float:
    """MiB that autograd keeps at most."""
    saved = SavedBytes(contender.module)
    with contender.batches() as batches, saved.hooks:
        contender.step(next(batches))
    return saved.peak / 2**20


def compare(data: Path, rounds: int, out: Path) -> None:
    """Speed, shares and kept activations of each contender, in turns."""
    files = [file.path for file in find_images(data)]
    found = [ours(data, CONFIG)[0], plain(files, CONFIG), stable_pretraining(files, CONFIG)]
    contenders = [one for one in found if one is not None]
    blocks: dict[str, list[tuple[float, float]]] = {one.name: [] for one in contenders}
    for _ in range(rounds):
        for one in contenders:
            blocks[one.name].append(block(one))
    middle = {name: np.median(np.array(some), axis=0) for name, some in blocks.items()}
    rows = []
    for one in contenders:
        wall, used = middle[one.name]
        views, spread = seconds_of(one.views), sigreg_seconds(CONFIG, one.sigreg)
        rows.append({
            "name": one.name, "images_per_s": CONFIG.images_per_step / wall,
            "times_plain": middle["plain loop"][0] / wall, "processor_s": used,
            "times_plain_processor": middle["plain loop"][1] / used,
            "views": views / used, "sigreg": spread / used, "rest": 1 - (views + spread) / used,
            "kept_mib": kept(one),
        })  # fmt: skip
    show(rows)
    if len(contenders) < len(found):
        print("stable-pretraining: not installed, not run")
    write_json(out, {"rounds": rounds, "threads": torch.get_num_threads(), "rows": rows})


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{CONFIG.encoder}, {CONFIG.images_per_step} images per step", box=None)
    for column in (
        "", "images/s", "x plain", "processor s", "x plain", "views", "SIGReg", "the rest", "kept, MiB",
    ):  # fmt: skip
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["name"], f"{row['images_per_s']:.1f}", f"{row['times_plain']:.2f}",
            f"{row['processor_s']:.2f}", f"{row['times_plain_processor']:.2f}", f"{row['views']:.0%}",
            f"{row['sigreg']:.0%}", f"{row['rest']:.0%}", f"{row['kept_mib']:.0f}",
        )  # fmt: skip
    Console(width=110).print(table)


def to_knn(data: Path, target: float, minutes: float, out: Path) -> None:
    """Processor seconds of training until kNN (defect 0 or 1) reaches the target, and less."""
    files = [file for file in find_images(data) if file.label in ("defect-0", "defect-1")]
    y = np.array([file.label == "defect-1" for file in files]).astype(np.int64)
    folds = np.random.default_rng(0).permutation(len(files)) % FOLDS
    look = Preprocessing(size=96, channels=3, mean=MEAN, std=STD)
    images = read_images(files, look)
    small = replace(
        quickstart(), preset="industrial", channels=3, precision="fp32", minutes=None, epochs=8
    )
    wide = replace(small, size=128, eval_size=128, slices=1024, learning_rate=5e-4)
    mine, session = ours(data, small)
    other = plain([file.path for file in find_images(data)], wide)
    rows = []
    for name, one, encoder in (
        ("jepack, recipe quickstart (64 px)", mine, session.best),
        ("plain loop, 128 px", other, lambda: other.module),
    ):
        spent, steps, curve = 0.0, 0, [[0.0, 0, folded_knn(encoder(), images, look, y, folds)]]
        with one.batches() as batches:
            while spent < 60 * minutes and smooth(curve)[-1] < target:
                used = processor()
                for _ in range(5):
                    one.step(next(batches))
                spent, steps = spent + processor() - used, steps + 5
                curve.append([spent, steps, folded_knn(encoder(), images, look, y, folds)])
                found = f"kNN {curve[-1][2]:.3f}, of the last three {smooth(curve)[-1]:.3f}"
                print(f"{name}: {steps} steps, {spent:.0f} s, {found}", flush=True)
        rows.append({"name": name, "curve": curve})
    untrained = max(smooth(row["curve"])[0] for row in rows)
    levels = np.arange(int(200 * untrained) + 1, int(200 * target + 1e-9) + 1) / 200
    for row in rows:
        row["reached_s"] = {f"{level:.3f}": reached(row["curve"], level) for level in levels}
    table = Table("kNN, of three", *[row["name"] for row in rows], "times", box=None)
    for level in rows[0]["reached_s"]:
        first, second = (row["reached_s"][level] for row in rows)
        times = f"{second / first:.1f}" if first and second else "-"
        table.add_row(level, *[f"{s:.0f} s" if s else "not" for s in (first, second)], times)
    Console(width=110).print(table)
    write_json(out, {"target": target, "cap_processor_minutes": minutes, "rows": rows})


def folded_knn(encoder: Any, images: Any, look: Preprocessing, y: Any, folds: Any) -> float:
    """kNN accuracy with each image in the test part of one fold, so that all of them count."""
    x, _ = features(encoder, images, look)
    right = sum(
        knn_accuracy(x[folds != fold], y[folds != fold], x[folds == fold], y[folds == fold])
        * (folds == fold).sum()
        for fold in range(FOLDS)
    )
    return float(right / len(y))


def smooth(curve: list[list[float]]) -> list[float]:
    """Mean of each evaluation and the two before it; of fewer at the start."""
    values = [point[2] for point in curve]
    return [float(np.mean(values[max(0, last - 2) : last + 1])) for last in range(len(values))]


def reached(curve: list[list[float]], level: float) -> float | None:
    """Processor seconds until the smoothed curve is at the level."""
    return next(
        (point[0] for point, v in zip(curve, smooth(curve), strict=True) if v >= level), None
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, help="folder of solar cells; made when not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--knn", type=float, help="time to this accuracy instead")
    parser.add_argument(
        "--minutes", type=float, default=20, help="processor minutes each, with --knn"
    )
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    data = chosen.data or demo.prepare("solar", Path(tempfile.mkdtemp()))
    if chosen.knn:
        to_knn(data, chosen.knn, chosen.minutes, chosen.out or OUT.with_name("training_knn.json"))
    else:
        compare(data, chosen.rounds, chosen.out or OUT)


if __name__ == "__main__":
    main()

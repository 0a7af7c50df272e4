"""How soon is drift seen, and how often is it seen where there is none? Beside Evidently and DataEval.

    python -m benchmarks.drift runs/solar/bundle --other data/earth
    python -m benchmarks.drift runs/solar/bundle --other data/earth --rivals venv/bin/python

The bundle's held-out images are embedded as they are and changed. Two thirds of them make a null, the last
third is replayed: images are drawn from it at random, first unchanged, then changed; the delay counts
changed images until the alarm. Evidently and DataEval get the same images: the half that calibrates our null
is their reference, and windows drawn from the half that sets our thresholds set theirs, at one false
alarm in as many images (`--per`). Their windows do not overlap, and the first holds changed images alone.
What every side then alarms on the unchanged third is counted. `--rivals` is a Python with `evidently dataeval
'pandas<3'`.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.decoding import preprocess
from jepack.encoder import EncoderGraph, load_encoder
from jepack.files import write_json
from jepack.measures import Null, Watcher, fit_null
from jepack.sources import ImageFile, find_images, record_of

RESULTS = Path(__file__).parent / "results"
RIVALS = Path(__file__).with_name("drift_rivals.py")
LONGEST = 4096  # changed images after which a change counts as not seen
Rows = Any  # [N, D]


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return change


def blur(radius: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius))


def darker(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.point(lambda value: value * (1 - share))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey for colour": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "inverted": ImageOps.invert,
    "JPEG quality 5": jpeg(5),
    "blur of 3 px": blur(3),
    "20 % darker": darker(0.2),
    "blur of 1 px": blur(1),
    "JPEG quality 30": jpeg(30),
    "5 % darker": darker(0.05),
}
OTHER, WRONG, MIXED = "another domain", "wrong normalisation", "10 % of another domain"
WITHIN_64 = (
    OTHER,
    "grey for colour",
    WRONG,
    "inverted",
    "JPEG quality 5",
    "blur of 3 px",
    "20 % darker",
)
WITHIN_1024 = ("blur of 1 px", MIXED)
ROWS = (*WITHIN_64, *WITHIN_1024, "JPEG quality 30", "5 % darker")


def embed(bundle: Bundle, other: Path, most: int, console: Console) -> dict[str, Rows]:
    """Projections of the held-out images, unchanged and changed, and of another domain's."""
    encoder, calibration = load_encoder(bundle)
    look, record = bundle.preprocessing, record_of(bundle.manifest)
    graph = EncoderGraph(encoder, look, calibration).eval()
    # The statistics of ImageNet, or (where those are the right ones) a plain 0.5.
    means = (0.485, 0.456, 0.406) if look.mean[0] == 0.5 else (0.5,) * 3
    spreads = (0.229, 0.224, 0.225) if look.mean[0] == 0.5 else (0.5,) * 3
    channels = look.channels
    wrong = replace(look, mean=means[:channels], std=spreads[:channels])
    assert record.data is not None, "the bundle's images are not on this machine"
    every = find_images(record.data)
    held = [file for file, seen in zip(every, record.fitted_on(every), strict=True) if not seen]
    rng = np.random.default_rng(0)
    held = [held[row] for row in rng.permutation(len(held))[:most]]
    strangers = find_images(other)
    strangers = [strangers[row] for row in rng.permutation(len(strangers))[: len(held)]]

    def run(files: list[ImageFile], change: Any = None, by: Any = graph) -> Rows:
        found = []
        for start in range(0, len(files), 32):
            pixels = [
                preprocess.load(changed(file, change), look) for file in files[start : start + 32]
            ]
            with torch.inference_mode():
                found.append(by(torch.from_numpy(np.stack(pixels)))[1].numpy())
        return np.concatenate(found)

    found = {"unchanged": run(held)}
    for name, change in CHANGES.items():
        console.print(f"embedding: {name}", highlight=False)
        found[name] = run(held, change)
    found[OTHER] = run(strangers)
    found[WRONG] = run(held, by=EncoderGraph(encoder, wrong, calibration).eval())
    return found


def changed(file: ImageFile, change: Any) -> bytes:
    content = file.read()
    if change is None:
        return content
    with Image.open(io.BytesIO(content)) as image:
        stream = io.BytesIO()
        change(image.convert("RGB")).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def draws(
    found: dict[str, Rows], rows: Any, name: str, count: int, rng: np.random.Generator
) -> Rows:
    """Images of the replayed third, or of another domain, as a server would see them."""
    own = found["unchanged"][rng.choice(rows, count)]
    if name == MIXED:
        strange = rng.random(count) < 0.1
        own[strange] = found[OTHER][rng.integers(len(found[OTHER]), size=int(strange.sum()))]
        return own
    if name == OTHER:
        return found[OTHER][rng.integers(len(found[OTHER]), size=count)]
    return found[name][rng.choice(rows, count)]


def delay(null: Null, found: dict[str, Rows], rows: Any, name: str, per: float, rng: Any) -> float:
    """Changed images until the alarm, after 4,096 ordinary ones that did not alarm; inf where none came."""
    watcher = Watcher(null, images_per_false_alarm=per)
    while True:
        watcher.add(draws(found, rows, "unchanged", LONGEST, rng))
        if not watcher.report().alarm:
            break
    before = watcher.report()
    for _ in range(LONGEST // 64):
        watcher.add(draws(found, rows, name, 64, rng))
        report = watcher.report()
        if report.alarms > before.alarms or report.alarm:
            assert report.alarm_at is not None
            return max(report.alarm_at - before.images, 16)
    return float("inf")


def measure(found: dict[str, Rows], args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Delays, false alarms and p-values over several divisions of the held-out images."""
    count = len(found["unchanged"])
    delays: dict[str, list[float]] = {name: [] for name in ROWS}
    atypical: dict[str, list[float]] = {name: [] for name in ("unchanged", *ROWS)}
    alarms, p_values, parts, spent, watched = [], [], [], 0.0, 0
    for split in range(args.splits):
        rng = np.random.default_rng([split, 3])
        order = rng.permutation(count)
        made, rows = order[: count * 2 // 3], order[count * 2 // 3 :]
        parts.append((made, rows))
        null = fit_null(found["unchanged"][made], seed=split)
        p_values.append(null.p_values(found["unchanged"][rows]))
        watcher = Watcher(null, images_per_false_alarm=args.per)
        start = time.process_time()
        for _ in range(args.replay // 1024):
            watcher.add(draws(found, rows, "unchanged", 1024, rng))
            watched += 1024
        spent += time.process_time() - start
        alarms.append(watcher.report().alarms)
        for name in ROWS:
            seen = draws(found, rows, name, 512, rng)
            atypical[name].append(float((null.p_values(seen) <= 0.05).mean()))
            delays[name] += [
                delay(null, found, rows, name, args.per, rng) for _ in range(args.trials)
            ]
        atypical["unchanged"].append(float((p_values[-1] <= 0.05).mean()))
        console.print(f"division {split + 1} of {args.splits}", highlight=False)
    p = np.concatenate(p_values)
    result = {
        "false_alarms": {
            "promised_images_per_alarm": args.per, "images": watched, "alarms": alarms,
            "expected_at_most": watched / args.per,
        },
        "microseconds_per_image": round(spent / watched * 1e6, 1),
        "p_values": np.histogram(p, bins=10, range=(0, 1))[0].tolist(),
        "atypical": {name: round(float(np.mean(shares)), 3) for name, shares in atypical.items()},
        "jepack": {name: summary(values) for name, values in delays.items()},
    }  # fmt: skip
    if args.rivals:
        result["rivals"] = rivals(found, parts, args)
    return result


def summary(delays: list[float]) -> dict[str, Any]:
    """Median, 95 % point (None: not seen within 4,096) and the share seen."""
    values = np.sort(np.array(delays, float))

    def point(share: float) -> float | None:
        value = values[min(len(values) - 1, int(np.ceil(share * len(values))) - 1)]
        return float(value) if np.isfinite(value) else None

    return {"median": point(0.5), "p95": point(0.95), "seen": float(np.isfinite(values).mean())}


def rivals(found: dict[str, Rows], parts: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """The same streams for Evidently and DataEval, in an environment of their own."""
    rng = np.random.default_rng(9)
    with TemporaryDirectory() as work:
        arrays: dict[str, Any] = {}
        for number, (made, rows) in enumerate(parts[: args.rival_splits]):
            arrays[f"{number}/reference"] = found["unchanged"][made[::2]]
            arrays[f"{number}/ordinary"] = draws(
                found, made[1::2], "unchanged", args.calibration, rng
            )
            for name in ("unchanged", *ROWS):
                size = args.calibration if name == "unchanged" else LONGEST * args.rival_trials
                arrays[f"{number}/{name}"] = draws(found, rows, name, size, rng)
        np.savez(Path(work) / "streams.npz", **arrays)
        command = [
            args.rivals,
            RIVALS,
            Path(work) / "streams.npz",
            str(args.per),
            str(LONGEST),
            args.sides,
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{args.rivals}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    for side in told.values():
        side["delays"] = {
            name: summary([float("inf") if v is None else v for v in values])
            for name, values in side["delays"].items()
        }
    return dict(told)


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="Changed images until the alarm: median (95 %), of 4,096 at most", box=None)
    sides = {"jepack": result["jepack"]}
    sides |= {name: side["delays"] for name, side in result.get("rivals", {}).items()}
    for heading in ("change", "aim", *sides, "atypical"):
        table.add_column(heading, justify="left" if heading == "change" else "right")
    for name in ROWS:
        aim = "64" if name in WITHIN_64 else "1,024" if name in WITHIN_1024 else ""
        cells = [cell(side[name]) for side in sides.values()]
        table.add_row(name, aim, *cells, f"{result['atypical'][name]:.0%}")
    console.print(table)
    per = result["false_alarms"]["promised_images_per_alarm"]
    for name, side in result.get("rivals", {}).items():
        console.print(
            f"{name}: {side['alarms']} windows alarm in {side['images']:,} unchanged images, where "
            f"{side['images'] / per:.1f} were allowed; {side['microseconds']:.0f} us per image",
            highlight=False,
        )
    false = result["false_alarms"]
    console.print(
        f"False alarms: {sum(false['alarms'])} in {false['images']:,} unchanged images, at most "
        f"{false['expected_at_most']:.0f} promised; {result['microseconds_per_image']} us of CPU per image. "
        f"p-values of unseen images, tenths: {result['p_values']}",
        highlight=False,
    )


def cell(found: dict[str, Any]) -> str:
    if found["median"] is None:
        return "not seen" if not found["seen"] else f"{found['seen']:.0%} seen"
    last = "-" if found["p95"] is None else f"{found['p95']:.0f}"
    return f"{found['median']:.0f} ({last})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--other", type=Path, required=True, help="images of another domain")
    parser.add_argument("--rivals", type=Path, help="a Python with evidently and dataeval")
    parser.add_argument("--images", type=int, default=1200, help="held-out images, at most")
    parser.add_argument("--embedded", type=Path, help=".npz that keeps the projections for reruns")
    parser.add_argument("--per", type=float, default=20_000, help="images to one false alarm")
    parser.add_argument("--splits", type=int, default=8)
    parser.add_argument("--trials", type=int, default=5, help="per division and change")
    parser.add_argument("--replay", type=int, default=81_920, help="unchanged images per division")
    parser.add_argument("--calibration", type=int, default=20_480, help="unchanged images, rivals")
    parser.add_argument("--rival-splits", type=int, default=2)
    parser.add_argument("--rival-trials", type=int, default=3)
    parser.add_argument("--sides", default="", help="rivals to run, by comma; default all four")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    console, bundle = Console(width=150), bundles.load(args.bundle)
    if args.embedded is not None and args.embedded.is_file():
        found = dict(np.load(args.embedded))
    else:
        found = embed(bundle, args.other, args.images, console)
        if args.embedded is not None:
            np.savez(args.embedded, **found)
    result = {
        "bundle": bundle.name,
        "encoder": bundle.config()["architecture"],
        "method": bundle.config()["jepack"]["method"],
        "held_out": len(found["unchanged"]),
        "dimensions": int(found["unchanged"].shape[1]),
        **measure(found, args, console),
    }
    show(result, console)
    write_json(args.out or RESULTS / f"drift_{bundle.name}.json", result)


if __name__ == "__main__":
    main()

"""Views per second on one core: jepack's batched views against torchvision v2, image by image.

The same images, sizes, area shares and chances in one run, the contenders taking turns; read the ratio.
"crops" is crop, resize and flip; "all" adds the preset's light, colour and focus and the division by
mean and std. torchvision works on uint8 tensors with antialiasing, its fastest documented way.

    python -m benchmarks.views                  (a minute)
    python -m benchmarks.views --device cuda    (adds cutting on the device)
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.transforms import v2

from jepack.files import write_json
from training.settings import Preset, preset
from training.views import crop_boxes, cut_on_device, cut_views, draw, pack_images, photometry

OUT = Path(__file__).parent / "results" / "views.json"
# (preset, side of the cached images, views, px, channels, area share)
CASES = (
    ("industrial", 120, 4, 64, 1, (0.25, 1.0)),
    ("industrial", 160, 8, 128, 1, (0.25, 1.0)),
    ("natural", 280, 2, 224, 3, (0.3, 1.0)),
    ("natural", 280, 6, 96, 3, (0.05, 0.3)),
    ("satellite", 160, 8, 128, 3, (0.3, 1.0)),
)
MEAN, STD = 0.45, 0.23


def pictures(count: int, side: int, channels: int) -> list[Any]:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        noise = generator.random((side, side, channels)).astype(np.float32)
        soft = cv2.GaussianBlur(noise, (0, 0), 1.5).reshape(side, side, channels)
        found.append((np.clip((soft - 0.3) * 2.5, 0, 1) * 255).astype(np.uint8))
    return found


def torchvision_view(size: int, scale: tuple[float, float], look: Preset, everything: bool) -> Any:
    """The preset in torchvision's words."""
    steps: list[Any] = [v2.RandomResizedCrop(size, scale=scale, ratio=look.aspect, antialias=True)]
    if look.flip_horizontal:
        steps.append(v2.RandomHorizontalFlip())
    if look.flip_vertical:
        steps.append(v2.RandomVerticalFlip())
    if look.quarter_turns:
        turn = [v2.RandomRotation((90 * k, 90 * k)) for k in range(4)]
        steps.append(v2.RandomChoice(turn))
    if not everything:
        return v2.Compose(steps)
    if look.jitter:
        jitter = v2.ColorJitter(look.brightness, look.contrast, look.saturation, look.hue)
        steps.append(v2.RandomApply([jitter], look.jitter))
    if look.gray:
        steps.append(v2.RandomGrayscale(look.gray))
    if look.blur:
        radius = int(np.ceil(3 * look.blur_sigma[1]))
        steps.append(v2.RandomApply([v2.GaussianBlur(2 * radius + 1, look.blur_sigma)], look.blur))
    if look.solarise:
        steps.append(v2.RandomSolarize(128, look.solarise))
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize([MEAN], [STD])])


def seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


def measure(case: tuple[Any, ...], images: int, rounds: int, device: str | None) -> dict[str, Any]:
    name, side, views, size, channels, scale = case
    look = preset(name)
    data = pictures(images, side, channels)
    shapes = np.array([image.shape[:2] for image in data])
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in data]

    def ours(everything: bool) -> None:
        numbers = draw(views, images, seed=0, step=0)
        boxes = crop_boxes(shapes, numbers, size, scale, look)
        if not everything:
            cut_views(data, boxes)
            return
        views_VBSSC = cut_views(data, boxes, numbers=numbers, preset=look)
        x = torch.from_numpy(views_VBSSC).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        x.sub_(MEAN).div_(STD)

    def theirs(everything: bool) -> None:
        view = torchvision_view(size, scale, look, everything)
        torch.stack([torch.stack([view(image) for image in tensors]) for _ in range(views)])

    found: dict[str, Any] = {
        "preset": name, "cached_px": side, "view_px": size, "channels": channels, "views": views,
    }  # fmt: skip
    for part, everything in (("crops", False), ("all", True)):
        times: dict[str, list[float]] = {"ours": [], "torchvision": []}
        for number in range(rounds + 1):  # the first warms up
            for who, work in (("ours", ours), ("torchvision", theirs)):
                took = seconds(lambda: work(everything), time.process_time)  # noqa: B023
                if number:
                    times[who].append(took)
        for who, values in times.items():
            found[f"{who}_{part}_per_s"] = views * images / statistics.median(values)
        found[f"ratio_{part}"] = found[f"ours_{part}_per_s"] / found[f"torchvision_{part}_per_s"]
    if device:
        found["device_all_per_s"] = views * images / on_device(data, shapes, case, device, rounds)
    return found


def on_device(
    data: list[Any], shapes: Any, case: tuple[Any, ...], device: str, rounds: int
) -> float:
    """Seconds to pack, upload, cut and change one batch."""
    name, _, views, size, _, scale = case
    look, target = preset(name), torch.device(device)
    numbers = draw(views, len(data), seed=0, step=0)
    rows = views * len(data)

    def work() -> None:
        boxes = crop_boxes(shapes, numbers, size, scale, look)
        packs = pack_images(data, pin=target.type == "cuda")
        x = cut_on_device(packs, boxes, target).flatten(0, 1)
        photometry(x, numbers.light.reshape(rows, -1), look, numbers.extra.reshape(rows, -1))
        if target.type == "cuda":
            torch.cuda.synchronize(target)

    work()
    return statistics.median(seconds(work, time.perf_counter) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        "preset      cached  view  ch | crops/s ours  torchvision  ratio | all/s ours  torchvision  ratio"
    )
    for case in CASES:
        row = measure(case, options.images, options.rounds, options.device)
        rows.append(row)
        print(
            f"{row['preset']:<11} {row['cached_px']:>6} {row['view_px']:>5} {row['channels']:>3} |"
            f" {row['ours_crops_per_s']:>12,.0f} {row['torchvision_crops_per_s']:>12,.0f}"
            f" {row['ratio_crops']:>6.2f} | {row['ours_all_per_s']:>10,.0f}"
            f" {row['torchvision_all_per_s']:>12,.0f} {row['ratio_all']:>6.2f}"
            + (f" | device {row['device_all_per_s']:,.0f}/s" if options.device else "")
        )
    about = {
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
        "opencv": cv2.__version__, "threads": 1, "images": options.images, "clock": "CPU seconds",
        "device": options.device,
    }  # fmt: skip
    write_json(options.out, {"about": about, "rows": rows})
    print(f"written {options.out}")


if __name__ == "__main__":
    main()

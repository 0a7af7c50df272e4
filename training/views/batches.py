"""Batches of views, cut ahead of the training step in a background thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jepack.decoding import Preprocessing
from training.data import Images, contents_for
from training.parallel import upload
from training.settings import TrainConfig
from training.views.boxes import Boxes, Draw, crop_boxes, draw
from training.views.canvas import fitted
from training.views.cpu import Preset, cut_views
from training.views.device import Pack, cut_on_device, pack_images
from training.views.light import add_noise, photometry
from training.views.normalise import Normalise


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, uint8 on the CPU: views but for noise, or packs for a GPU to cut."""

    step: int
    global_views: npt.NDArray[np.uint8] | None  # [Vg, B, S, S, C]
    local_views: npt.NDArray[np.uint8] | None  # [Vl, B, s, s, C]
    packs: list[Pack]  # for the device; empty when cut already
    global_boxes: Boxes
    local_boxes: Boxes | None
    numbers: Draw  # [V, B, ..]
    cut_s: float  # time it took to cut or pack, in its thread
    waited_s: float = 0.0  # how long the step waited for it


@dataclass(frozen=True)
class Took:
    """How long the views of a batch took to finish: on a GPU its own time, between two events."""

    host_s: float = 0.0
    events: tuple[Any, Any] | None = None

    def seconds(self) -> float:
        """Waits until they are finished."""
        if self.events is None:
            return self.host_s
        self.events[1].synchronize()
        return float(self.events[0].elapsed_time(self.events[1])) / 1000


@dataclass(frozen=True)
class Views:
    """What a method sees: normalised float images on the device, view-major."""

    step: int
    global_views: Tensor  # [Vg, B, C, S, S]
    local_views: Tensor | None  # [Vl, B, C, s, s]
    took: Took = field(default_factory=Took)

    def micro(self, start: int, stop: int) -> Views:
        """The views of images start..stop-1 of this rank."""
        local = None if self.local_views is None else self.local_views[:, start:stop]
        return Views(self.step, self.global_views[:, start:stop], local)

    def to(self, device: torch.device) -> Views:
        local = None if self.local_views is None else self.local_views.to(device)
        return Views(self.step, self.global_views.to(device), local)

    @property
    def images(self) -> int:
        return self.global_views.shape[1]


class Cutter:
    """Cuts one rank's views of any step; with `on_device`, packs the images for a GPU to cut.

    Views are parts of what `preprocessing` fits into its square; without it of the images as they are.
    """

    def __init__(
        self,
        images: Images,
        chosen: npt.NDArray[np.int64],
        config: TrainConfig,
        preset: Preset,
        rank: int = 0,
        world: int = 1,
        *,
        preprocessing: Preprocessing | None = None,
        on_device: bool = False,
    ) -> None:
        if config.images_per_step % (world * config.accumulate):
            raise ValueError(f"{config.images_per_step} images per step do not divide by {world}")
        self.images, self.chosen, self.config, self.preset = images, chosen, config, preset
        self.preprocessing = preprocessing
        self.on_device = on_device
        share = config.images_per_step // world
        self.share = slice(rank * share, (rank + 1) * share)
        self.order = images.order(chosen, config.images_per_step, config.seed, self.share)

    def cut(self, step: int, pool: ThreadPoolExecutor | None = None) -> Batch:
        started = time.perf_counter()
        config, preset = self.config, self.preset
        fetched = self.images.fetch(self.order(step)[self.share], self.chosen, pool)
        numbers = draw(
            config.views, config.images_per_step, seed=config.seed, step=step, preset=preset
        )
        numbers = numbers.images(self.share)
        contents = contents_for(fetched.images, fetched.masks, preset)
        squash = False
        if self.preprocessing is not None:
            fetched, contents = fitted(fetched, contents, self.preprocessing)
            squash = self.preprocessing.crop_mode == "squash"
        images = fetched.images

        def boxes(views: slice, size: int, scale: tuple[float, float]) -> Boxes:
            return crop_boxes(
                fetched.shapes, numbers.views(views), size, scale, preset,
                fetched.regions, fetched.masks, contents,
                inside=fetched.inside, squash=squash,
            )  # fmt: skip

        global_boxes = boxes(slice(0, config.global_views), config.size, preset.global_scale)
        local_boxes = global_views = local_views = None
        if config.local_views:
            rest = slice(config.global_views, config.views)
            local_boxes = boxes(rest, config.local_size, preset.local_scale)
        packs: list[Pack] = []
        if self.on_device:
            packs = pack_images(images, pin=torch.cuda.is_available())
        else:
            first = numbers.views(slice(0, config.global_views))
            global_views = cut_views(images, global_boxes, pool, numbers=first, preset=preset)
            if local_boxes is not None:
                others = numbers.views(slice(config.global_views, config.views))
                local_views = cut_views(images, local_boxes, pool, numbers=others, preset=preset)
        return Batch(
            step, global_views, local_views, packs, global_boxes, local_boxes, numbers,
            time.perf_counter() - started,
        )  # fmt: skip


class Prefetcher:
    """Iterates over the batches of steps first..last-1, in order, cut `ahead` steps early."""

    def __init__(self, cutter: Cutter, first: int, workers: int, ahead: int = 2) -> None:
        self.cutter, self.first = cutter, first
        self.pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="views")
        self.queue: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=ahead)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        while self.thread.is_alive():  # unblock a put into the full queue
            try:
                self.queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self.pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            started = time.perf_counter()
            item = self.queue.get()
            if isinstance(item, BaseException):
                raise item
            yield replace(item, waited_s=time.perf_counter() - started)

    def _work(self) -> None:
        step = self.first
        while not self.stopping.is_set():
            try:
                item: Batch | BaseException = self.cutter.cut(step, self.pool)
            except BaseException as error:
                item = error
            while not self.stopping.is_set():
                try:
                    self.queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            step += 1


class Finisher:
    """uint8 crops -> normalised float views on the device."""

    def __init__(
        self,
        config: TrainConfig,
        preset: Preset,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self.config, self.preset, self.device = config, preset, device
        self.normalise = Normalise(mean, std, device)
        self.double = config.precision == "fp64"

    def finish(self, batch: Batch) -> Views:
        started = time.perf_counter()
        if self.device.type != "cuda":
            views = self._finish(batch)
            return replace(views, took=Took(time.perf_counter() - started))
        events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        events[0].record()
        views = self._finish(batch)
        events[1].record()
        return replace(views, took=Took(events=events))

    def _finish(self, batch: Batch) -> Views:
        count = batch.global_boxes.box.shape[0]
        # Once for both sizes.
        batch = replace(batch, packs=[pack.to(self.device) for pack in batch.packs])
        global_views = self._one_size(
            batch, batch.global_views, batch.global_boxes, batch.numbers.views(slice(0, count))
        )
        local_views = None
        if batch.local_boxes is not None:
            local_views = self._one_size(
                batch, batch.local_views, batch.local_boxes, batch.numbers.views(slice(count, None))
            )
        return Views(batch.step, global_views, local_views)

    def _one_size(
        self, batch: Batch, pixels_VBHWC: npt.NDArray[np.uint8] | None, boxes: Boxes, numbers: Draw
    ) -> Tensor:
        views, images = boxes.box.shape[:2]
        if pixels_VBHWC is None:
            x = cut_on_device(batch.packs, boxes, self.device, exact=self.double)
            x = x.flatten(0, 1)
            light = numbers.light.reshape(views * images, -1)
            x = photometry(x, light, self.preset, numbers.extra.reshape(views * images, -1))
        else:
            pixels = upload(pixels_VBHWC, self.device)
            x = pixels.flatten(0, 1).permute(0, 3, 1, 2).float() / 255  # channels-last already
            x = add_noise(x, self.preset)
        x = self.normalise(x)
        if self.double:
            x = x.double()
        return x.unflatten(0, (views, images))

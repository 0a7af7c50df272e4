"""From settings and a source to what a run is made of; for training, dry run, sweep and benchmarks alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from jepack.decoding import Preprocessing, Window
from jepack.encoder import Encoder
from jepack.names import tell
from jepack.sources import ImageFile, Source, find_images
from jepack.terminal import counter
from training.data import (
    Cache,
    Images,
    Split,
    cautions,
    guess_channels,
    measure_window,
    open_cache,
    open_stream,
    training_split,
)
from training.methods import check_encoder
from training.parallel import Ranks, alone, broadcast, together
from training.run import sameness
from training.run.feeding import feeding
from training.run.resuming import refuse_early
from training.run.starting import (
    build_session,
    build_start,
    check_sizes,
    fetch_weights,
    model_args_of,
    seed_everything,
    settle,
    steps_of,
)
from training.run.state import Session
from training.settings import Preset, TrainConfig, preset
from training.views import Cutter, Finisher


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that is settled before the first step."""

    config: TrainConfig  # nothing left open: encoder, channels, precision
    source: Source
    listed: Sequence[ImageFile]  # all that the source names, also what cannot be read
    images: Images
    split: Split  # indices into `images`
    preprocessing: Preprocessing  # as evaluation and serving will do it
    model_args: dict[str, Any]  # timm arguments that belong to the architecture
    here: Ranks

    @property
    def views(self) -> Preset:
        return preset(self.config.preset, self.config.view_overrides)

    @property
    def steps(self) -> int:
        return steps_of(self.config, len(self.split.train))

    def start(self) -> Session:
        """Fresh weights, the same on every rank."""
        seed_everything(self.config, 0, self.here)
        session = build_session(self.config, self.here)
        session.state.total = self.steps
        return session

    def its_start(self) -> Encoder:
        """The encoder that this run began from, with the projector that belongs to it; on its device."""
        with torch.random.fork_rng(devices=[]):
            seed_everything(self.config, 0, self.here)
            encoder = build_start(replace(self.config, new_projector=False))
        return encoder.to(self.here.device).eval()

    def cutter(self) -> Cutter:
        """Of this rank's views of the training images."""
        rank, world, on_device = self.here.rank, self.here.world, self.here.device.type == "cuda"
        chosen = self.split.train
        return Cutter(
            self.images, chosen, self.config, self.views, rank, world,
            preprocessing=self.preprocessing, on_device=on_device,
        )  # fmt: skip

    def finisher(self) -> Finisher:
        mean, std = self.preprocessing.mean, self.preprocessing.std
        return Finisher(self.config, self.views, mean, std, self.here.device)

    def record(self, license: str) -> dict[str, Any]:
        """What makes it this run, see sameness.py."""
        return sameness.record(self.config, self.images, self.split, license)

    def under(self, config: TrainConfig, here: Ranks) -> Prepared:
        """The same images with other settings of the encoder and of learning."""
        config = replace(settle(config, here), channels=self.images.channels)
        return replace(
            self, config=config, split=split_of(config, self.images.files, here), here=here
        )


def prepare(
    config: TrainConfig,
    source: Source,
    here: Ranks,
    *,
    cache_root: Path | None = None,
    run: Path | None = None,
    listed: Sequence[ImageFile] | None = None,
    encodes: bool = True,
) -> Prepared:
    """Settle, find, decode, split, measure. Every rank calls it.

    What cannot work ends as early as it can be known: settings, and the `run` that is to be continued, before
    any image is looked for; their number before one is decoded. `listed`: what find_images gave, where that
    is known. `encodes`: the encoder of these settings will be built.
    """
    config = settle(config, here)
    if encodes:
        check_encoder(config)
    if run is not None:
        refuse_early(run, config)
    if encodes and config.pretrained:  # before images are decoded
        alone(here, lambda: fetch_weights(config))

    def survey() -> tuple[Sequence[ImageFile], int, Window]:
        files = find(config, source) if listed is None else listed
        if run is not None:
            refuse_early(run, config, len(files))
        split_of(config, files, here)
        channels = config.channels or guess_channels(files)
        window = measure_window(files, config.window, channels)
        notes = cautions(files, channels, window)
        if config.init and channels == 1 and guess_channels(files) == 3:
            notes.append(
                f"the images are in colour and {config.init} takes one channel, so they are turned grey; "
                "`jepack import` makes starts of three channels"
            )
        tell(Console(stderr=True), notes)
        return files, channels, window

    files, channels, window = broadcast(alone(here, survey))
    if source.away and not here.first:  # its node may keep a cache of its own, elsewhere
        files = find_images(source, parts=True)
    config = replace(config, channels=channels)
    images = decoded(config, source, files, window, here, cache_root)
    preprocessing = together(here, lambda: feeding(config, images, window, run))
    split = split_of(config, images.files, here)
    return Prepared(
        config=config, source=source, listed=files, images=images, split=split,
        preprocessing=preprocessing, model_args=model_args_of(config), here=here,
    )  # fmt: skip


def find(config: TrainConfig, source: Source) -> list[ImageFile]:
    notes: list[str] = []
    cut = {"tile": config.tile, "stride": config.tile_stride}
    files = find_images(source, parts=True, notes=notes, **cut)
    tell(Console(stderr=True), notes)
    return files


def decoded(
    config: TrainConfig, source: Source, files: Sequence[ImageFile], window: Window, here: Ranks,
    root: Path | None,
) -> Images:  # fmt: skip
    """Decoded once, on rank 0, where everyone opens the same cache; or a stream, which keeps nothing."""
    arguments: dict[str, Any] = {
        "files": files, "side": config.kept_side, "channels": config.channels, "window": window,
        "crop_mode": config.crop_mode, "max_bad": config.max_bad,
    }  # fmt: skip
    if config.stream:
        return together(here, lambda: open_stream(source, **arguments))
    arguments |= {"root": root, "workers": config.workers}

    def decode() -> Cache:
        with counter("decode") as show:
            return open_cache(source, **arguments, on_progress=show)

    first = alone(here, decode)

    def opened() -> Cache:  # where nodes keep caches of their own, one rank of each decodes
        return first if first is not None else open_cache(source, **arguments)

    return together(here, opened)


def split_of(config: TrainConfig, files: Sequence[ImageFile], here: Ranks) -> Split:
    """Training and held-out images. Raises DataError or ConfigError where they are too few."""
    train, held_out = training_split(
        files, config.validation_fraction, config.seed, config.group_by
    )
    check_sizes(config, len(train), len(held_out), here)
    return Split(train, held_out)

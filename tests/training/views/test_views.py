"""Views: every image its own numbers, and the same ones whoever cuts it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from jepack.decoding import Preprocessing
from jepack.encoder import Encoder, EncoderGraph, Projector, ProjectorConfig
from jepack.errors import ConfigError
from jepack.measures import Calibration
from training.data import open_cache
from training.settings import PRESETS, TrainConfig, override, preset
from training.views import (
    Cutter,
    Finisher,
    Normalise,
    crop_boxes,
    cut_on_device,
    cut_views,
    draw,
    pack_images,
)
from training.views.boxes import Draw
from training.views.cpu import photometry
from training.views.cpu_light import retouch
from training.views.device import cut_part

TINY = TrainConfig(
    size=24, local_size=16, global_views=2, local_views=1, images_per_step=8, channels=1
)


def picture(seed: int = 0, side: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def cut(
    images: list[np.ndarray], numbers: Draw, size: int, scale: tuple[float, float], name: str
) -> np.ndarray:
    shapes = np.array([image.shape[:2] for image in images])
    return cut_views(images, crop_boxes(shapes, numbers, size, scale, preset(name)))


def test_equal_images_of_a_batch_are_cut_differently() -> None:
    image = picture()
    views = cut([image] * 6, draw(1, 6, seed=0, step=0), 24, (0.1, 0.5), "natural")
    assert len({view.tobytes() for view in views[0]}) == 6


def test_views_are_a_function_of_seed_and_step() -> None:
    def views(seed: int, step: int) -> bytes:
        numbers = draw(2, 3, seed=seed, step=step)
        return cut([picture()] * 3, numbers, 24, (0.1, 0.5), "natural").tobytes()

    assert views(1, 5) == views(1, 5)
    assert len({views(1, 5), views(1, 6), views(2, 5)}) == 3


@pytest.mark.parametrize("world", [2, 4])
def test_the_number_of_ranks_changes_no_view(
    digits_folder: Path, tmp_path: Path, world: int
) -> None:
    cache = open_cache(digits_folder, side=40, channels=1, root=tmp_path)
    chosen, look = np.arange(len(cache)), preset("natural")
    whole = Cutter(cache, chosen, TINY, look).cut(3)
    parts = [Cutter(cache, chosen, TINY, look, rank, world).cut(3) for rank in range(world)]
    assert np.array_equal(
        np.concatenate([part.global_views for part in parts], axis=1), whole.global_views
    )
    assert np.array_equal(
        np.concatenate([part.numbers.light for part in parts], axis=1), whole.numbers.light
    )


def test_a_crop_covers_the_share_of_the_area_that_was_asked() -> None:
    numbers = draw(1, 500, seed=0, step=0)
    shapes = np.tile([300, 200], (500, 1))
    found = crop_boxes(shapes, numbers, 128, (0.2, 0.4), preset("natural")).box[0]
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= [300, 200]).all()
    shares = found[:, 2:].prod(axis=1) / (300 * 200)
    assert shares.min() > 0.18
    assert shares.max() < 0.42
    assert shares.std() > 0.04


@pytest.mark.parametrize("side", [20, 25, 31, 64])
def test_a_shrunk_crop_does_not_alias(side: int) -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))[:side, :side, None]
    view = cut([stripes], draw(1, 1, seed=0, step=0), 12, (1.0, 1.0), "none")
    assert np.abs(view[:, :, 2:-2, 2:-2].astype(int) - 127).max() <= 72


def smooth(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """A picture with detail of a few pixels, as photographs have."""
    noise = np.random.default_rng(seed).random((height, width, channels)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 2).reshape(height, width, channels)
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    return (soft * 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["natural", "industrial", "astronomy", "radiology"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [17, 32, 96])
def test_the_device_cuts_the_same_views_as_the_cpu(name: str, channels: int, size: int) -> None:
    sides = [(40, 60), (61, 47), (120, 200), (33, 33), (257, 130), (41, 60)]
    images = [smooth(n, *shape, channels) for n, shape in enumerate(sides)]
    shapes = np.array(sides)
    numbers = draw(3, len(images), seed=4, step=1)
    boxes = crop_boxes(shapes, numbers, size, (0.1, 1.0), preset(name))
    cpu = cut_views(images, boxes).astype(np.float32)
    device = torch.device("cpu")
    found = cut_on_device(pack_images(images, pin=False), boxes, device).permute(0, 1, 3, 4, 2)
    off = np.abs(found.numpy() * 255 - cpu)
    assert off.max() < (6 if boxes.angle is not None else 3), off.max(axis=(2, 3, 4))
    assert off.mean() < 0.7


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_cpu_retouches_as_the_device_does(name: str, channels: int) -> None:
    look = preset(name, {"noise": 0.0})
    images = np.stack([smooth(n, 32, 32, channels) for n in range(40)])
    numbers = draw(1, len(images), seed=2, step=0)
    light, extra = numbers.light[0], numbers.extra[0]
    cpu = np.stack([retouch(*row, look) for row in zip(images, light, extra, strict=True)])
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    found = photometry(x, light, look, extra).permute(0, 2, 3, 1).numpy() * 255
    off = np.abs(found - cpu)
    if look.solarise:  # the value that turns over may land on either side
        off = off[(light[:, 8] >= look.solarise)]
    assert off.max() < 6
    assert off.mean() < 0.7


def test_a_mirrored_view_holds_the_same_pixels_in_the_other_order() -> None:
    images = [smooth(n, 120, 80 + n, 3) for n in range(8)]
    shapes = np.array([image.shape[:2] for image in images])
    mirrored = crop_boxes(shapes, draw(2, 8, seed=0, step=0), 24, (0.1, 1.0), preset("natural"))
    plain = replace(mirrored, flip_columns=np.zeros_like(mirrored.flip_columns))
    packs, device = pack_images(images, pin=False), torch.device("cpu")
    found, other = (cut_on_device(packs, boxes, device) for boxes in (mirrored, plain))
    flipped = torch.from_numpy(mirrored.flip_columns)
    assert 0 < flipped.sum() < flipped.numel()
    torch.testing.assert_close(found[flipped], other[flipped].flip(-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[~flipped], other[~flipped], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_photometry_leaves_the_tensor_it_is_given_and_images_it_does_not_fall_to(name: str) -> None:
    images = torch.rand(8, 3, 12, 12, dtype=torch.float64)
    before = images.clone()
    numbers = draw(1, 8, seed=0, step=0)
    light, extra = numbers.light[0].copy(), numbers.extra[0].copy()
    extra[:, 7:] = light[:4, [0, 5, 6, 8]] = (
        1  # no band is dropped; nothing falls to the first four
    )
    look = preset(name, {"noise": 0.0, "stain": 0.0})
    changed = photometry(images, light, look, extra)
    assert torch.equal(images, before)
    assert torch.equal(changed[:4], before[:4])
    assert changed.dtype == photometry(images, light, preset(name), extra).dtype == images.dtype


@pytest.mark.parametrize("name", PRESETS)
def test_half_precision_which_gpus_use_stays_within_a_grey_level(name: str) -> None:
    images = np.stack([smooth(n, 32, 32, 3) for n in range(40)])
    numbers = draw(1, len(images), seed=2, step=0)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    look = preset(name, {"noise": 0.0, "solarise": 0.0})  # what turns over may land on either side
    half, whole = (
        photometry(x.to(kind), numbers.light[0], look, numbers.extra[0])
        for kind in (torch.float16, torch.float32)
    )
    assert half.dtype == torch.float16
    assert float((half.float() - whole).abs().max()) * 255 < 1
    boxes = crop_boxes(np.array([(32, 32)] * 40), draw(2, 40, seed=1, step=0), 24, (0.1, 1.0), look)
    (pack,) = pack_images(list(images), pin=False)
    parts = [
        cut_part(pack.pixels, pack.shapes, boxes, pack.numbers, kind).float()
        for kind in (torch.float16, torch.float32)
    ]
    assert float((parts[0] - parts[1]).abs().max()) * 255 < 0.5


def test_any_angle_means_any_angle_and_never_a_black_corner() -> None:
    image = np.full((64, 64, 1), 200, np.uint8)
    views = cut([image] * 8, draw(2, 8, seed=0, step=0), 24, (0.2, 1.0), "astronomy")
    assert views.min() == 200


def test_photometry_gives_every_image_its_own_light() -> None:
    images = torch.full((8, 3, 8, 8), 0.5)
    light = draw(1, 8, seed=0, step=0).light[0].copy()
    light[:, 0] = 0  # everyone jitters
    changed = photometry(images, light, preset("satellite"))
    assert len({round(float(value), 5) for value in changed.mean(dim=(1, 2, 3))}) == 8


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_preset_keeps_pixels_in_range(name: str, channels: int) -> None:
    images = torch.rand(16, channels, 12, 12)
    changed = photometry(images, draw(1, 16, seed=0, step=0).light[0], preset(name))
    assert changed.shape == images.shape
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1


def test_the_preset_none_changes_no_pixel_value() -> None:
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(
        photometry(images, draw(1, 4, seed=0, step=0).light[0], preset("none")), images
    )


def test_photometry_of_an_image_does_not_depend_on_its_batch() -> None:
    images = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    light = draw(1, 8, seed=0, step=0).light[0]
    whole = photometry(images, light, preset("natural"))
    halves = [
        photometry(images[part], light[part], preset("natural")) for part in (slice(4), slice(4, 8))
    ]
    assert torch.allclose(whole, torch.cat(halves), atol=1e-12)


def test_any_knob_of_a_preset_can_be_set() -> None:
    config = override(TINY, ["view.blur=0", "view.global_scale=[0.5, 1]", "view.rotation=10"])
    look = preset(config.preset, config.view_overrides)
    assert (look.blur, look.global_scale, look.rotation) == (0.0, (0.5, 1.0), 10.0)
    again = TrainConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again.view_overrides == config.view_overrides


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("view.blurr=0", "no knob called 'blurr'. Did you mean blur"),
        ("view.blur=often", "view.blur must be in .0, 1., found 'often'"),
        ("view.global_scale=[1, 0.5]", r"\[low, high\]"),
    ],
)
def test_a_knob_that_cannot_be_set_says_why(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        override(TINY, [setting])


def test_a_run_on_the_device_path_gives_what_the_cpu_path_gives(
    digits_folder: Path, tmp_path: Path
) -> None:
    cache = open_cache(digits_folder, side=40, channels=1, root=tmp_path)
    look, cpu = preset("natural", {"solarise": 0.0}), torch.device("cpu")
    finisher = Finisher(TINY, look, (0.5,), (0.25,), cpu)
    both = [
        finisher.finish(Cutter(cache, np.arange(len(cache)), TINY, look, on_device=device).cut(2))
        for device in (False, True)
    ]
    for one, other in (
        (both[0].global_views, both[1].global_views),
        (both[0].local_views, both[1].local_views),
    ):
        assert one is not None
        assert other is not None
        assert one.shape == other.shape
        assert float((one - other).abs().max()) < 8 / 255 / 0.25


def test_training_and_the_graph_of_a_bundle_normalise_every_pixel_alike() -> None:
    preprocessing = Preprocessing(size=16)
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    head = Projector(ProjectorConfig(in_features=4, hidden=8, out_features=2))
    nothing = Calibration(np.zeros(2), np.eye(2))
    graph = EncoderGraph(Encoder(torch.nn.Identity(), head), preprocessing, nothing)
    own = Normalise(preprocessing.mean, preprocessing.std)(pixels.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(graph.normalise(pixels), own, rtol=0, atol=1e-6)

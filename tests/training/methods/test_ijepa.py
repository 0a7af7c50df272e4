"""I-JEPA: masks, the target's moving average, ranks, resuming, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from torch import Tensor

from jepack.encoder import build_encoder, serving_graph
from jepack.errors import ConfigError
from training.data.images import images_of_step
from training.methods import registry
from training.methods.ijepa import at_targets, encode_patches, sincos, target_decay
from training.methods.masks import MIN_CONTEXT, TARGETS, cover, draw_masks
from training.parallel import Ranks
from training.run import load_newest, optimizer_for
from training.run.schedule import learning_rate, weight_decay
from training.settings import TrainConfig, recipe
from training.train import train
from training.views import Views
from training.watch import knn_accuracy

ALONE = Ranks(0, 1, torch.device("cpu"))
GRID = (14, 14)


def small(**changes: Any) -> TrainConfig:
    """A tiny ViT on a 8 x 8 grid of 4 px patches."""
    settings: dict[str, Any] = {
        "encoder": "test_vit", "patch_size": 4, "size": 32, "channels": 1, "predictor_width": 32,
        "predictor_depth": 2, "images_per_step": 16, "projection_dims": 16, "workers": 1,
        "precision": "fp32", "evaluate_epochs": 1000.0, **changes,
    }  # fmt: skip
    return replace(recipe("ijepa"), **settings)


def build(config: TrainConfig, here: Ranks = ALONE) -> Any:
    torch.manual_seed(0)
    encoder = build_encoder(
        config.encoder, channels=1, size=config.size, layers=1,
        projection_dims=config.projection_dims, **config.building_options(),
    )  # fmt: skip
    if config.precision == "fp64":
        encoder.double()
    return registry.build_method(config, encoder, here)


# masks


def test_a_context_never_holds_a_patch_that_is_asked_for() -> None:
    for step in range(20):
        masks = draw_masks(32, GRID, seed=0, step=step)
        asked = np.zeros((32, GRID[0] * GRID[1]), dtype=bool)
        for block in masks.targets:
            asked |= cover(block, GRID)
        assert not (cover(masks.context, GRID) & asked).any()


def test_targets_are_rectangles_of_one_size_with_the_papers_scale_and_aspect() -> None:
    shares, ratios = [], []
    for step in range(300):
        targets = draw_masks(4, GRID, seed=1, step=step).targets
        assert targets.shape[:2] == (TARGETS, 4)
        rows, columns = targets // GRID[1], targets % GRID[1]
        heights = rows.max(axis=2) - rows.min(axis=2) + 1
        widths = columns.max(axis=2) - columns.min(axis=2) + 1
        assert len(np.unique(heights)) == len(np.unique(widths)) == 1
        assert heights[0, 0] * widths[0, 0] == targets.shape[2]
        shares.append(targets.shape[2] / (GRID[0] * GRID[1]))
        ratios.append(heights[0, 0] / widths[0, 0])
    assert np.mean(shares) == pytest.approx(0.175, abs=0.01)
    assert min(shares) > 0.12
    assert max(shares) < 0.24  # whole patches round the paper's .15 to .2
    assert 0.6 < min(ratios) < 0.8
    assert 1.3 < max(ratios) < 1.8


def test_every_place_of_the_grid_is_seen_and_asked_for() -> None:
    patches = GRID[0] * GRID[1]
    seen, asked = np.zeros(patches), np.zeros(patches)
    for step in range(100):
        masks = draw_masks(16, GRID, seed=2, step=step)
        seen += cover(masks.context, GRID).sum(axis=0)
        asked += sum(cover(block, GRID).sum(axis=0) for block in masks.targets)
    assert seen.min() > 0.2 * seen.mean()
    assert asked.min() > 0.02 * asked.mean()  # corners lie in few blocks
    top, bottom = seen.reshape(GRID)[:7].sum(), seen.reshape(GRID)[7:].sum()
    assert top == pytest.approx(bottom, rel=0.05)  # cutting to the smallest favours no side


def test_contexts_are_large_enough_and_equally_large() -> None:
    for step in range(50):
        context = draw_masks(64, GRID, seed=3, step=step).context
        assert context.shape[1] >= MIN_CONTEXT
        assert (np.diff(context, axis=1) > 0).all()


def test_a_crowded_grid_gets_smaller_contexts_instead_of_none() -> None:
    for step in range(20):
        assert draw_masks(64, (6, 6), seed=0, step=step).context.shape[1] >= 1


def test_masks_depend_on_seed_and_step_alone() -> None:
    a, b = (draw_masks(8, GRID, seed=5, step=9) for _ in range(2))
    assert (a.context == b.context).all()
    assert (a.targets == b.targets).all()
    other = draw_masks(8, GRID, seed=5, step=10)
    assert other.targets.shape != a.targets.shape or (other.targets != a.targets).any()


# modules


def test_all_patches_in_order_give_what_timm_gives() -> None:
    method = build(small())
    vit = method.encoder.backbone.eval()
    images = torch.randn(2, 1, 32, 32)
    everything = torch.arange(64).expand(2, -1)
    assert torch.allclose(
        encode_patches(vit, images, everything), vit.forward_features(images), atol=1e-5
    )


def test_the_context_encoder_cannot_see_hidden_patches() -> None:
    method = build(small())
    context = method.trained["pair"].context.eval()
    images = torch.randn(1, 1, 32, 32)
    changed = images.clone()
    changed[:, :, 16:] = 9.0  # the lower half: patches 32..63
    seen = torch.arange(32)[None]
    assert torch.equal(
        encode_patches(context, images, seen), encode_patches(context, changed, seen)
    )


def test_positions_tell_every_patch_apart() -> None:
    positions = sincos(64, (8, 8))
    distance = torch.cdist(positions, positions) + torch.eye(64) * 9
    assert float(distance.min()) > 0.5


def test_the_target_gets_no_gradient_and_moves_only_after_the_step() -> None:
    method = build(small())
    before = [p.clone() for p in method.encoder.parameters()]
    method.backward(views(0))
    assert all(p.grad is None for p in method.encoder.parameters())
    assert all(p.grad is not None for p in method.trained["pair"].parameters() if p.requires_grad)
    assert all(torch.equal(a, b) for a, b in zip(before, method.encoder.parameters(), strict=True))


def test_the_target_is_a_moving_average_of_the_context_encoder() -> None:
    method = build(small(target_ema=(0.9, 1.0)))
    old = method.encoder.backbone.blocks[0].attn.qkv.weight.clone()
    context = method.trained["pair"].context.blocks[0].attn.qkv.weight
    with torch.no_grad():
        context.add_(1.0)
    method.after_step(0.5)
    new = method.encoder.backbone.blocks[0].attn.qkv.weight
    assert torch.allclose(new - old, torch.full_like(old, 0.05), atol=1e-6)  # decay 0.95


def test_the_targets_decay_rises_in_a_line_to_one() -> None:
    decays = [target_decay(done / 10, (0.996, 1.0)) for done in range(11)]
    assert decays[0] == pytest.approx(0.996)
    assert decays[-1] == 1.0
    assert np.allclose(np.diff(decays), 0.0004)


def test_weight_decay_goes_from_start_to_end_and_spares_vectors() -> None:
    values = [weight_decay(step, 11, 0.04, 0.4) for step in range(11)]
    assert values[0] == pytest.approx(0.04)
    assert values[-1] == pytest.approx(0.4)
    assert values == sorted(values)
    assert weight_decay(5, 11, 0.04, None) == 0.04


def views(step: int, images: int = 16, dtype: torch.dtype = torch.float32) -> Views:
    generator = torch.Generator().manual_seed(step)
    return Views(step, torch.randn(1, images, 1, 32, 32, generator=generator, dtype=dtype), None)


def gradients(method: Any) -> dict[str, Tensor]:
    named = method.trained["pair"].named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(norm: str) -> None:
    found = []
    for pieces in (1, 4):
        method = build(small(precision="fp64", accumulate=pieces, target_norm=norm))
        loss = method.backward(views(3, dtype=torch.float64)).floats()["loss"]
        found.append((loss, gradients(method)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    for name, grad in found[0][1].items():
        assert torch.allclose(grad, found[1][1][name], atol=1e-12), name


def test_targets_of_a_batch_tell_its_images_apart_in_every_dim() -> None:
    method = build(small(precision="fp64", target_norm="batch"))
    images = views(0, dtype=torch.float64).global_views[0]
    (wanted,) = method.wanted((images,))
    assert wanted.mean(dim=0).abs().max() < 1e-9  # no place has a mean that could be the answer
    assert torch.allclose(wanted.square().mean(dim=(0, 1)), wanted.new_ones(64), atol=1e-3)


def test_targets_of_a_batch_stay_numbers_where_all_images_are_alike() -> None:
    method = build(small(target_norm="batch"))
    images = views(0).global_views[0][:1].expand(16, -1, -1, -1)
    (wanted,) = method.wanted((images,))
    assert wanted.abs().max() < 1e-2


def test_a_vit_has_as_many_blocks_as_asked() -> None:
    assert len(build(small(depth=2)).encoder.backbone.blocks) == 2


def on_ranks(norm: str) -> TrainConfig:
    return small(precision="fp64", target_norm=norm)


def rank_step(rank: int, world: int, store: str, out: str, norm: str) -> None:
    """One rank's gradients of two steps, saved by the first one."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    method = build(on_ranks(norm), Ranks(rank, world, torch.device("cpu")))
    result = two_steps(method, rank, world)
    if rank == 0:
        torch.save(result, out)
    dist.destroy_process_group()


def two_steps(method: Any, rank: int, world: int) -> dict[str, Any]:
    share = 16 // world
    optimizer = torch.optim.SGD([p for p in method.trained.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for step in range(2):
        whole = views(step, dtype=torch.float64)
        optimizer.zero_grad()
        parts = method.backward(whole.micro(rank * share, (rank + 1) * share))
        losses.append(parts.floats()["loss"])
        optimizer.step()
        method.after_step((step + 1) / 2)
    return {"losses": losses, "state": method.trained.state_dict()}


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_two_ranks_give_the_loss_and_weights_of_one_process(tmp_path: Path, norm: str) -> None:
    alone = two_steps(build(on_ranks(norm)), 0, 1)
    processes.spawn(rank_step, (2, str(tmp_path / "store"), str(tmp_path / "out.pt"), norm), 2)
    together = torch.load(tmp_path / "out.pt", weights_only=True)
    assert together["losses"] == pytest.approx(alone["losses"], abs=1e-12)
    for name, value in alone["state"].items():
        assert torch.allclose(value, together["state"][name], atol=1e-12), name


# the command's way


def test_a_run_that_was_stopped_continues_to_the_same_weights(
    digits_folder: Path, tmp_path: Path
) -> None:
    config = small(epochs=2)  # 48 training images, 6 steps
    options: dict[str, Any] = {"device": "cpu", "cache_root": tmp_path / "cache"}
    whole = train(config, digits_folder, tmp_path / "whole", **options)
    assert train(config, digits_folder, tmp_path / "cut", stop_after=3, **options) is None
    assert train(config, digits_folder, tmp_path / "cut", **options) is not None
    a, b = (load_newest(tmp_path / run, torch.device("cpu"), print) for run in ("whole", "cut"))
    assert a is not None
    assert b is not None
    assert a["step"] == b["step"] == 6
    assert a["average"] is None  # the target is the average
    for part in ("method", "optimizer"):
        assert equal(a[part], b[part]), part
    assert whole is not None
    golden = whole.golden()
    with torch.no_grad():
        embedding, projection = serving_graph(whole)(torch.from_numpy(golden["images"]))
    assert np.allclose(embedding, golden["embedding"], atol=1e-5)
    assert np.allclose(projection, golden["projection"], atol=1e-4)
    config_json = json.loads((whole.folder / "config.json").read_text())
    assert config_json["model_args"]["class_token"] is False
    assert config_json["jepack"]["method"] == "ijepa"


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return bool(torch.equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "resnet18"}, "plain ViTs, not on resnet18"),
        ({"encoder": "swin_tiny_patch4_window7_224"}, "plain ViTs"),
        ({"global_views": 2}, "one crop"),
        ({"patch_size": 8}, "at least 6 x 6 patches; 32 px in patches of 8 give 4 x 4"),
        ({"predictor_width": 40}, "must divide by 32"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(small(**changes))


def test_vectors_are_not_decayed() -> None:
    method = build(small())
    decayed, plain = optimizer_for(method.trained, small()).param_groups
    assert plain["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in decayed["params"])
    owned = {id(p) for p in [*decayed["params"], *plain["params"]]}
    assert id(method.trained["pair"].predictor.mask_token) in {id(p) for p in plain["params"]}
    assert not owned & {id(p) for p in method.encoder.parameters()}


# learning


def digits(count: int) -> tuple[Tensor, np.ndarray]:
    """[N, 1, 32, 32] normalised, and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images[:count] / 16).float()[:, None]
    images = torch.nn.functional.interpolate(images, size=32, mode="bilinear")
    return (images - images.mean()) / images.std(), found.target[:count]


def losses_of(method: Any, images: Tensor) -> tuple[float, float]:
    """(loss from each image's own context, loss from the context of another image)."""
    masks = method.masks_of(10_000, len(images))
    seen, targets = torch.from_numpy(masks.context), torch.from_numpy(masks.targets)
    with torch.no_grad():
        (whole,) = method.wanted((images,))
        wanted = at_targets(whole, targets)
        own, other = (
            float(torch.nn.functional.smooth_l1_loss(method.pair(shown, seen, targets), wanted))
            for shown in (images, images.roll(1, dims=0))
        )
    return own, other


def learn(config: TrainConfig, images: Tensor, steps: int) -> Any:
    method = build(config)
    optimizer = optimizer_for(method.trained, config)
    for step in range(steps):
        order = images_of_step(len(images), config.images_per_step, step, seed=0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step, steps, peak=config.learning_rate, warmup_fraction=0.13, final_fraction=1e-3
            )
        optimizer.zero_grad()
        method.backward(Views(step, images[order][None], None))
        optimizer.step()
        method.after_step((step + 1) / steps)
    return method


def stripes(count: int) -> Tensor:
    """[N, 1, 32, 32] gratings of one of four directions, any phase and level: a part tells the rest."""
    generator = np.random.default_rng(0)
    angle = generator.integers(0, 4, count)[:, None, None] * np.pi / 4
    phase, level = generator.uniform(0, 2 * np.pi, count), generator.normal(size=count)
    y, x = np.mgrid[:32, :32]
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * np.pi / 4 + phase[:, None, None])
    images = torch.from_numpy(waves + level[:, None, None]).float()[:, None]
    return (images - images.mean()) / images.std()


def test_it_learns_to_predict_hidden_blocks_from_the_images_own_context() -> None:
    images = stripes(640)
    config = small(images_per_step=32, predictor_width=64, predictor_depth=1)
    own, other = losses_of(build(config), images[512:])
    assert own == pytest.approx(other, rel=0.05)
    own, other = losses_of(learn(config, images[:512], steps=60), images[512:])
    assert own < 0.7 * other  # 0.55 when written


def test_features_of_digits_are_far_above_chance_after_a_short_run() -> None:
    """Random features reach 0.62 here, so this guards against collapse; docs/ijepa.md says what is won."""
    images, labels = digits(1797)
    method = learn(small(images_per_step=32, predictor_width=64), images[:1400], steps=60)
    with torch.no_grad():
        embedding = method.encoder.backbone.eval()(images).numpy()
    accuracy = knn_accuracy(embedding[:1400], labels[:1400], embedding[1400:], labels[1400:])
    assert accuracy > 4 * np.bincount(labels[1400:]).max() / 397

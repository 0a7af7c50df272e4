"""VISReg: low at the target, a gradient where SIGReg has none, the same over ranks, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from torch import Tensor, nn

from jepack.errors import ConfigError
from jepack.sigreg import random_directions, sigreg
from training.methods import lejepa_loss, regularisers
from training.methods.regularisers import normal_quantiles, visreg
from training.settings import TrainConfig

DIRECTIONS = random_directions(16, 128, step=0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_next_to_nothing_at_the_target_and_about_two_at_collapse() -> None:
    assert float(visreg(normal(2, 2048, 16), DIRECTIONS)) < 0.02
    assert float(visreg(torch.zeros(2, 2048, 16), DIRECTIONS)) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("shifted", lambda z: z + 1),
        ("too wide", lambda z: 2 * z),
        ("too narrow", lambda z: 0.3 * z),
        ("one direction only", lambda z: z[..., :1].expand_as(z)),
        ("two clusters", lambda z: z + 2 * z[..., :1].sign()),
    ],
)
def test_it_sees_every_way_to_be_unlike_the_target(name: str, change: Any) -> None:
    z = normal(2, 1024, 16)
    assert float(visreg(change(z), DIRECTIONS)) > 5 * float(visreg(z, DIRECTIONS)), name


def test_its_gradient_survives_collapse_where_that_of_sigreg_vanishes() -> None:
    def pull(loss: Any, scale: float) -> float:
        factor = torch.tensor(scale, requires_grad=True)
        loss(normal(1, 256, 16) * factor, DIRECTIONS).backward()
        assert factor.grad is not None
        return float(factor.grad)

    # Per unit of its value at collapse (0.402 N), SIGReg pulls a thousandth as hard.
    assert pull(visreg, 0.02) < -1
    assert abs(pull(sigreg, 0.02) / (0.402 * 256)) < 0.2
    assert abs(pull(sigreg, 0.001) / (0.402 * 256)) < 0.01


def test_views_are_judged_each_on_its_own() -> None:
    z = torch.stack([normal(512, 16), normal(512, 16, seed=1) + 1])
    parts = [float(visreg(z[i : i + 1], DIRECTIONS)) for i in range(2)]
    assert float(visreg(z, DIRECTIONS)) == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_order_of_images_does_not_matter() -> None:
    z = normal(2, 64, 16).double()
    assert torch.allclose(visreg(z, DIRECTIONS), visreg(z.flip(1), DIRECTIONS), atol=1e-12)


def test_gradients_are_right() -> None:
    z = normal(1, 12, 4, seed=3).double().requires_grad_()
    directions = random_directions(4, 8, step=1).double()
    assert torch.autograd.gradcheck(lambda value: visreg(value, directions), (z,))


def test_quantiles_are_symmetric_and_nearly_of_unit_variance() -> None:
    q = normal_quantiles(1001)
    assert torch.allclose(q, -q.flip(0), atol=1e-12)
    assert float(q.square().mean()) == pytest.approx(1, abs=0.01)


def one_rank(rank: int, world: int, store: str, out: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    share = 24 // world
    z = normal(2, 24, 16).double()[:, rank * share : (rank + 1) * share].requires_grad_()
    loss = visreg(z, DIRECTIONS.double())
    loss.backward()
    torch.save({"loss": loss.detach(), "grad": z.grad}, f"{out}{rank}")
    dist.destroy_process_group()


def test_two_ranks_give_the_loss_and_gradient_of_one_process(tmp_path: Path) -> None:
    processes.spawn(one_rank, (2, str(tmp_path / "store"), str(tmp_path / "out")), 2)
    z = normal(2, 24, 16).double().requires_grad_()
    loss = visreg(z, DIRECTIONS.double())
    loss.backward()
    assert z.grad is not None
    found = [torch.load(tmp_path / f"out{rank}", weights_only=True) for rank in range(2)]
    assert all(torch.allclose(part["loss"], loss, atol=1e-12) for part in found)
    # Every rank's loss is the whole one, so their sum has twice the gradient; DDP averages.
    grad = torch.cat([part["grad"] for part in found], dim=1) / 2
    assert torch.allclose(grad, z.grad, atol=1e-12)


@pytest.mark.parametrize(("name", "weight"), [("sigreg", 0.05), ("visreg", 0.9)])
def test_a_collapsed_start_grows_to_unit_variance_in_all_dimensions(
    name: str, weight: float
) -> None:
    """Two noisy views of points on a plane, and a linear map that starts at a thirtieth of its size."""
    torch.manual_seed(0)
    config = TrainConfig(regulariser=name, slices=64, sigreg_weight=weight)
    regulariser = regularisers.build_regulariser(config)
    model = nn.Linear(8, 4)
    with torch.no_grad():
        model.weight.mul_(0.03)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for step in range(150):
        points = normal(1, 128, 8, seed=step)
        views = points + 0.1 * normal(2, 128, 8, seed=10_000 + step)
        parts = lejepa_loss(model(views), 2, regulariser, step, weight)
        optimizer.zero_grad()
        parts.loss.backward()
        optimizer.step()
    with torch.no_grad():
        covariance = torch.cov(model(normal(2048, 8, seed=99)).T)
    assert torch.allclose(covariance, torch.eye(4), atol=0.25)


def test_an_unknown_regulariser_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be sigreg or visreg"):
        regularisers.build_regulariser(replace(TrainConfig(), regulariser="vicreg"))


def test_visreg_with_a_sigreg_lambda_is_doubted() -> None:
    low = TrainConfig(regulariser="visreg", sigreg_weight=0.05)
    assert any("0.9" in doubt for doubt in low.doubts())
    assert not replace(low, sigreg_weight=0.9, encoder="vit_tiny_patch16_224").doubts()

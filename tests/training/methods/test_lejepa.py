"""The loss: the paper's form, and the same gradient however the batch is split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepack.encoder import build_encoder
from jepack.errors import ConfigError
from training.methods import LeJEPA, lejepa_loss
from training.parallel import Ranks
from training.run.schedule import learning_rate
from training.settings import TrainConfig
from training.views import Views

ALONE = Ranks(0, 1, torch.device("cpu"))
REFERENCE = Path(__file__).parents[2] / "data" / "sigreg.safetensors"


def nothing(z: torch.Tensor, step: int) -> torch.Tensor:
    return z.new_zeros(())


def test_prediction_and_its_gradient_equal_the_reference() -> None:
    reference = load_file(REFERENCE)
    z = reference["prediction.z"].clone().requires_grad_()
    parts = lejepa_loss(z, 2, nothing, 0, weight=0.0)
    parts.loss.backward()
    assert torch.allclose(parts.prediction, reference["prediction.loss"], atol=1e-12)
    assert z.grad is not None
    assert torch.allclose(z.grad, reference["prediction.grad"], atol=1e-12)


def test_lambda_mixes_the_two_terms_convexly() -> None:
    z = torch.randn(3, 8, 4, dtype=torch.float64)
    parts = lejepa_loss(z, 2, lambda z, step: z.square().mean(), 0, weight=0.3)
    assert torch.allclose(parts.loss, 0.7 * parts.prediction + 0.3 * parts.regulariser)


def test_local_views_do_not_move_the_centre() -> None:
    z = torch.zeros(3, 4, 2, dtype=torch.float64)
    z[2] = 6.0
    assert float(lejepa_loss(z, 2, nothing, 0, 0.0).prediction) == pytest.approx(36 / 3)


def gradients(config: TrainConfig, encoder: str) -> tuple[dict[str, torch.Tensor], float]:
    torch.manual_seed(0)
    model = build_encoder(encoder, channels=1, size=32, projection_dims=16, hidden=32).double()
    method = LeJEPA(model, config, ALONE)
    generator = torch.Generator().manual_seed(1)
    views = Views(
        3,
        torch.randn(2, 24, 1, 32, 32, generator=generator, dtype=torch.float64),
        torch.randn(1, 24, 1, 32, 32, generator=generator, dtype=torch.float64),
    )
    loss = method.backward(views).floats()["loss"]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, loss


def test_micro_batches_give_the_gradient_of_the_whole_batch() -> None:
    config = TrainConfig(
        global_views=2, local_views=1, images_per_step=24, slices=32, precision="fp64"
    )
    whole, loss = gradients(config, "test_vit")
    pieces, same_loss = gradients(replace(config, accumulate=4), "test_vit")
    assert same_loss == pytest.approx(loss, abs=1e-12)
    assert whole.keys() == pieces.keys()
    for name, grad in whole.items():
        assert torch.allclose(grad, pieces[name], atol=1e-12), name


def test_the_learning_rate_never_exceeds_its_peak_and_ends_at_its_fraction() -> None:
    rates = [
        learning_rate(step, 100, peak=1e-3, warmup_fraction=0.1, final_fraction=1e-3)
        for step in range(100)
    ]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-6)
    assert all(b > a for a, b in zip(rates[:10], rates[1:10], strict=False))
    assert all(b < a for a, b in zip(rates[10:], rates[11:], strict=False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigreg_weight": 1.0}, "sigreg_weight must be in"),
        ({"global_views": 1, "local_views": 0}, "at least 2 views"),
        ({"images_per_step": 10, "accumulate": 3}, "micro-batches"),
        ({"final_lr_fraction": 2.0}, "final_lr_fraction must be in"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images_per_step": 16}, "below 32"),
        ({"sigreg_weight": 0.5}, "outside"),
        ({"global_views": 1, "local_views": 6}, "one global view"),
        ({"encoder": "resnet50"}, "local views hurt ResNets"),
    ],
)
def test_settings_that_seldom_work_are_doubted(change: dict[str, float], words: str) -> None:
    config = replace(TrainConfig(encoder="vit_tiny_patch16_224"), **change)  # type: ignore[arg-type]
    assert any(words in doubt for doubt in config.doubts())

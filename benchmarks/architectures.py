"""Which timm encoders train with LeJEPA? A smoke run over some sixty, under 25 M parameters each.

Each takes a few steps of the real method and optimizer on one small batch of two views at 64 px; the
loss must stay finite and fall, and the projections must not collapse. It shows that an architecture
works here (input size, channels, gradients, BatchNorm), not how well it learns.

    python -m benchmarks.architectures                (10 minutes; writes docs/architectures.md)
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from rich.console import Console
from torch import Tensor

from jepack.decoding import Preprocessing, preprocess
from jepack.encoder import build_encoder
from jepack.files import write_bytes, write_json
from jepack.measures import isotropy
from jepack.sources import package_folder
from training.methods import LeJEPA
from training.parallel import Ranks
from training.run import optimizer_for
from training.settings import TrainConfig
from training.views import Views

RESULT = Path(__file__).parent / "results" / "architectures.json"
PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
SIZE = 64  # px
MOST_PARAMETERS = 25e6
FAMILIES = {
    "ResNet": "resnet10t resnet14t resnet18 resnet18d resnet26 resnet26d resnet34 resnext26ts "
    "ecaresnet26t seresnext26d_32x4d",
    "ConvNeXt": "convnext_atto convnext_femto convnext_pico convnext_nano convnextv2_atto "
    "convnextv2_femto convnextv2_pico convnextv2_nano",
    "ViT": "vit_tiny_patch16_224 vit_small_patch16_224 vit_small_patch32_224 xcit_nano_12_p16_224 "
    "vit_relpos_small_patch16_224 deit3_small_patch16_224 vit_pwee_patch16_reg1_gap_256 "
    "vit_wee_patch16_reg1_gap_256",
    "EfficientNet": "efficientnet_lite0 efficientnet_b0 efficientnet_b1 efficientnet_b2 "
    "efficientnetv2_rw_t tf_efficientnetv2_b0 mixnet_s",
    "MobileNet": "mobilenetv2_100 mobilenetv3_small_100 mobilenetv3_large_100 mobilenetv4_conv_small "
    "mobilenetv4_conv_medium mobileone_s0 ghostnet_100",
    "RegNet": "regnetx_002 regnetx_004 regnetx_008 regnety_002 regnety_004 regnety_008 regnetz_b16",
    "Hierarchical transformer": "pvt_v2_b0 pvt_v2_b1 tiny_vit_5m_224 tiny_vit_11m_224 mvitv2_tiny "
    "coat_lite_tiny levit_128",
    "Convolution and attention": "mobilevit_xs mobilevitv2_100 edgenext_x_small edgenext_small "
    "efficientformer_l1 efficientformerv2_s0 fastvit_t8 repvit_m0_9 poolformer_s12",
    "Other convolutional": "densenet121 dla34 hrnet_w18_small repvgg_a0 ese_vovnet19b_dw cspresnet50",
    "MLP": "mixer_s16_224 gmlp_ti16_224 resmlp_12_224",
}


@dataclass(frozen=True)
class Row:
    family: str
    name: str
    millions: float = 0.0  # parameters of the backbone
    dims: int = 0  # of the embedding
    first: float = 0.0  # loss before the first step
    last: float = 0.0  # loss before the last one
    rank: float = 0.0  # effective rank of the projections, 1..number of images - 1
    seconds: float = 0.0  # per step
    verdict: str = "trains"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of processor time; what is left is not run"
    )
    parser.add_argument("--only", help="a part of the names to run; writes nothing")
    chosen = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    console = Console()
    views = two_views(chosen.images)
    started, rows = time.process_time(), []
    for family, names in FAMILIES.items():
        for name in names.split():
            if chosen.only and chosen.only not in name:
                continue
            late = time.process_time() - started > 60 * chosen.minutes
            row = (
                Row(family, name, verdict="not run")
                if late
                else attempt(family, name, views, chosen.steps)
            )
            console.print(line(row), highlight=False, soft_wrap=True)
            rows.append(row)
    if not chosen.only:
        write_json(RESULT, [asdict(row) for row in rows])
        write_bytes(PAGE, page(rows, chosen.images, chosen.steps).encode())


def two_views(images: int) -> Tensor:
    """[2, B, 1, 64, 64]: solar cells, cropped at two random places and lit differently."""
    folder = package_folder("elpv_dataset", "elpv-dataset") / "data" / "images"
    look = Preprocessing(size=96, channels=1, mean=(0.5,), std=(0.25,))
    paths = sorted(folder.glob("*.png"))[:: max(1, 2624 // images)][:images]
    generator = np.random.default_rng(0)
    found = np.empty((2, images, SIZE, SIZE), dtype=np.float32)
    for number, path in enumerate(paths):
        pixels = preprocess.load(path, look)[..., 0] / 255
        for view in range(2):
            top, left = generator.integers(0, 96 - SIZE + 1, 2)
            light = generator.uniform(0.8, 1.2)
            found[view, number] = pixels[top : top + SIZE, left : left + SIZE] * light
    x = torch.from_numpy(found)[:, :, None]
    return (x - x.mean()) / x.std()


def attempt(family: str, name: str, views: Tensor, steps: int) -> Row:
    if not timm.is_model(name):
        return Row(family, name, verdict="unknown to this timm")
    try:
        return train(family, name, views, steps)
    except Exception as error:  # any model may fail in a way of its own; the table says how
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Row(family, name, verdict=f"fails: {reason[:80]}")


def train(family: str, name: str, views: Tensor, steps: int) -> Row:
    torch.manual_seed(0)
    encoder = build_encoder(name, channels=1, size=SIZE, projection_dims=16, hidden=256)
    millions = sum(p.numel() for p in encoder.backbone.parameters()) / 1e6
    config = TrainConfig(
        encoder=name, channels=1, size=SIZE, global_views=2, local_views=0, precision="fp32",
        images_per_step=views.shape[1], slices=256, learning_rate=5e-4,
    )  # fmt: skip
    if millions * 1e6 > MOST_PARAMETERS:
        return Row(family, name, millions, verdict="over 25 M parameters")
    method = LeJEPA(encoder, config, Ranks(0, 1, torch.device("cpu")))
    optimizer = optimizer_for(method.trained, config)
    losses = []
    started = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        # Step 0 throughout: the same slices each time, so that losses compare.
        losses.append(method.backward(Views(0, views, None)).floats()["loss"])
        optimizer.step()
    seconds = (time.perf_counter() - started) / steps
    with torch.no_grad():
        embedding, projection = encoder(views[0])
    report = isotropy.report(projection.double().numpy())
    verdict = "trains"
    if not np.isfinite(losses).all():
        verdict = "not finite"
    elif report.effective_rank < 1.5 or report.variance < 1e-4:
        verdict = "collapsed"
    elif losses[-1] >= losses[0]:
        verdict = "loss does not fall"
    return Row(
        family, name, round(millions, 1), embedding.shape[1], round(losses[0], 3),
        round(losses[-1], 3), round(report.effective_rank, 1), round(seconds, 2), verdict,
    )  # fmt: skip


def line(row: Row) -> str:
    return (
        f"| {row.family} | `{row.name}` | {row.millions:.1f} | {row.dims} | {row.first:.3f} | "
        f"{row.last:.3f} | {row.rank:.1f} | {row.verdict} |"
    )


def page(rows: list[Row], images: int, steps: int) -> str:
    good = sum(row.verdict == "trains" for row in rows)
    families = len({row.family for row in rows if row.verdict == "trains"})
    table = "\n".join(line(row) for row in rows)
    return f"""# Encoders that train

Written by `python -m benchmarks.architectures`. {good} of {len(rows)} timm encoders under 25 M
parameters, of {families} families, take {steps} LeJEPA steps on {images} images (two views at {SIZE} px, one
channel, float32, CPU): the loss stays finite and falls, and the projections do not collapse. That is a
smoke run: it shows that an encoder works with the method, the optimizer, one input channel and a
small size, not how well it learns. timm {timm.__version__}, torch {torch.__version__}.

Rank is the effective rank of the 16-d projections of the {images} images after the last step.

| family | timm name | M parameters | embedding | first loss | last loss | rank | verdict |
|---|---|---|---|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    main()

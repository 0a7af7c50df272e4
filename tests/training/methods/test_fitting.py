"""What cannot work is said before an image is decoded: sizes an encoder cannot take, too few images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_bundle import write_digits

from jepack.errors import ConfigError, DataError
from training.commands.dry_run import estimate
from training.commands.sweeping import run_all
from training.data import building
from training.methods import check_encoder
from training.settings import TrainConfig, recipe
from training.train import train


def tiny(**changes: Any) -> TrainConfig:
    settings = {
        "encoder": "test_vit", "size": 32, "eval_size": 32, "global_views": 2, "slices": 16,
        "images_per_step": 16, "epochs": 1, "minutes": None, "projector_hidden": 32,
        "projection_dims": 8, "workers": 1, "precision": "fp32", "evaluate_epochs": 1,
    }  # fmt: skip
    return replace(recipe("quickstart"), **(settings | changes))


@pytest.fixture
def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("images were decoded")

    monkeypatch.setattr(building, "decode_file", refuse)


SIZES: list[Any] = [
    pytest.param(
        {"encoder": "vit_tiny_patch16_224", "size": 64, "local_views": 1, "local_size": 40},
        r"local views of 40 px .*divisible by patch size.*takes: 32 and 48. Use --set local_size=",
        id="ViT",
    ),
    pytest.param(
        {"encoder": "swin_tiny_patch4_window7_224", "size": 224, "local_views": 1, "local_size": 96},
        "local views of 96 px .*it takes: 224. Use --set local_size=224",
        id="Swin",
    ),
    pytest.param(
        {"encoder": "eva02_tiny_patch14_224", "size": 56, "local_views": 1, "local_size": 28},
        "local views of 28 px .*it takes: 56",
        id="EVA",
    ),
    pytest.param(
        {"encoder": "convnextv2_atto", "size": 64, "eval_size": 16},
        "judged by and serves of 16 px .*Use --set eval_size=32",
        id="ConvNeXt",
    ),
    pytest.param(
        {"encoder": "convnextv2_atto", "size": 16, "eval_size": 16},
        "global views of 16 px .*Use --size 32",
        id="global",
    ),
    pytest.param({"patch_size": 8, "encoder": "test_resnet"}, "cannot be built .*patch_size", id="patch"),
    pytest.param({"encoder": "resnet_18"}, "timm has no model 'resnet_18'", id="name"),
    pytest.param(
        {"method": "ijepa", "global_views": 1, "size": 32, "encoder": "vit_tiny_patch16_224"},
        "I-JEPA masks blocks in a grid of at least",
        id="I-JEPA",
    ),
]  # fmt: skip


@pytest.mark.usefixtures("nothing_is_decoded")
@pytest.mark.parametrize(("change", "words"), SIZES)
def test_sizes_that_an_encoder_cannot_take_are_told_with_those_near(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    nothing = tmp_path / "nothing"  # holds no image, which would be told
    nothing.mkdir()
    with pytest.raises(ConfigError, match=words):
        train(tiny(**change), nothing, tmp_path / "run", device="cpu", cache_root=tmp_path)
    assert list(tmp_path.iterdir()) == [nothing]


def test_a_dry_run_asks_the_encoder_too(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    config = tiny(encoder="convnextv2_atto", size=16, eval_size=16)
    with pytest.raises(ConfigError, match="global views of 16 px .*Use --size 32"):
        estimate(config, tmp_path / "nothing", device="cpu", cache_root=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "vit_tiny_patch16_224", "size": 64, "local_views": 1, "local_size": 32},
        {
            "encoder": "resnet10t",
            "local_views": 1,
            "local_size": 40,
            "activation_checkpointing": True,
        },
        {"encoder": "vit_small_patch14_dinov2", "size": 98, "eval_size": 98},
    ],
)
def test_sizes_that_an_encoder_takes_pass(change: dict[str, Any]) -> None:
    check_encoder(tiny(**change))


@pytest.mark.usefixtures("nothing_is_decoded")
@pytest.mark.parametrize(
    ("count", "change", "words"),
    [
        (20, {}, "20 images give 16 to train on and 4 held out.*Add images: 24 are the least"),
        (37, {}, r"37 images give 30 to train on and 7 held out.*validation_fraction=0\.22"),
        (60, {"validation_fraction": 0.02}, r"1 held out.*validation_fraction=0\.14"),
        (60, {"validation_fraction": 0.9}, r"6 to train on.*validation_fraction=0\.74"),
        (60, {"images_per_step": 64}, "there are 48 training images. Use --images-per-step 24"),
    ],
)
def test_too_few_images_are_told_before_they_are_decoded(
    tmp_path: Path, count: int, change: dict[str, Any], words: str
) -> None:
    data = write_digits(tmp_path / "digits", count)
    with pytest.raises((DataError, ConfigError), match=words):
        train(tiny(**change), data, tmp_path / "run", device="cpu", cache_root=tmp_path / "cache")
    assert not (tmp_path / "run").exists()


def test_a_small_validation_part_of_a_manifest_is_told(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", 40)
    names = [path.relative_to(data).as_posix() for path in sorted(data.rglob("*.png"))]
    rows = [f"{name},{'val' if n < 5 else 'train'}" for n, name in enumerate(names)]
    (data / "manifest.csv").write_text("\n".join(["path,split", *rows]))
    with pytest.raises(DataError, match="35 to train on and 5 held out.*Mend the split"):
        train(tiny(), data, tmp_path / "run", device="cpu", cache_root=tmp_path / "cache")


def test_the_fewest_images_that_are_taken_end_in_a_bundle(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", 24)
    config = tiny(validation_fraction=0.34)
    made = train(config, data, tmp_path / "run", device="cpu", cache_root=tmp_path / "cache")
    assert made is not None


def test_a_sweep_asks_every_encoder_for_the_views_that_all_are_scored_on(tmp_path: Path) -> None:
    base = tiny(encoder="swin_tiny_patch4_window7_224", size=224)
    with pytest.raises(ConfigError, match="scored on the views of 224 px that all runs share"):
        run_all(base, [{"size": 112}], tmp_path / "nothing", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_projector_beyond_any_memory_is_refused_before_data_is_read() -> None:
    config = tiny(projector_hidden=262_144, projector_layers=32)
    with pytest.raises(
        ConfigError, match="a projector of 32 layers and 262144 hidden dimensions has"
    ):
        check_encoder(config)

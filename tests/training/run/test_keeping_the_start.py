"""A run from trained weights is compared with its start, and does not lose it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from small_bundle import write_digits, write_small_bundle
from torch import Tensor, nn

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.encoder import (
    Encoder,
    Projector,
    ProjectorConfig,
    build_encoder,
    load_encoder,
    serving_graph,
)
from jepack.errors import ConfigError
from jepack.sources import Source
from training.bundling import provenance
from training.bundling.runs import write_start
from training.parallel import Ranks
from training.run import Prepared, prepare
from training.settings import TrainConfig, recipe
from training.train import train
from training.watch import compare
from training.watch.comparing import divided

ALONE = Ranks(0, 1, torch.device("cpu"))
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 labelled digits, the same without labels, and a bundle that tells them apart."""
    place = tmp_path_factory.mktemp("guard")
    write_digits(place / "labelled", 300)
    (place / "plain").mkdir()
    for path in (place / "labelled").rglob("*.png"):
        (place / "plain" / path.name).write_bytes(path.read_bytes())
    write_small_bundle(place / "start", place / "plain", architecture="test_vit", size=32)
    return place


def continued(place: Path, **changes: Any) -> TrainConfig:
    """Three steps that move next to nothing."""
    plain = replace(
        recipe("quickstart"), size=32, eval_size=32, global_views=2, slices=16, images_per_step=16,
        epochs=0.2, minutes=None, workers=1, precision="fp32", learning_rate=1e-12, ema_decay=0.0,
        warmup_fraction=0.0, evaluate_epochs=100, init=str(place / "start"),
    )  # fmt: skip
    return replace(plain, **changes)


# A decay of one at the peak leaves nothing of a weight, whatever the loss says: no figure of a step tells.
RUIN: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 1000.0}


def go(place: Path, out: Path, data: str = "labelled", **changes: Any) -> Bundle | None:
    stop = changes.pop("stop_after", None)
    config = continued(place, **changes)
    cache = place / "cache"
    return train(config, place / data, out, device="cpu", cache_root=cache, stop_after=stop)


def embedding(bundle: Bundle) -> Tensor:
    with torch.no_grad():
        return serving_graph(bundle)(PIXELS)[0]  # type: ignore[no-any-return]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_run_that_ends_below_its_start_keeps_it_and_loses_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, start = tmp_path / "run", bundles.load(place / "start")
    asked: dict[str, Any] = {**RUIN, "keep_start": True}
    assert go(place, run, **asked, stop_after=2) is None
    made = go(place, run, **asked)  # resumed: the start is compared all the same
    assert made is not None
    told = said(capsys)
    assert "ends below its start: kNN" in told
    assert f"Its own are in {run / 'below-start'}" in told
    assert torch.equal(embedding(made), embedding(start))
    assert made.dimensions == start.dimensions
    own = embedding(bundles.load(run / "below-start"))
    assert not torch.allclose(own, embedding(start), atol=0.1)
    kept = json.loads((run / "start.json").read_text())
    assert kept["kept"]
    assert kept["compared"]["start"]["knn"] > kept["compared"]["end"]["knn"] + 0.1
    assert made.manifest["provenance"]["start"] == kept
    card = (made.folder / "README.md").read_text()
    assert "This bundle holds the weights of the start" in card
    assert "It started from small-test\\_vit" in card

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = go(place, run, **asked)
    assert again is not None
    assert again.fingerprints == made.fingerprints
    assert "the weights of its start; its own are in" in said(capsys)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before

    taken = go(place, run, **RUIN)  # without keep_start: the run's own, no step again
    assert taken is not None
    assert torch.equal(embedding(taken), own)
    assert torch.equal(embedding(bundles.load(run / "below-start.old-1")), own)
    assert "below its start's; the same command with --set keep_start=true" in said(capsys)
    assert bundles.load(run / "bundle.old-1").fingerprints == made.fingerprints

    for folder in (run / "checkpoints").iterdir():
        folder.rename(tmp_path / folder.name)
    with pytest.raises(ConfigError, match="of other weights than keep_start asks for"):
        go(place, run, **asked)


def test_a_run_that_changes_nothing_is_no_different_and_keeps_its_own(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = go(place, tmp_path / "run", keep_start=True)
    assert made is not None
    assert "is no different from its start: kNN" in said(capsys)
    start = made.manifest["provenance"]["start"]
    assert start["compared"]["verdict"] == "same"
    assert not start.get("kept")
    assert not (tmp_path / "run" / "below-start").exists()
    assert made.config()["jepack"]["method"] == "lejepa"


def test_without_labels_it_says_that_it_cannot_know(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = go(place, tmp_path / "run", "plain", keep_start=True)
    assert made is not None
    assert "without labels nobody can say whether it ends above or below" in said(capsys)
    compared = made.manifest["provenance"]["start"]["compared"]
    assert compared["verdict"] == "unknown"
    assert set(compared["start"]) == {"rankme", "embedding_rank"}


class Instead(nn.Module):
    """A backbone whose features are replaced."""

    def __init__(self, backbone: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone, self.change = backbone, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.backbone(images))


def one_direction(x: Tensor) -> Tensor:
    return x[:, :1] * torch.ones_like(x) + 10


def prepared(place: Path, data: str) -> Prepared:
    source = Source.of(place / data)
    return prepare(continued(place), source, ALONE, cache_root=place / "cache")


def changed(place: Path, change: Callable[[Tensor], Tensor]) -> Encoder:
    encoder = load_encoder(bundles.load(place / "start"))[0]
    head = Projector(ProjectorConfig(in_features=64, out_features=8, layers=1))
    return Encoder(Instead(encoder.backbone, change), head).eval()


def test_an_encoder_is_above_one_that_it_knows_more_than_and_below_the_other_way(
    place: Path,
) -> None:
    images = prepared(place, "labelled")
    good, bad = images.its_start(), changed(place, one_direction)
    assert compare(bad, good, images).verdict == "above"
    lost = compare(good, bad, images)
    assert lost.verdict == "below"
    assert lost.told().startswith("ends below its start: kNN 0.")
    nothing = compare(good, changed(place, lambda x: x * torch.nan), images)
    assert nothing.verdict == "below"


def test_without_labels_a_collapse_alone_is_below(place: Path) -> None:
    images = prepared(place, "plain")
    good = images.its_start()
    lost = compare(good, changed(place, one_direction), images)
    assert lost.verdict == "below"
    assert "it has collapsed" in lost.told()
    assert compare(good, changed(place, lambda x: x[:, torch.randperm(64)]), images).verdict == (
        "unknown"
    )


def test_published_weights_that_are_kept_get_a_projection_of_these_images(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run.preparing.fetch_weights", lambda config: None)
    config = continued(place, init=None, pretrained=True, encoder="test_vit", projection_dims=8)
    source = Source.of(place / "plain")
    images = prepare(config, source, ALONE, cache_root=place / "cache")
    told = provenance(images, images.record("CC0-1.0")) | {"steps": 3}
    assert told["start"]["origin"] == f"timm, {told['start']['name']}"
    encoder = build_encoder("test_vit", channels=1, size=32)  # in the place of a download
    made = write_start(tmp_path / "kept", encoder, images, told)
    assert made.config()["jepack"] == {
        "projector": {"in_features": 64, "hidden": 512, "out_features": 8, "layers": 1},
        "method": "imported",
    }
    assert embedding(made).shape == (4, 64)
    assert "principal components" in (made.folder / "README.md").read_text()


@pytest.mark.parametrize("changes", [5, 20, 101, 700])
def test_one_run_in_forty_that_is_as_good_is_called_below(changes: int) -> None:
    """By every way in which so many changed answers can fall, each with its probability."""
    below = above = 0.0
    for worse in range(changes + 1):
        gained = np.repeat([-1, 1, 0], [worse, changes - worse, 300])
        verdict = divided(gained)[2]
        chance = float(binom.pmf(worse, changes, 0.5))
        below += chance * (verdict == "below")
        above += chance * (verdict == "above")
    assert below == pytest.approx(above)
    assert below <= 0.025


def test_images_of_one_group_count_as_one() -> None:
    gained = np.array([-1] * 40 + [1] * 2)
    assert divided(gained)[2] == "below"
    groups = np.array(["a"] * 40 + ["b", "c"])
    assert divided(gained, groups)[:3] == (2, 1, "same")

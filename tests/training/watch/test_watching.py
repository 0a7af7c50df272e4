"""What a run shows while it goes: figures on fixed images, the log, the curves, other trackers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jepack.encoder import build_backbone, build_encoder
from jepack.errors import ConfigError, DependencyError
from jepack.measures import isotropy
from jepack.sigreg import sigreg
from jepack.terminal import drawing
from training.data import Cache, open_cache
from training.methods import LeJEPA
from training.parallel import Ranks
from training.run.feeding import measured
from training.settings import TrainConfig, recipe
from training.train import train
from training.watch import patch_features, read_log, trackers
from training.watch.evaluation import linear_accuracy, tokens_of
from training.watch.monitor import trim
from training.watch.score import SCORED_SLICES, LabelFreeScore


def tiny() -> TrainConfig:
    return replace(
        recipe("quickstart"), encoder="test_vit", size=32, eval_size=32, global_views=2, slices=32,
        images_per_step=16, epochs=4, minutes=None, projector_hidden=32, projection_dims=8, workers=1,
        precision="fp32", channels=1, checkpoint_minutes=0.0,
    )  # fmt: skip


def test_a_run_watches_three_outputs_two_probes_and_the_score(
    digits_folder: Path, tmp_path: Path, fake_wandb: list[Any]
) -> None:
    out, root = tmp_path / "run", tmp_path / "cache"
    assert train(tiny(), digits_folder, out, device="cpu", cache_root=root, stop_after=6) is None
    early = read_log(out)[1]
    train(tiny(), digits_folder, out, device="cpu", cache_root=root, log=["wandb"])
    steps, evaluations = read_log(out)
    assert [entry["step"] for entry in steps] == list(range(12))
    # Its start comes first. That of step 6 was made before the checkpoint it stopped at, and is there once.
    assert [entry["step"] for entry in evaluations] == [0, 3, 6, 9, 12]
    assert evaluations[:3] == early
    last = evaluations[-1]["evaluation"]
    for output in ("projection", "embedding", "patch"):
        assert last[f"{output}_statistic"] > 0
        assert 1 <= last[f"{output}_rank"] <= 64
    assert 0 <= last["linear"] <= 1
    assert {"knn", "majority", "rankme", "score"} < set(last)
    assert (out / "curves.png").stat().st_size > 10_000
    sent = [entry for entry in fake_wandb if "evaluation/score" in entry]
    assert [entry["step"] for entry in sent] == [9, 12]
    assert sent[-1]["evaluation/score"] == last["score"]
    assert fake_wandb[0]["resume"] == "allow"
    assert fake_wandb[-1] == "finished"


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is sent to a wandb that keeps everything to itself."""
    said: list[Any] = []
    run = SimpleNamespace(
        log=said.append,
        finish=lambda: said.append("finished"),
        define_metric=lambda *_, **__: None,
    )
    module: Any = ModuleType("wandb")
    module.init = lambda **words: said.append(words) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    return said


def test_a_resumed_run_has_the_same_name_for_the_trackers(
    tmp_path: Path, fake_wandb: list[Any]
) -> None:
    for _ in range(2):
        trackers.open_trackers(["wandb"], tmp_path / "run", {})
    trackers.open_trackers(["wandb"], tmp_path / "other", {})
    (tmp_path / "run.old-1").mkdir()  # --fresh moved the run aside: another run
    trackers.open_trackers(["wandb"], tmp_path / "run", {})
    assert fake_wandb[0]["id"] == fake_wandb[1]["id"]
    assert len({words["id"] for words in fake_wandb}) == 3


def test_an_unknown_or_missing_tracker_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="wandb or trackio, found 'mlflow'"):
        trackers.check(["mlflow"])
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(DependencyError, match=r"pip install 'jepack\[trackio\]'"):
        trackers.open_trackers(["trackio"], tmp_path, {})


@pytest.fixture
def cache(digits_folder: Path, tmp_path: Path) -> Cache:
    return open_cache(digits_folder, side=40, channels=1, root=tmp_path / "cache")


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_the_score_is_the_loss_in_training_mode_on_views_that_stay_the_same(
    cache: Cache, encoder: str
) -> None:
    config = replace(tiny(), encoder=encoder)
    preprocessing = measured(config, cache, None)
    torch.manual_seed(0)
    model = build_encoder(encoder, channels=1, size=32, projection_dims=8, hidden=32).train()
    scorer = LabelFreeScore(config, cache, np.arange(40), preprocessing)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    noise = torch.get_rng_state()
    score = scorer.figures(model)["score"]
    assert scorer.figures(model)["score"] == score
    assert torch.equal(torch.get_rng_state(), noise)  # the next step's randomness is untouched
    assert model.training
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    directions = isotropy.random_directions(8, SCORED_SLICES, config.seed)
    method = LeJEPA(model, config, Ranks(0, 1, torch.device("cpu")))
    method.regulariser = lambda z, step: sigreg(z, torch.from_numpy(directions))
    from training.views import Finisher

    finisher = Finisher(
        config, scorer.preset, preprocessing.mean, preprocessing.std, torch.device("cpu")
    )
    loss = method.backward(finisher.finish(scorer.cutter.cut(0))).floats()["loss"]
    assert score == pytest.approx(loss / config.sigreg_weight**0.4, rel=1e-4)


def test_methods_without_that_loss_have_no_score(cache: Cache) -> None:
    config = replace(tiny(), regulariser="visreg")
    scorer = LabelFreeScore(config, cache, np.arange(40), measured(config, cache, None))
    model = build_encoder("test_vit", channels=1, size=32, projection_dims=8, hidden=32)
    assert scorer.figures(model) == {}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_mambaout"])  # TC, CHW, HWC
def test_tokens_are_the_places_of_the_last_feature_map(name: str) -> None:
    torch.manual_seed(0)
    backbone: Any = build_backbone(name, channels=3, size=160).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        maps = backbone.forward_features(images)
        tokens = tokens_of(maps, backbone)
        assert tokens is not None
        assert tokens.shape[0] == 2
        assert tokens.shape[2] == backbone.num_features
        if name == "test_resnet":
            assert torch.allclose(tokens.mean(dim=1), backbone(images), atol=1e-5)
        if name == "test_vit":
            assert tokens.shape[1] == maps.shape[1] - backbone.num_prefix_tokens


def test_patches_that_say_the_same_everywhere_have_rank_one(cache: Cache) -> None:
    config = tiny()
    preprocessing = measured(config, cache, None)
    model: Any = build_encoder("test_resnet", channels=1, size=32, projection_dims=8, hidden=32)
    images = np.random.default_rng(0).integers(0, 255, (32, 64, 64, 1), dtype=np.uint8)
    alive = patch_features(model, images, preprocessing)
    assert alive is not None
    assert len(alive) == 32 * 4  # 2 x 2 cells
    real = model.backbone.forward_features
    direction = torch.nn.functional.normalize(torch.ones(1, alive.shape[1], 1, 1), dim=1)
    model.backbone.forward_features = lambda x: (
        real(x).mean(dim=1, keepdim=True).expand(-1, alive.shape[1], -1, -1) * direction
    )
    flat = patch_features(model, images, preprocessing)
    assert isotropy.report(alive).effective_rank > 3
    assert isotropy.report(flat).effective_rank == pytest.approx(1, abs=1e-3)


def test_the_quick_linear_probe_tells_separable_classes_and_no_others() -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 300)
    noise = generator.standard_normal((300, 16)).astype(np.float32)
    told = noise + 4 * np.eye(16, dtype=np.float32)[y]
    assert linear_accuracy(told[:200], y[:200], told[200:], y[200:]) > 0.95
    assert linear_accuracy(noise[:200], y[:200], noise[200:], y[200:]) < 0.5
    unknown = np.where(np.arange(300) % 2, y, -1)
    assert linear_accuracy(told[:200], unknown[:200], told[200:], unknown[200:]) > 0.9


def test_lines_of_steps_that_come_again_are_dropped(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    entries: list[dict[str, Any]] = [{"step": step, "loss": 1.0} for step in range(6)]
    entries += [{"step": step, "evaluation": {"knn": step}} for step in (2, 4, 6)]
    log.write_text("\n".join(map(json.dumps, entries)) + '\n{"step": 7, "lo')
    assert trim(log, 4) == {"knn": 4}
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["step"] for entry in kept] == [0, 1, 2, 3, 2, 4]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    figure = Figure(figsize=(1, 1))
    FigureCanvasAgg(figure)
    picture = tmp_path / "new" / "curves.png"
    drawing.save(figure, picture, dpi=20)
    was = picture.read_bytes()
    assert was.startswith(b"\x89PNG")
    figure.savefig = lambda *_, **__: (_ for _ in ()).throw(OSError("half way"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="half way"):
        drawing.save(figure, picture, dpi=20)
    assert picture.read_bytes() == was
    with pytest.raises(ConfigError, match=r"pictures end in .*png.*; found .xyz"):
        drawing.save(figure, tmp_path / "a.xyz", dpi=20)

"""A run is what it says: the same folder continues the same run, and no other."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_bundle import write_digits

from jepack import bundle as bundles
from jepack.errors import ConfigError
from training.commands.sweeping import combinations, run_all
from training.run import checkpoint, refuse_inner_start, sameness
from training.run.aside import move_aside
from training.settings import TrainConfig, recipe
from training.train import train
from training.watch import read_log

CPU = torch.device("cpu")


def tiny(**changes: Any) -> TrainConfig:
    return replace(
        recipe("quickstart"), encoder="test_vit", size=32, eval_size=32, global_views=2, slices=16,
        images_per_step=16, epochs=1, minutes=None, projector_hidden=32, projection_dims=8, workers=1,
        precision="fp32", channels=1, evaluate_epochs=100, **changes,
    )  # fmt: skip


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with the images of a finished run, and the run. Copy it before changing it."""
    place = tmp_path_factory.mktemp("finished")
    manifest = ["path,site"]
    for image in sorted(write_digits(place / "data").rglob("*.png")):
        manifest.append(f"{image.relative_to(place / 'data').as_posix()},{image.stem[-1]}")
    (place / "data" / "manifest.csv").write_text("\n".join(manifest))
    assert go(place, tiny()) is not None
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """The same images and run under another path, the cache left behind: another machine."""
    for name in ("data", "run"):
        shutil.copytree(finished / name, tmp_path / name)
    return tmp_path


def go(place: Path, config: TrainConfig, **options: Any) -> bundles.Bundle | None:
    words: dict[str, Any] = {"device": "cpu", "cache_root": place / "cache", **options}
    return train(config, place / "data", place / "run", **words)


def add_an_image(place: Path) -> None:
    image = next((place / "data").rglob("*.png"))
    shutil.copy(image, image.with_name("added.png"))


def change_an_image(place: Path) -> None:
    one, other = sorted((place / "data").rglob("*.png"))[:2]
    shutil.copy(one, other)


def box_an_image(place: Path) -> None:
    manifest = place / "data" / "manifest.csv"
    head, first, *rest = manifest.read_text().splitlines()
    lines = [f"{head},box", f"{first},2 2 9 9", *(f"{line}," for line in rest)]
    manifest.write_text("\n".join(lines))


DIFFERENCES: list[Any] = [
    pytest.param({}, add_an_image, "data: 60 image files -> 61 image files", id="an image more"),
    pytest.param({}, change_an_image, r"data: 60 images .* -> 60 images", id="an image changed"),
    pytest.param({}, box_an_image, "boxes and masks: ", id="a box"),
    *(
        pytest.param(change, None, words, id=next(iter(change)))
        for change, words in [
            ({"preset": "industrial"}, "preset: natural -> industrial"),
            ({"view_overrides": {"blur": 0.25}}, r"view\.blur: 0\.5 -> 0\.25"),
            ({"global_views": 3}, "global_views: 2 -> 3"),
            ({"local_views": 1, "local_size": 16}, "local_views: 0 -> 1"),
            ({"fit": "pad"}, "fit: crop -> pad"),
            ({"window": "0,128"}, "window: none -> 0,128"),
            ({"group_by": "site"}, "group_by: none -> site"),
            ({"validation_fraction": 0.3}, r"validation_fraction: 0\.2 -> 0\.3"),
            ({"pretrained": True}, "pretrained: false -> true"),
            ({"regulariser": "visreg"}, "regulariser: sigreg -> visreg"),
            ({"sigreg_weight": 0.05}, r"sigreg_weight: 0\.02 -> 0\.05"),
            ({"precision": "fp64"}, "precision: fp32 -> fp64"),
            ({"cache_side": 32}, "cache_side: 40 -> 32"),
            ({"seed": 1}, "seed: 0 -> 1"),
        ]
    ),
]


@pytest.mark.parametrize(("change", "act", "words"), DIFFERENCES)
def test_another_run_in_the_same_folder_is_refused_and_nothing_is_written(
    place: Path, change: dict[str, Any], act: Callable[[Path], None] | None, words: str
) -> None:
    before = everything_in(place / "run")
    if act is not None:
        act(place)
    with pytest.raises(ConfigError, match=words) as told:
        go(place, replace(tiny(), **change))
    assert all(way in str(told.value) for way in ("--out", "--fresh", "--init"))
    assert everything_in(place / "run") == before


def test_settings_are_compared_before_any_image_is_read(place: Path) -> None:
    with pytest.raises(ConfigError, match="preset: natural -> industrial"):
        go(place, tiny(preset="industrial"))
    assert not (place / "cache").exists()


def test_a_finished_run_is_told_and_reused_wherever_its_images_lie(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other paths, more workers, other intervals and defaults written out are no other run."""
    before = everything_in(place / "run")
    same: dict[str, Any] = {
        "workers": 3,
        "checkpoint_minutes": 1.0,
        "keep_checkpoints": 5,
        "max_bad": 0.5,
    }
    same |= {
        "evaluate_epochs": 0.5,
        "view_overrides": {"blur": 0.5},
        "channels": 0,
        "cache_side": 40,
    }
    made = go(place, replace(tiny(), **same))
    assert made is not None
    assert "is finished (step 3 of 3)" in capsys.readouterr().err
    assert everything_in(place / "run") == before


def test_a_finished_run_without_its_bundle_writes_it_again(place: Path) -> None:
    kept = bundles.load(place / "run" / "bundle").fingerprints
    (place / "run" / "bundle" / "model.safetensors").unlink()
    made = go(place, tiny())
    assert made is not None
    assert made.fingerprints == kept


def test_a_finished_run_without_checkpoints_is_known_by_its_bundle(place: Path) -> None:
    shutil.rmtree(place / "run" / "checkpoints")
    before = everything_in(place / "run")
    assert go(place, tiny()) is not None
    with pytest.raises(ConfigError, match="preset: natural -> industrial"):
        go(place, tiny(preset="industrial"))
    with pytest.raises(ConfigError, match="no checkpoints to continue from"):
        go(place, replace(tiny(), epochs=2))
    add_an_image(place)
    with pytest.raises(ConfigError, match="data: 60 images"):
        go(place, tiny())
    assert everything_in(place / "run") == before


def test_another_number_of_images_is_told_before_they_are_read(place: Path) -> None:
    add_an_image(place)
    with pytest.raises(ConfigError, match="data: 60 image files -> 61 image files"):
        go(place, tiny())
    assert not (place / "cache").exists()


@pytest.mark.parametrize("stream", [False, True])
def test_images_that_cannot_be_read_make_no_other_run(tmp_path: Path, stream: bool) -> None:
    damaged = sorted(write_digits(tmp_path / "data").rglob("*.png"))[3]
    damaged.write_bytes(b"no image")
    config = tiny(stream=stream, max_bad=0.5)
    for step in (1, 2):
        go(tmp_path, config, stop_after=step)
    assert [entry["step"] for entry in read_log(tmp_path / "run")[0]] == [0, 1]


def test_more_epochs_continue_with_the_schedule_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (place / "run" / "config.json").read_bytes()
    made = go(place, replace(tiny(), epochs=2))
    assert made is not None
    said = capsys.readouterr().err
    assert "changed from here on: epochs: 1 -> 2" in said.replace("1.0", "1").replace("2.0", "2")
    assert "the schedule ends at step 6 (it was 3); the learning rate goes on at" in said
    assert [entry["step"] for entry in read_log(place / "run")[0]] == list(range(6))
    source = made.manifest["provenance"]
    assert source["steps"] == 6
    assert source["recipe"]["epochs"] == 2
    entry = {"step": 3, "changed": {"epochs": [1.0, 2]}, "total": [3, 6]}
    assert source["history"] == [entry]
    assert json.loads((place / "run" / "history.json").read_text()) == [entry]
    assert (place / "run" / "config.json").read_bytes() == config  # what it began with
    assert "after step 3: epochs 1 → 2" in (made.folder / "README.md").read_text()


def test_a_changed_rate_becomes_history_and_the_history_before_it_stays(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = replace(tiny(), epochs=3)
    assert go(place, longer, stop_after=5) is None
    assert go(place, replace(longer, learning_rate=1e-4), stop_after=6) is None
    assert "changed from here on: learning_rate: 0.002 -> 0.0001" in capsys.readouterr().err
    history = json.loads((place / "run" / "history.json").read_text())
    assert [(entry["step"], list(entry["changed"])) for entry in history] == [
        (3, ["epochs"]), (5, ["learning_rate"]),
    ]  # fmt: skip
    rates = [entry["learning_rate"] for entry in read_log(place / "run")[0]]
    assert rates[4] > 1e-4 >= rates[5] > 0


def test_a_rate_changed_after_the_last_step_and_fewer_epochs_than_done_are_refused(
    place: Path,
) -> None:
    before = everything_in(place / "run")
    with pytest.raises(ConfigError, match="finished .step 3., so learning_rate: 0.002 -> 0.001"):
        go(place, replace(tiny(), learning_rate=1e-3))
    with pytest.raises(ConfigError, match="makes 1 steps, but 3 are done"):
        go(place, replace(tiny(), epochs=0.3))
    assert everything_in(place / "run") == before


def test_another_precision_or_pieces_of_another_machine_continue_the_run(place: Path) -> None:
    changed = replace(tiny(), epochs=2, precision="bf16", accumulate=2)
    assert go(place, changed, stop_after=4) is None
    [entry] = json.loads((place / "run" / "history.json").read_text())
    assert set(entry["changed"]) == {"epochs", "precision", "accumulate"}


def test_a_run_begins_from_the_contents_of_a_bundle_not_from_its_path(place: Path) -> None:
    start = shutil.copytree(place / "run" / "bundle", place / "start")
    options: dict[str, Any] = {"device": "cpu", "cache_root": place / "cache"}

    def second(bundle: Path, stop: int) -> None:
        train(tiny(init=str(bundle)), place / "data", place / "second", stop_after=stop, **options)

    second(start, 1)
    moved = Path(shutil.move(start, place / "moved"))
    second(moved, 2)
    assert len(read_log(place / "second")[0]) == 2
    go(place, replace(tiny(), epochs=2))  # that bundle has other weights now
    with pytest.raises(ConfigError, match="init: "):
        second(place / "run" / "bundle", 3)


def as_before_records(run: Path) -> None:
    """The checkpoint as versions before this one wrote it."""
    state = checkpoint.load_newest(run, CPU, pytest.fail)
    assert state is not None
    del state["run"]
    del state["config"]["group_by"]  # a field that came later
    folder = checkpoint.save(run, state["step"], state, keep=1)
    about = json.loads((folder / "checkpoint.json").read_text())
    del about["total"]
    (folder / "checkpoint.json").write_text(json.dumps(about))


def test_a_checkpoint_without_a_record_continues_and_is_compared_by_what_it_has(
    place: Path,
) -> None:
    as_before_records(place / "run")
    with pytest.raises(ConfigError, match="preset: natural -> industrial"):
        go(place, tiny(preset="industrial"))
    assert go(place, replace(tiny(), epochs=2), stop_after=4) is None
    as_before_records(place / "run")
    add_an_image(place)
    with pytest.raises(ConfigError, match="data: 60 images"):
        go(place, replace(tiny(), epochs=2))


def test_every_setting_has_one_place() -> None:
    """What is not named in sameness.py decides a run; what is named there exists."""
    named = [*sameness.LENGTH, *sameness.RATES, *sameness.MACHINE, *sameness.FREE]
    assert len(set(named)) == len(named)
    assert set(named) < {field.name for field in fields(TrainConfig)}


def test_a_fresh_run_owns_its_folder_and_the_one_before_it_keeps_everything(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = place / "run" / "notes.txt"
    own.write_text("mine")
    before = everything_in(place / "run")
    another = replace(tiny(preset="industrial"), epochs=2)
    assert go(place, another, fresh=True, stop_after=2) is None
    aside = place / "run.old-1"
    assert f"lies in {aside} now" in " ".join(capsys.readouterr().err.split())
    assert everything_in(aside) == {k: v for k, v in before.items() if k != "notes.txt"}
    assert own.read_text() == "mine"
    assert [p.name for p in (place / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    go(place, another, stop_after=3)  # continues the new run, not the old one of as many steps
    assert [entry["step"] for entry in read_log(place / "run")[0]] == [0, 1, 2]
    go(place, tiny(), fresh=True, stop_after=1)
    assert (place / "run.old-2" / "log.jsonl").is_file()


def test_a_run_that_cannot_be_moved_beside_its_folder_is_moved_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a folder that is a disk of its own."""
    run, rename = tmp_path / "run", os.rename

    def one_disk(source: Path, target: Path) -> None:
        if run not in target.parents:
            raise OSError(errno.EXDEV, "another disk")
        rename(source, target)

    checkpoint.save(run, 1, {}, keep=1)
    monkeypatch.setattr(os, "rename", one_disk)
    assert move_aside(run) == run / "old-1"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert checkpoint.load_newest(run / "old-1", CPU, pytest.fail) == {}
    assert move_aside(run) is None
    checkpoint.save(run, 1, {}, keep=1)
    assert move_aside(run) == run / "old-2"


def test_a_refused_fresh_run_leaves_the_one_before_it_where_it_is(place: Path) -> None:
    before = everything_in(place / "run")
    with pytest.raises(ConfigError, match="images_per_step is 64"):
        go(place, replace(tiny(), images_per_step=64), fresh=True)
    assert everything_in(place / "run") == before


@pytest.mark.parametrize("start", ["run/bundle", "link/bundle", "run/checkpoints/b", "run"])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_run_that_would_move_the_bundle_it_starts_from_is_refused_and_nothing_moves(
    start: str, fresh: bool, place: Path
) -> None:
    (place / "link").symlink_to("run")
    before = everything_in(place)
    with pytest.raises(ConfigError, match="are one place: .* nothing was changed"):
        go(place, tiny(init=str(place / start)), fresh=fresh)
    assert everything_in(place) == before


def test_a_run_inside_the_bundle_it_starts_from_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="are one place"):
        refuse_inner_start(place / "run" / "bundle" / "more", str(place / "run" / "bundle"))


def test_a_bundle_beside_or_below_what_a_run_writes_is_a_start(place: Path) -> None:
    for start in ("run/start", "run.old-1/bundle", "running/bundle"):
        refuse_inner_start(place / "run", str(place / start))


def test_a_sweep_is_refused_before_anything_is_trained_when_a_run_would_move_its_start(
    place: Path,
) -> None:
    shutil.copytree(place / "run" / "bundle", place / "sweep" / "slices=32" / "bundle")
    base = tiny(init=str(place / "sweep" / "slices=32" / "bundle"))
    with pytest.raises(ConfigError, match="are one place"):
        run_all(
            base, combinations(base, ["slices=16,32"]), place / "data", place / "sweep",
            device="cpu", cache_root=place / "cache", fresh=True,
        )  # fmt: skip
    assert os.listdir(place / "sweep") == ["slices=32"]


def test_what_torchrun_starts_again_is_not_fresh_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(place, replace(tiny(), epochs=2), fresh=True, stop_after=2)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    go(place, replace(tiny(), epochs=2), fresh=True, stop_after=3)
    assert [entry["step"] for entry in read_log(place / "run")[0]] == [0, 1, 2]
    assert not (place / "run.old-2").exists()


def test_a_damaged_checkpoint_that_was_passed_over_does_not_outlive_the_new_ones(
    tmp_path: Path,
) -> None:
    for step in (4, 6, 8):
        checkpoint.save(tmp_path, step, {"step": step}, keep=3)
    (checkpoint.folder_of(tmp_path, 8) / "state.pt").write_bytes(b"damaged")
    warned: list[str] = []
    assert checkpoint.load_newest(tmp_path, CPU, warned.append) == {"step": 6}
    assert len(warned) == 1
    checkpoint.save(tmp_path, 7, {"step": 7}, keep=2)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == ["step-00000006", "step-00000007"]
    assert checkpoint.load_newest(tmp_path, CPU, pytest.fail) == {"step": 7}


def test_a_sweep_over_other_images_or_settings_is_refused_before_it_trains(place: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "cache_root": place / "cache"}
    out = place / "sweep"
    shutil.copytree(place / "run", out / "sigreg_weight=0.02")  # what a sweep of it writes
    before = everything_in(out)
    more = combinations(tiny(), ["sigreg_weight=0.1,0.02"])
    other = tiny(preset="industrial")
    with pytest.raises(ConfigError, match="preset: natural -> industrial"):
        run_all(other, more, place / "data", out, **options)
    add_an_image(place)
    with pytest.raises(ConfigError, match="data: 60 images"):
        run_all(tiny(), more, place / "data", out, **options)
    assert everything_in(out) == before


def test_a_licence_said_once_stays_and_another_loses_no_bundle(place: Path) -> None:
    before = everything_in(place / "run" / "bundle")

    def licence(**words: Any) -> Any:
        found = go(place, tiny(), **words)
        assert found is not None
        return found.manifest["provenance"]["license"]

    assert licence(license="MIT") == "MIT"
    assert everything_in(place / "run" / "bundle.old-1") == before
    assert licence() == "MIT"
    assert not (place / "run" / "bundle.old-2").exists()

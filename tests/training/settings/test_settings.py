"""Settings that cannot be meant end at the edge, each with a sentence."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jepack.cli import app
from jepack.errors import ConfigError
from jepack.terminal.assignments import values_of
from training.commands.sweeping import base_of, combinations
from training.settings import GROUPS, PRESETS, TrainConfig, override, preset, recipe
from training.settings.limits import CHOICES, LIMITS, MAY_BE_NONE


def test_every_number_has_a_range_and_every_choice_its_words() -> None:
    numbers = {
        field.name for field in fields(TrainConfig) if str(field.type).split(" |")[0] in ("int", "float")
    }  # fmt: skip
    assert numbers == set(LIMITS)
    free_text = {"encoder", "init", "global_pool", "preset", "window", "group_by"}
    words = {field.name for field in fields(TrainConfig) if str(field.type).startswith("str")}
    assert words - free_text == set(CHOICES)


def test_every_setting_is_in_one_group_and_the_help_shows_it_there() -> None:
    grouped = [one.name for group in GROUPS.values() for one in fields(group)]
    assert sorted(grouped) == sorted(one.name for one in fields(TrainConfig))
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "120"}).output
    places = [shown.index(f" {name} ─") for name in GROUPS if f" {name} ─" in shown]
    assert len(places) == 7  # none of I-JEPA's has an option of its own
    assert places == sorted(places)
    views = shown[shown.index(" Views ─") : shown.index(" Loss ─")]
    assert "--size" in views
    assert "--preset" in views
    assert "--seed" not in views


@pytest.mark.parametrize("name", sorted(LIMITS))
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e30, "2", True, None])
def test_numbers_of_no_use_are_refused_by_name(name: str, value: Any) -> None:
    if value is None and name in MAY_BE_NONE:
        return
    with pytest.raises(ConfigError, match=f"{name} must be .*found"):
        replace(TrainConfig(), **{name: value})


@pytest.mark.parametrize(
    "name",
    [
        "keep_checkpoints",
        "images_per_step",
        "accumulate",
        "epochs",
        "learning_rate",
        "slices",
        "size",
    ],
)
def test_nothing_of_what_there_must_be_some_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be"):
        replace(TrainConfig(), **{name: 0})


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_other_words_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be {CHOICES[name][0]} or"):
        replace(TrainConfig(), **{name: "other"})


KNOBS = sorted(set(vars(PRESETS["none"])) - {"reason"})


@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e9, None, [None, 1], "often"])
def test_knobs_of_no_use_are_refused_by_name(knob: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"view.{knob} "):
        preset("natural", {knob: value})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_knobs_of_every_preset_are_in_their_ranges(name: str) -> None:
    knobs = {knob: getattr(PRESETS[name], knob) for knob in KNOBS}
    assert preset(name, json.loads(json.dumps(knobs))) == PRESETS[name]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["slices"], "--set needs field=value"),
        (["slices="], "--set needs field=value"),
        (["=3"], "--set needs field=value"),
        (["view.=1"], "no knob called ''"),
        (["view.reason=mine"], "no knob called 'reason'"),
        (["view.global_scale=[null, 1]"], r"view.global_scale takes \[low, high\]"),
        (["slices=64", "slices=128"], "--set names slices more than once"),
        (["view.blur=0", "view.blur=1"], "--set names view.blur more than once"),
        (["target_ema=[\"a\", 1]"], "target_ema takes tuple"),
        (["preset=naturl"], "no preset 'naturl'"),
        (["encoder=null"], "encoder takes str"),
        (["learning_rate=NaN"], "learning_rate must be"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_meant_is_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        override(TrainConfig(), settings)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (["view.x="], "--grid needs field=value"),
        (["view.blur=0,0.5"], "runs that differ in view.blur cannot be ranked"),
        (["view_overrides={}"], "runs that differ in view_overrides cannot be ranked"),
        (["slices"], "--grid needs field=value"),
        (["slices=64,"], "with an empty value"),
        (["slices=64,64"], "holds 64 twice"),
        (["slices=64", "slices=128"], "--grid names slices more than once"),
        (["images_per_step=16,15", "accumulate=2"], "divide into 2 micro-batches"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(grid: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        combinations(TrainConfig(), grid)


def test_commas_inside_brackets_part_no_values() -> None:
    assert values_of('[0.9, 1.0],[0.99,1],"a,b"') == ["[0.9, 1.0]", "[0.99,1]", '"a,b"']
    found = combinations(TrainConfig(), ["target_ema=[0.9,1.0],[0.99,1.0]"])
    assert [entry["target_ema"] for entry in found] == [(0.9, 1.0), (0.99, 1.0)]


@pytest.mark.parametrize(
    ("settings", "grid", "words"),
    [
        (["epochs=3"], ["slices=64"], "as long as --epochs says"),
        (["slices=3"], ["slices=64"], "both --set and --grid name slices"),
    ],
)
def test_what_a_sweep_would_pass_over_is_refused(
    settings: list[str], grid: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        base_of("quickstart", settings, 5, grid)


def test_the_views_of_a_sweep_are_those_that_were_set() -> None:
    assert base_of("quickstart", ["view.blur=0"], 5, ["slices=64"]).view_overrides == {"blur": 0}


def test_an_option_and_set_that_name_the_same_field_are_refused(tmp_path: Path) -> None:
    words = ["train", str(tmp_path), "--epochs", "3", "--set", "epochs=5"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    assert "both --epochs and --set name epochs" in str(done.exception)


def test_every_recipe_is_in_range() -> None:
    assert recipe("quickstart").problems() == []

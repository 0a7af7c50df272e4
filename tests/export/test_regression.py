"""A new encoder must not be worse than the one published before it, and thresholds are told by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from small_bundle import write_digits, write_small_bundle

from export.gates import Thresholds
from export.overrides import changed, parse
from export.run import ExportResult, export_bundle
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ConfigError, DataError, GateError


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 labelled images: 24 are set aside, 96 judge."""
    return write_digits(tmp_path_factory.mktemp("labelled"), 120)


@pytest.fixture(scope="module")
def half_blind(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Bundle:
    """Sees little more than how bright an image is."""

    def surgery(encoder: Any) -> None:
        first = encoder.backbone.conv1[0].weight
        first.copy_(first.mean() + 0.02 * first)

    folder = tmp_path_factory.mktemp("blind") / "bundle"
    return write_small_bundle(folder, digits_folder, surgery=surgery)


def export(bundle: Bundle, data: Path, **options: Any) -> ExportResult:
    return export_bundle(bundle, formats=["torchscript"], data=data, timing=False, **options)


def test_an_encoder_is_not_worse_than_itself(half_blind: Bundle, digits: Path) -> None:
    found = export(half_blind, digits, against=half_blind).gate["against"]
    assert found["worse"] == {}
    assert found["figures"]["neighbour_agreement"] == 1
    now, before = found["figures"]["effective_rank"]["embedding"]
    assert now == before
    assert found["figures"]["knn"]["difference_95"] == [0, 0]


def test_a_worse_encoder_is_refused_with_each_reason_and_nothing_is_written(
    half_blind: Bundle, small_bundle: Bundle, digits: Path
) -> None:
    before = (half_blind.folder / "manifest.json").read_bytes()
    with pytest.raises(GateError, match=r"against small-resnet10t") as told:
        export(half_blind, digits, against=small_bundle)
    assert "kNN accuracy" in str(told.value)
    assert "--allow CHECK" in str(told.value)
    assert (half_blind.folder / "manifest.json").read_bytes() == before


def test_a_check_that_is_allowed_warns_and_the_manifest_remembers(
    half_blind: Bundle, small_bundle: Bundle, digits: Path
) -> None:
    every = ("rank", "isotropy", "neighbours", "knn", "retrieval")
    result = export(half_blind, digits, against=small_bundle, allow=every)
    gate = bundles.load(result.bundle.folder).manifest["gate"]
    assert gate["passed"]
    assert not gate["forced"]
    assert "knn" in gate["against"]["allowed"]
    assert any("allowed by --allow knn" in warning for warning in gate["warnings"])
    assert gate["against"]["fingerprints"] == small_bundle.fingerprints


def test_a_better_encoder_passes(
    half_blind: Bundle, small_bundle: Bundle, digits: Path, tmp_path: Path
) -> None:
    result = export(
        copy(small_bundle, tmp_path / "bundle"), digits, against=half_blind, allow=["neighbours"]
    )
    assert set(result.gate["against"]["worse"]) <= {"neighbours"}


def copy(bundle: Bundle, folder: Path) -> Bundle:
    shutil.copytree(bundle.folder, folder)
    return bundles.load(folder)


def test_what_cannot_be_compared_is_told(
    small_bundle: Bundle, digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="allowed are rank, isotropy"):
        export(small_bundle, digits, against=small_bundle, allow=["colour"])
    with pytest.raises(ConfigError, match="--against"):
        export(small_bundle, digits, allow=["rank"])
    few = write_digits(tmp_path / "few", 20)
    with pytest.raises(DataError, match="needs 32 to compare on"):
        export(small_bundle, few, against=small_bundle)


def test_each_threshold_can_be_set_by_name() -> None:
    limits = parse(["min_effective_rank=2", "int8.recall=0.85", "promise-images=64"])
    assert limits.min_effective_rank == 2
    assert limits.parity["int8"].recall == 0.85
    assert limits.parity["float32"] == Thresholds().parity["float32"]
    assert changed(limits) == {
        "min_effective_rank": {"value": 2, "default": 1.5},
        "promise_images": {"value": 64, "default": 128},
        "int8.recall": {"value": 0.85, "default": 0.9},
    }
    assert changed(parse([])) == {}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("min_rank=2", "min_effective_rank"),
        ("int8.recal=1", "int8.recall"),
        ("parity=1", "no threshold called 'parity'"),
        ("max_tail", "name=value"),
        ("max_tail=nan", "needs a number"),
        ("max_tail=-1", "needs a number"),
        ("promise_images=1.5", "needs a whole number"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused(setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse([setting])


def test_a_changed_threshold_decides_and_is_recorded(
    small_bundle: Bundle, digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(GateError, match="at least 60"):
        export(small_bundle, digits, thresholds=parse(["min_effective_rank=60"]))
    result = export(
        copy(small_bundle, tmp_path / "bundle"), digits, thresholds=parse(["max_tail=0.5"])
    )
    gate = bundles.load(result.bundle.folder).manifest["gate"]
    assert gate["changed_thresholds"] == {"max_tail": {"value": 0.5, "default": 0.03}}
    assert "Threshold changed by hand: max_tail" in (result.bundle.folder / "README.md").read_text()

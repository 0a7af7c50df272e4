"""`jepack probe`: what it measures, and that the bundle's card tells it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_bundle import write_digits

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ArtifactError, ConfigError
from training.commands.probe import open_encoder, score
from training.commands.probe.picture import nearest
from training.commands.scores import probe


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits", 120)


@pytest.fixture
def folder(tmp_path: Path, small_bundle: Bundle) -> Path:
    return Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))


def test_results_and_baselines_fill_the_card_of_the_bundle(
    folder: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bundles.load(folder).fingerprints
    for _ in range(2):  # the second replaces the first's rows
        probe(
            str(folder), digits, classes="digit-0,digit-1,digit-2", baselines=["random"],
            device="cpu", as_json=True,
        )  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    bundle = bundles.load(folder)  # verified, so the manifest knows the new files
    assert bundle.fingerprints == before
    rows = json.loads((folder / "probes.json").read_text())
    assert [row["encoder"] for row in rows] == ["small-resnet10t", "random:resnet10t"]
    assert rows[0]["linear"] == told["linear"]
    assert rows[1]["linear"] == told["baselines"][0]["linear"]
    assert set(rows[0]["few_shot"]) == {"1", "5", "10"}
    assert {row["test_images"] for row in rows} == {told["test_images"]}
    card = (folder / "README.md").read_text()
    table = [line for line in card.splitlines() if line.startswith("| random:resnet10t")]
    assert len(table) == 1
    assert f"{rows[1]['linear']:.3f}" in table[0]
    assert "Not measured. `jepack probe" not in card
    assert str(folder.parent) not in card


def test_the_picture_has_a_column_for_each_encoder(
    folder: Path, digits: Path, tmp_path: Path
) -> None:
    widths = []
    for number, baselines in enumerate(([], ["random"], ["random", "random:resnet10t"])):
        path = tmp_path / f"{number}.png"
        probe(
            str(folder), digits, classes="digit-0,digit-1,digit-2", baselines=baselines, save=False,
            picture=path, device="cpu",
        )  # fmt: skip
        with Image.open(path) as picture:
            widths.append(picture.width)
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 50  # more than frames
    assert widths[1] == 2 * widths[0]
    assert widths[2] == 3 * widths[0]


def test_neighbours_are_by_angle_and_never_the_query_itself() -> None:
    x = np.array([[1, 0], [5, 0.1], [0, 1], [0.9, 0.2], [-1, 0], [1, 1]], np.float32)
    assert nearest(x, 0).tolist() == [1, 3, 5, 2, 4]


def test_no_save_leaves_the_bundle_as_it_was(folder: Path, digits: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    probe(str(folder), digits, classes="digit-0,digit-1", save=False, device="cpu", as_json=True)
    assert (folder / "manifest.json").read_bytes() == before


def test_published_weights_that_cannot_be_had_say_how_to_go_on(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.commands.probe.opening.build_backbone", failing)
    with pytest.raises(
        ArtifactError, match="timm:resnet10t: its weights could not be had .no route"
    ):
        probe("timm:resnet10t", digits, device="cpu")


def failing(*_: object, **__: object) -> None:
    raise OSError("no route to host")


def test_an_untrained_copy_needs_a_bundle_to_copy(digits: Path) -> None:
    with pytest.raises(ConfigError, match="needs a bundle"):
        probe("random:test_resnet", digits, baselines=["random"], size=32, device="cpu")


def test_more_labels_help_and_a_perfect_feature_scores_one() -> None:
    generator = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 60)
    order = generator.permutation(240)
    x = np.eye(8, dtype=np.float32)[y] * 4 + generator.standard_normal((240, 8)).astype(np.float32)
    found = score(x, y, order[:160], order[160:])
    assert found.linear > 0.95
    assert found.few_shot[1] < found.few_shot[5] <= found.few_shot[10] + 0.02
    assert found.linear_low <= found.linear <= found.linear_high
    same = np.eye(4, dtype=np.float32)[y]
    assert score(same, y, order[:160], order[160:]).linear == 1


def test_a_random_encoder_is_the_same_every_time() -> None:
    one, other = (open_encoder("random:test_vit", 1, 32)[0].state_dict() for _ in range(2))
    assert all(bool((one[name] == other[name]).all()) for name in one)


def test_a_class_that_only_training_has_costs_accuracy_and_no_balance() -> None:
    """Group-aware splits do that; the warning of scikit-learn would be an error here."""
    y = np.repeat([0, 1, 2], 40)
    noise = np.random.default_rng(0).normal(0, 0.01, (120, 3))
    x = (np.eye(3)[y] + noise).astype(np.float32)
    test = np.concatenate([np.arange(0, 10), np.arange(40, 50)])
    train = np.setdiff1d(np.arange(120), test)
    x[test[:5]] = np.eye(3)[2]  # half of class 0 looks like class 2, which the test part lacks
    found = score(x, y, train, test)
    assert found.linear == pytest.approx(0.75)
    assert found.balanced == pytest.approx(0.75)  # (0.5 + 1) / 2


@pytest.mark.parametrize("output", ["embedding", "projection"])
def test_a_head_is_kept_that_reads_the_bundle_s_own_output(
    folder: Path, digits: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    probe(
        str(folder), digits, classes="digit-0,digit-1,digit-2", output=output, keep="kinds",
        error_rate=0.2, device="cpu", as_json=True,
    )  # fmt: skip
    told = capsys.readouterr().err
    assert f"jepack serve {folder} --probe kinds" in told
    bundle = bundles.load(folder)
    kept = bundle.probe("kinds")
    assert (kept.output, kept.fingerprint) == (output, bundle.fingerprints[output])
    assert kept.classes == ("digit-0", "digit-1", "digit-2")
    assert kept.error_rate == 0.2
    assert kept.figures["labels"] == kept.figures["judged"]
    assert 0 <= float(str(kept.figures["calibration_error"])) <= 1
    shares = kept.probabilities(bundle.golden()[output])
    assert np.allclose(shares.sum(axis=1), 1)
    # The golden images are zeros that it has seen: in another space than its own it would not know them.
    assert (shares.argmax(axis=1) == 0).mean() >= 0.75
    assert (folder / "probes.json").is_file()


def test_what_cannot_be_kept_is_told_before_any_work(folder: Path, digits: Path) -> None:
    with pytest.raises(ConfigError, match="needs a bundle to keep the probe in"):
        probe("random:test_resnet", digits, keep="kinds", device="cpu")
    with pytest.raises(ConfigError, match="cannot name a probe"):
        probe(str(folder), digits, keep="../kinds", device="cpu")
    assert bundles.load(folder).probes == []

"""Nobody ships a collapsed encoder by accident: real checkpoints, broken by surgery, are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_bundle import write_small_bundle

from export.run import export_bundle
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import GateError


def constant_output(encoder: Any) -> None:
    encoder.projector[-1].weight.zero_()


def half_dead(encoder: Any) -> None:
    encoder.projector[-1].weight[::2].zero_()


def half_dead_rotated(encoder: Any) -> None:
    last = encoder.projector[-1].weight
    rotation, _ = torch.linalg.qr(torch.randn(len(last), len(last)))
    last.copy_(rotation @ torch.cat([last[:32], torch.zeros_like(last[32:])]))


def rank_one(encoder: Any) -> None:
    last = encoder.projector[-1].weight
    last.copy_(torch.outer(torch.randn(last.shape[0]), last[0]))


def half_dead_backbone(encoder: Any) -> None:
    block = encoder.backbone.layer4[-1]
    for norm in (block.bn2, block.downsample[-1]):
        norm.weight[::2] = 0
        norm.bias[::2] = 0


def flipped_exponent(encoder: Any) -> None:
    """One bit of one weight, behind a hidden unit that these images never wake."""
    encoder.projector[4].weight[0], encoder.projector[4].bias[0] = 0, -1
    encoder.projector[-1].weight[0, 0] = 2e37


COLLAPSED = {
    constant_output: "constant",
    half_dead: "32 of 64 coordinates never change",
    rank_one: "effective rank 1.0",
    half_dead_rotated: "only 3[0-9] of 47 directions hold variance",
    half_dead_backbone: "coordinates never change",
    flipped_exponent: "a weight of size 2.0e\\+37",
}


@pytest.mark.parametrize("surgery", COLLAPSED)
def test_a_collapsed_checkpoint_is_refused_and_no_export_written(
    surgery: Any, tmp_path: Path, digits_folder: Path
) -> None:
    bundle = write_small_bundle(tmp_path / "bundle", digits_folder, surgery=surgery)
    with pytest.raises(GateError, match=COLLAPSED[surgery]):
        export_bundle(bundle, data=digits_folder)
    assert not list(bundle.folder.rglob("*.onnx"))
    assert bundles.verify(bundle.folder) == []


def test_the_command_refuses_with_exit_code_5_and_says_why(
    tmp_path: Path, digits_folder: Path
) -> None:
    bundle = write_small_bundle(tmp_path / "bundle", digits_folder, surgery=rank_one)
    command = [sys.executable, "-m", "jepack", "export", str(bundle.folder)]
    done = subprocess.run(
        [*command, "--data", str(digits_folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert "nearly everything lies on one line" in done.stderr
    assert "--force" in done.stderr
    assert not (bundle.folder / "onnx").exists()


def test_force_writes_the_export_and_the_manifest_remembers(
    tmp_path: Path, digits_folder: Path
) -> None:
    bundle = write_small_bundle(tmp_path / "bundle", digits_folder, surgery=rank_one)
    result = export_bundle(
        bundle, formats=["torchscript"], data=digits_folder, force=True, timing=False
    )
    assert (bundle.folder / "torchscript" / "model.pt").is_file()
    gate = bundles.load(bundle.folder).manifest["gate"]
    assert gate["forced"]
    assert not gate["passed"]
    assert any("one line" in reason for reason in gate["refusals"])
    assert result.bundle.fingerprints == bundle.fingerprints


def test_weights_that_no_longer_give_the_golden_outputs_are_refused(
    tmp_path: Path, small_bundle: Bundle
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "bundle"
    with bundles.writing(folder, small_bundle.manifest) as stage:
        for path in small_bundle.folder.iterdir():
            (stage / path.name).write_bytes(path.read_bytes())
        weights = load_file(stage / "model.safetensors")
        weights["conv1.0.weight"] = weights["conv1.0.weight"].flip(0)
        save_file(weights, stage / "model.safetensors")
    with pytest.raises(GateError, match="not those the bundle was made of"):
        export_bundle(bundles.load(folder))


def test_a_healthy_bundle_passes_and_records_what_was_measured(exported_bundle: Bundle) -> None:
    assert exported_bundle.manifest["gate"]["passed"]
    assert not exported_bundle.manifest["gate"]["forced"]
    measured = json.loads((exported_bundle.folder / "isotropy.json").read_text())
    assert set(measured["outputs"]) == {"embedding", "raw_projection", "projection"}
    assert set(measured["exports"]) == {"onnx/model.onnx", "torchscript/model.pt"}
    assert measured["images"]["held_out"] == 48


def test_promises_are_switched_off_when_too_few_images_speak_for_them(
    exported_bundle: Bundle,
) -> None:
    assert exported_bundle.manifest["promises"] == {"drift": False, "atypicality": False}


def test_the_held_out_pages_of_a_stack_are_what_an_export_is_judged_on(
    tmp_path: Path, small_bundle: Bundle
) -> None:
    from dataclasses import replace

    import numpy as np
    import tifffile

    from export.evaluation import find_evaluation
    from jepack.decoding import crop

    pages = np.random.default_rng(0).integers(0, 256, (20, 64, 64), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    (tmp_path / "other.png").write_bytes(b"not of this data set")
    named = [f"stack.tif#page={page}" for page in range(0, 20, 2)]
    data = {"folder": str(tmp_path), "source": "stack.tif", "held_out": named}
    bundle = replace(small_bundle, manifest={**small_bundle.manifest, "provenance": {"data": data}})
    found = find_evaluation(bundle, None, 512)
    assert (found.held_out_count, len(found.calibration)) == (10, 10)
    judged = {image.tobytes() for image in found.images[found.judged]}
    assert judged == {crop(page[..., None], bundle.preprocessing).tobytes() for page in pages[::2]}

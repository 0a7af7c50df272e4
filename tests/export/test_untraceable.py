"""Encoders that torch cannot export: attention that can be written out is, and the rest is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from timm.models.twins import Twins
from typer.testing import CliRunner

from export import formats
from export.formats import trace_onnx
from export.run import export_bundle
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.cli import app
from jepack.decoding import Preprocessing
from jepack.encoder import Encoder, EncoderGraph, Projector, ProjectorConfig
from jepack.errors import ArtifactError
from jepack.measures import Calibration


def test_attention_over_five_axes_becomes_onnx_with_the_same_outputs() -> None:
    """Twins (and Hiera) attend within windows, which torch's fused attention cannot bring to ONNX."""
    torch.manual_seed(0)
    backbone = Twins(
        img_size=32, patch_size=4, num_classes=0, embed_dims=(8, 16), num_heads=(1, 2),
        mlp_ratios=(2, 2), depths=(1, 1), sr_ratios=(2, 1), wss=(4, 2),
    )  # fmt: skip
    encoder = Encoder(
        backbone, Projector(ProjectorConfig(in_features=16, out_features=4, layers=1))
    )
    nothing = Calibration(np.zeros(4), np.eye(4))
    graph = EncoderGraph(encoder, Preprocessing(size=32), nothing).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    model = trace_onnx(graph, images, ["pooler_output", "projection"])
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {"pixel_values": images})
    with torch.no_grad():
        wanted = graph(torch.from_numpy(images))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert all(getattr(m, "fused_attn", True) for m in backbone.modules())  # as it was


REPORT = """Failed to convert the exported program to an ONNX model. This is step 3/3
- If there is a missing ONNX function, implement it and register it to the registry.

## Exception summary

<class 'ValueError'>: Cannot view a tensor with shape torch.Size([16*s99, 4, 2, 32])!

While executing %view : call_function[target=torch.ops.aten.view.default](args = (%x,))
Original traceback:
""" + "\n".join(f'File "maxxvit.py", line {n}, in forward' for n in range(100))


@pytest.fixture
def untraceable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.onnx fails as it does for real networks; how often it was asked."""
    asked: list[str] = []

    def fail(*arguments: Any, **options: Any) -> Any:
        asked.append("onnx")
        raise RuntimeError(REPORT)

    monkeypatch.setattr(formats.torch.onnx, "export", fail)
    return asked


@pytest.mark.parametrize("words", [(), ("--dry-run", "--json")])
def test_an_encoder_that_onnx_refuses_is_told_in_a_sentence_with_the_formats_that_work(
    words: tuple[str, ...], untraceable: list[str], small_bundle: Bundle, digits_folder: Path
) -> None:
    command = ["export", str(small_bundle.folder), "--data", str(digits_folder), "--no-timing"]
    done = CliRunner().invoke(app, [*command, "--formats", "onnx,torchscript", *words])
    assert isinstance(done.exception, ArtifactError)
    text = str(done.exception)
    assert done.exception.exit_code == 4
    assert (
        "onnx/model.onnx: torch cannot write this encoder as ONNX (aten.view.default: Cannot"
        in text
    )
    assert "What works: --formats torchscript,pt2 (`jepack serve` needs onnx)" in text
    assert len(text.splitlines()) == 1
    assert untraceable == ["onnx"]  # ResNets have no attention to write out
    assert not (small_bundle.folder / "torchscript").exists()


def test_optional_formats_that_cannot_be_made_are_left_out_and_told(
    untraceable: list[str], small_bundle: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    result = export_bundle(
        small_bundle, formats=["torchscript", "fp16", "int8"], data=digits_folder, force=True,
        dry_run=True,
    )  # fmt: skip
    assert [item.file for item in result.exports if item.written] == ["torchscript/model.pt"]
    assert untraceable == ["onnx"]  # tried once for both
    assert all("torch cannot write" in item.verdict.refusals[0] for item in result.exports[1:])
    assert result.gate["passed"]


def test_a_dry_run_says_what_it_would_write_and_writes_nothing(
    small_bundle: Bundle, digits_folder: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_bundle.folder.rglob("*")}
    command = ["export", str(small_bundle.folder), "--data", str(digits_folder), "--no-timing"]
    done = CliRunner().invoke(app, [*command, "--formats", "torchscript", "--dry-run"])
    assert done.exit_code == 0, done.exception
    assert "nothing written; it would write torchscript/model.pt" in " ".join(done.stdout.split())
    told = CliRunner().invoke(app, [*command, "--formats", "torchscript", "--dry-run", "--json"])
    assert json.loads(told.stdout)["dry_run"] is True
    assert {path: path.stat().st_mtime_ns for path in small_bundle.folder.rglob("*")} == before
    assert bundles.verify(small_bundle.folder) == []

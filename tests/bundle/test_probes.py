"""A probe kept in a bundle: it comes back as it was, and nothing else passes for one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jepack import bundle as bundles
from jepack.bundle import Bundle, Probe, editing, verify, write_probe
from jepack.bundle.making import write_manifest
from jepack.errors import ArtifactError, ConfigError


def probe_of(bundle: Bundle, name: str = "cracks", **changes: Any) -> Probe:
    generator = np.random.default_rng(0)
    width = bundle.dimensions["embedding"]
    values: dict[str, Any] = {
        "name": name, "output": "embedding", "fingerprint": bundle.fingerprints["embedding"],
        "classes": ("good", "a crack, “long”", "x"),
        "mean_D": generator.normal(size=width), "scale_D": generator.random(width) + 0.5,
        "weight_CD": generator.normal(size=(3, width)), "bias_C": generator.normal(size=3),
        "error_rate": 0.1, "threshold": 0.6, "figures": {"accuracy": 0.9, "kind": "linear", "groups": None},
    }  # fmt: skip
    return Probe(**{**values, **changes})


@pytest.fixture
def kept(small_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle of its own with one probe."""
    shutil.copytree(small_bundle.folder, tmp_path / "bundle")
    bundle = bundles.load(tmp_path / "bundle")
    with editing(bundle) as stage:
        write_probe(stage, probe_of(bundle))
    return bundles.load(bundle.folder)


def test_a_probe_comes_back_as_it_was_kept(kept: Bundle) -> None:
    assert kept.probes == ["cracks"]
    assert {"probes/cracks.json", "probes/cracks.safetensors"} <= set(kept.manifest["files"])
    found, was = kept.probe("cracks"), probe_of(kept)
    assert (found.classes, found.figures) == (was.classes, was.figures)
    x = np.random.default_rng(1).normal(size=(5, kept.dimensions["embedding"]))
    assert np.allclose(found.probabilities(x), was.probabilities(x), atol=1e-5)
    assert np.allclose(found.probabilities(x).sum(axis=1), 1)
    assert all(name is None or name in found.classes for name in found.named(x))


def test_a_second_probe_stands_beside_the_first_and_the_same_name_replaces_it(kept: Bundle) -> None:
    with editing(kept) as stage:
        write_probe(stage, probe_of(kept, "other"))
    with editing(bundles.load(kept.folder)) as stage:
        write_probe(stage, probe_of(kept, classes=("one", "two", "three")))
    found = bundles.load(kept.folder)
    assert found.probes == ["cracks", "other"]
    assert found.probe("cracks").classes == ("one", "two", "three")
    assert found.fingerprints == kept.fingerprints  # a probe does not change the space


def test_unsure_is_said_where_several_classes_or_none_may_be(kept: Bundle) -> None:
    one = probe_of(
        kept, weight_CD=np.zeros((3, kept.dimensions["embedding"])), bias_C=np.log([0.7, 0.2, 0.1])
    )
    x = np.zeros((1, kept.dimensions["embedding"]))
    named = [
        Probe(**{**vars(one), "threshold": most}).named(x)[0] for most in (0.1, 0.5, 0.85, None)
    ]
    assert named == [None, "good", None, "good"]


@pytest.mark.parametrize("name", ["", "../escape", "a/b", ".hidden", "ü", "x" * 65])
def test_a_name_that_is_none_is_refused(kept: Bundle, name: str) -> None:
    with (
        pytest.raises(ConfigError, match="cannot name a probe|needs a name"),
        editing(kept) as stage,
    ):
        write_probe(stage, probe_of(kept, name))
    assert verify(kept.folder) == []


def test_asking_for_another_probe_tells_which_there_are(kept: Bundle) -> None:
    with pytest.raises(ArtifactError, match="no probe is called 'dents'. It has cracks"):
        kept.probe("dents")


def about(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "probes/cracks.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return damage


def head(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "probes/cracks.safetensors"
        save_file(change(load_file(path)), path)

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "other space": (about(lambda v: v.update(fingerprint="0" * 16)), "was made for the space"),
    "later schema": (about(lambda v: v.update(schema=2)), "upgrade jepack"),
    "one class": (about(lambda v: v.update(classes=["x"])), "2 to 4096 classes"),
    "class twice": (about(lambda v: v.update(classes=["x", "x", "y"])), "different words"),
    "output": (about(lambda v: v.update(output="logits")), "must be embedding or projection"),
    "rate": (about(lambda v: v.update(threshold=1.5)), "must lie in 0 to 1"),
    "more keys": (about(lambda v: v.update(url="http://x")), "and nothing else"),
    "figures": (about(lambda v: v.update(figures={"a": [1]})), "table of numbers and words"),
    "missing tensor": (head(lambda t: {k: v for k, v in t.items() if k != "bias"}), "'bias' is missing"),
    "wrong shape": (head(lambda t: {**t, "bias": t["bias"][:2].copy()}), "should be"),
    "half": (head(lambda t: {**t, "bias": t["bias"].astype(np.float16)}), "float32"),
    "scale": (head(lambda t: {**t, "scale": -t["scale"]}), "above 0"),
    "no number": (head(lambda t: {**t, "bias": t["bias"] * np.float32("nan")}), "NaN or infinite"),
    "no head": (lambda folder: (folder / "probes/cracks.safetensors").unlink(), "no file of a probe"),
    "no words": (lambda folder: (folder / "probes/cracks.json").unlink(), "missing beside"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_a_probe_that_its_manifest_agrees_with_is_checked_all_the_same(
    kept: Bundle, what: str
) -> None:
    damage, sentence = DAMAGES[what]
    damage(kept.folder)
    (kept.folder / "manifest.json").unlink()
    write_manifest(kept.folder, kept.manifest)  # as somebody would who forges one
    assert any(sentence in problem for problem in verify(kept.folder)), verify(kept.folder)
    with pytest.raises(ArtifactError):
        bundles.load(kept.folder)

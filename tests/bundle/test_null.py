"""A bundle keeps its null, tells it in its card, and refuses one that no held-out images gave."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_bundle import write_tiny_bundle

from jepack import bundle as bundles
from jepack.bundle import Bundle, card
from jepack.measures import fit_null


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as they were before nulls."""
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, plain: Path) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "bundle"
    shutil.copytree(plain, folder)
    x = np.random.default_rng(0).standard_normal((80, 2))
    with bundles.editing(bundles.load(folder)) as stage:
        bundles.write_null(stage, fit_null(x, faulted={"grey": x[:40] + 1}, runs=2))
    return folder


@pytest.fixture
def folder(watched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(watched, tmp_path / "bundle"))


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Other tensors, and a manifest that agrees with them."""
    path = folder / bundles.NULL
    value = {name: np.array(tensor) for name, tensor in load_file(path).items()}
    edit(value)
    path.unlink()
    save_file({name: np.array(tensor, order="C") for name, tensor in value.items()}, path)
    data, manifest = path.read_bytes(), json.loads((folder / "manifest.json").read_text())
    manifest["files"][path.name] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_without_a_null_loads_as_ever(plain: Path) -> None:
    assert bundles.load(plain).null() is None


def test_the_manifest_holds_the_null_of_a_bundle(watched: Path) -> None:
    bundle = bundles.load(watched)
    null = bundle.null()
    assert null is not None
    assert null.dimensions == bundle.dimensions["projection"]
    assert len(bundle.manifest["files"]["null.safetensors"]["sha256"]) == 64
    assert (watched / "null.safetensors").stat().st_size < 10_000


def test_a_null_from_before_faults_still_loads(folder: Path) -> None:
    def older(tensors: dict[str, Any]) -> None:
        for name in ("known", "faults", "squares", "changes"):
            del tensors[name]
        tensors["moments"] = tensors["moments"][:3]

    change(folder, older)
    assert bundles.verify(folder) == []
    null = bundles.load(folder).null()
    assert null is not None
    assert null.channels == ("distance", "shift", "surprise")


def test_a_null_from_before_it_looked_back_still_loads(folder: Path) -> None:
    def older(tensors: dict[str, Any]) -> None:
        del tensors["squares"], tensors["changes"]
        tensors["moments"] = tensors["moments"][:5]

    change(folder, older)
    assert bundles.verify(folder) == []
    null = bundles.load(folder).null()
    assert null is not None
    assert null.channels == ("distance", "shift", "surprise", "size", "fault")
    assert null.looking_back == ()


def test_a_null_that_changed_on_disk_is_told(folder: Path) -> None:
    data = bytearray((folder / bundles.NULL).read_bytes())
    data[-1] ^= 1
    (folder / bundles.NULL).write_bytes(data)
    assert bundles.verify(folder) == ["null.safetensors: content changed (SHA-256 differs)"]


def put(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def edit(tensors: dict[str, Any]) -> None:
        tensors[name] = np.asarray(value, tensors[name].dtype)

    return edit


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "of another width": (put("mean", [0, 0, 0]), "not a null of this bundle's projection"),
    "a tensor too few": (lambda t: t.pop("spread"), "'spread' is missing"),
    "a tensor too many": (lambda t: t.update(image=np.zeros(3)), "'image' has no place there"),
    "no scores": (put("scores", []), "0 scores, must be 1 to"),
    "too many knots": (put("knots", np.ones(17)), "17 knots, must be 1 to 16"),
    "scores in disorder": (lambda t: put("scores", t["scores"][::-1])(t), "must ascend"),
    "scores below zero": (lambda t: put("scores", t["scores"] - 100)(t), "not be negative"),
    "a scale of zero": (lambda t: put("scale", t["scale"] * 0)(t), "must be above 0"),
    "no spread": (put("spread", 0), "must be above 0"),
    "a deviation of zero": (lambda t: put("moments", t["moments"] * 0)(t), "must be above 0"),
    "cosines of two": (lambda t: put("cosines", t["cosines"] * 0 + 2)(t), "lie in -1 to 1"),
    "long directions": (lambda t: put("directions", t["directions"] * 2)(t), "length 1"),
    "windows in disorder": (lambda t: put("windows", t["windows"][::-1])(t), "windows must ascend"),
    "a window of a day": (lambda t: put("windows", t["windows"] * 64)(t), "windows must ascend"),
    "a window of half a block": (lambda t: put("windows", t["windows"] + 8)(t), "multiple of 16"),
    "other counts": (put("images", [5, 5]), "number of scores"),
    "not a number": (put("knots", [1, 1, 1, np.nan]), "NaN or infinite"),
    "an unheard-of fault": (put("known", [99]), "known must name faults, 0 to"),
    "a fault without its look": (lambda t: t.pop("faults"), "'faults' is missing"),
    "squares alone": (lambda t: t.pop("changes"), "'changes' is missing"),
    "changes alone": (lambda t: t.pop("squares"), "'squares' is missing"),
    "a change too few": (put("changes", np.ones((2, 7, 3))), "not a null of"),
    "no spread of squares": (lambda t: put("squares", t["squares"] * 0)(t), "must be above 0"),
    "a look too narrow": (lambda t: t.update(faults=t["faults"][:, 1:].copy()), "not a null of"),
    "in double precision": (lambda t: t.update(mean=np.zeros(2)), "must be float32"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_null_that_no_images_gave_is_refused(kind: str, folder: Path) -> None:
    edit, sentence = DAMAGES[kind]
    change(folder, edit)
    problems = bundles.verify(folder)
    assert len(problems) == 1
    assert sentence in problems[0]
    assert problems[0].startswith("null.safetensors: ")


def test_the_card_tells_what_a_watcher_knows(watched: Path, plain: Path) -> None:
    bundle = bundles.load(watched)
    text = card.make(watched, bundle.manifest)
    assert "It rests on 80 held-out images" in text
    assert "the look of these faults: grey" in text
    assert "`jepack drift" in text
    assert "Not measured: `jepack export BUNDLE --data IMAGES`" in card.make(
        plain, Bundle(plain, bundles.read_manifest(plain)).manifest
    )

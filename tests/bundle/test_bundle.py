"""A bundle says what is wrong with it, whatever was done to it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ArtifactError


@pytest.fixture
def folder(exported_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_bundle.folder, tmp_path / "bundle"))


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def edit_manifest(folder: Path, change: Callable[[Any], Any]) -> None:
    value = manifest(folder)
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value))


def agree(folder: Path, name: str) -> None:
    """Make the manifest agree with a changed file: the damage of somebody who knows about hashes."""
    data = (folder / name).read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(folder, lambda value: value["files"].update({name: entry}))
    changed = manifest(folder)
    edit_manifest(folder, lambda value: value.update(fingerprints=bundles.fingerprints(changed)))


def forged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(change(data))
        agree(folder, name)

    return damage


def tensors(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        value = load_file(folder / name)
        change(value)
        save_file(value, folder / name)
        agree(folder, name)

    return damage


def header(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Rewrite the JSON header of a safetensors file."""

    def rewrite(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        changed = change(data[8 : 8 + size])
        return len(changed).to_bytes(8, "little") + changed + data[8 + size :]

    return rewrite


def twice(text: bytes) -> bytes:
    name = json.dumps(sorted(k for k in json.loads(text) if k != "__metadata__")[0])
    entry = json.dumps(json.loads(text)[json.loads(name)])
    return b"{" + f"{name}: {entry}, ".encode() + text.strip()[1:]


def many(text: bytes) -> bytes:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({**json.loads(text), **{f"t{n}": empty for n in range(20_001)}}).encode()


def overlapping(text: bytes) -> bytes:
    value = json.loads(text)
    names = sorted(name for name in value if name != "__metadata__")
    value[names[1]]["data_offsets"] = value[names[0]]["data_offsets"]
    value[names[1]]["shape"] = value[names[0]]["shape"]
    return json.dumps(value).encode()


def bit_flip(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def linked(folder: Path) -> None:
    shutil.move(folder / "config.json", folder.parent / "elsewhere.json")
    (folder / "config.json").symlink_to(folder.parent / "elsewhere.json")


def linked_folder(folder: Path) -> None:
    shutil.move(folder / "onnx", folder.parent / "elsewhere")
    (folder / "onnx").symlink_to(folder.parent / "elsewhere")


def escaping(folder: Path) -> None:
    (folder.parent / "secret.json").write_text("{}")
    agree_name = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    edit_manifest(folder, lambda value: value["files"].update({"../secret.json": agree_name}))


def code(folder: Path) -> None:
    (folder / "modeling.py").write_text("print('hello')")
    agree(folder, "modeling.py")


def external(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    path.write_bytes(model.SerializeToString())
    agree(folder, "onnx/model.onnx")


def custom_operator(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path)
    model.opset_import.append(onnx.helper.make_opsetid("com.example.evil", 1))
    path.write_bytes(model.SerializeToString())
    agree(folder, "onnx/model.onnx")


def first(value: dict[str, Any], suffix: str) -> str:
    return next(name for name in sorted(value) if name.endswith(suffix))


MODEL, GOLDEN = "model.safetensors", "golden.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "bit flip": (bit_flip, "model.safetensors: content changed"),
    "truncated": (truncated, "model.safetensors: 1000 bytes, should be"),
    "missing": (
        lambda f: (f / "config.json").unlink(),
        "config.json: listed in the manifest but miss",
    ),
    "extra file": (lambda f: (f / "x.json").write_text("{}") and None, "x.json: not listed"),
    "fifo": (lambda f: os.mkfifo(f / "pipe.json"), "pipe.json: not listed"),
    "link": (linked, "config.json: a link"),
    "linked folder": (linked_folder, "onnx: not listed in the manifest"),
    "path escape": (escaping, "'../secret.json' is not a path inside the bundle"),
    "code": (code, "modeling.py: a bundle holds only"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is not a jepack bundle"),
    "manifest not JSON": (
        lambda f: (f / "manifest.json").write_text("{") and None,
        "cannot be read",
    ),
    "manifest key twice": (
        lambda f: (f / "manifest.json").write_text('{"schema": 1, "schema": 2}') and None,
        "schema named twice",
    ),
    "wrong schema": (
        lambda f: edit_manifest(f, lambda v: v.update(schema=99)),
        "has schema 99, this jepack reads 1",
    ),
    "entry without hash": (
        lambda f: edit_manifest(f, lambda v: v["files"].update({"config.json": {}})),
        "'config.json' needs bytes and a SHA-256",
    ),
    "absurd dimension": (
        lambda f: edit_manifest(f, lambda v: v["dimensions"].update(embedding=-1)),
        "the dimension of embedding is -1",
    ),
    "other fingerprint": (
        lambda f: edit_manifest(f, lambda v: v["fingerprints"].update(embedding="0" * 16)),
        "fingerprints do not follow",
    ),
    "impossible preprocessing": (
        lambda f: edit_manifest(f, lambda v: v["preprocessing"].update(std=[0.0])),
        "preprocessing cannot be used",
    ),
    "tensor named twice": (forged(MODEL, header(twice)), "named twice"),
    "absurd tensor count": (forged(MODEL, header(many)), "tensors (at most 20000)"),
    "absurd header": (forged(MODEL, lambda d: b"\xff" * 8 + d[8:]), "its header claims"),
    "forged truncation": (forged(MODEL, lambda d: d[:-100]), "truncated or forged"),
    "overlapping tensors": (forged(MODEL, header(overlapping)), "truncated or forged"),
    "hidden bytes": (forged(MODEL, lambda d: d + b"hello"), "5 bytes belong to no tensor"),
    "NaN weight": (
        tensors(MODEL, lambda v: v[first(v, "weight")].fill(np.nan)),
        "values that are NaN or infinite",
    ),
    "golden of another width": (
        tensors(GOLDEN, lambda v: v.update(embedding=v["embedding"][:, :10].copy())),
        "embedding is (8, 10), not (8, 512)",
    ),
    "golden without images": (
        tensors(GOLDEN, lambda v: v.pop("images")),
        "needs images, embedding and projection",
    ),
    "config key twice": (
        forged("config.json", lambda d: b'{"architecture": "a", ' + d.strip()[1:]),
        "architecture named twice",
    ),
    "external data": (external, "lies in another file"),
    "unknown operators": (custom_operator, "needs operators of 'com.example.evil'"),
    "not ONNX": (forged("onnx/model.onnx", lambda d: b"\x07" * 50), "not an ONNX file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_kind_of_damage_is_explained_and_refused(kind: str, folder: Path) -> None:
    damage, reason = DAMAGE[kind]
    damage(folder)
    problems = bundles.verify(folder)
    assert any(reason in problem for problem in problems), problems
    with pytest.raises(ArtifactError, match="not a sound bundle"):
        bundles.load(folder)


def test_a_sound_bundle_has_no_problems(folder: Path) -> None:
    assert bundles.verify(folder) == []


def test_the_command_says_it_with_exit_code_4(folder: Path) -> None:
    bit_flip(folder)
    command = [sys.executable, "-m", "jepack", "verify", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "content changed" in done.stdout
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["sound"] is False


def test_an_interrupted_edit_leaves_the_bundle_as_it_was(folder: Path) -> None:
    before = manifest(folder)

    def edit() -> None:
        with bundles.editing(bundles.load(folder)) as stage:
            (stage / "isotropy.json").unlink()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit()
    assert manifest(folder) == before
    assert bundles.verify(folder) == []
    assert not [path for path in folder.parent.iterdir() if path.name.endswith(".tmp")]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="left alone"), bundles.writing(tmp_path, {}):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"

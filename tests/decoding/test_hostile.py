"""Files made to confuse: `verify` answers all of them in sentences, and nothing is fetched."""

from __future__ import annotations

import builtins
import copy
import json
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_bundle import write_small_bundle, write_tiny_bundle

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ArtifactError

DEEP = b"[" * 100_000


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A sound bundle of a few kilobytes: `verify` needs no real network."""
    return write_tiny_bundle(tmp_path / "bundle")


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a file and make the manifest agree with it, as somebody who knows about hashes would."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    try:
        bundles.write_manifest(folder, manifest)
    except Exception:  # a manifest that is itself hostile stays as it is
        (folder / "manifest.json").write_text(json.dumps(manifest))


def with_header(data: bytes, header: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def header_of(data: bytes) -> Any:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def other_tensors(**tensors: Any) -> Callable[[bytes, Path], bytes]:
    def make(data: bytes, folder: Path) -> bytes:
        save_file(tensors, folder.parent / "made.safetensors")
        return (folder.parent / "made.safetensors").read_bytes()

    return make


def header_with(change: Callable[[Any], Any]) -> Callable[[bytes, Path], bytes]:
    def make(data: bytes, folder: Path) -> bytes:
        return with_header(data, json.dumps(change(header_of(data))).encode())

    return make


FLAT = np.zeros((3, 4), np.float32)
HOSTILE: dict[str, tuple[str, Callable[[bytes, Path], bytes], str]] = {
    "golden tensors that nobody knows": (
        "golden.safetensors",
        other_tensors(pictures=np.zeros((3, 8, 8, 1), np.uint8), embedding=FLAT),
        "golden.safetensors: holds 'embedding', 'pictures', needs images",
    ),
    "golden images that are one number": (
        "golden.safetensors",
        other_tensors(images=np.array(3, np.uint8), embedding=FLAT, projection=FLAT[:, :2].copy()),
        "images are uint8 ()",
    ),
    "no golden image": (
        "golden.safetensors",
        other_tensors(
            images=np.zeros((0, 8, 8, 1), np.uint8),
            embedding=FLAT[:0].copy(),
            projection=FLAT[:0, :2].copy(),
        ),
        "golden.safetensors: 0 images",
    ),
    "golden outputs that are no floats": (
        "golden.safetensors",
        other_tensors(
            images=np.zeros((3, 8, 8, 1), np.uint8),
            embedding=np.zeros((3, 4), np.int64),
            projection=FLAT[:, :2].copy(),
        ),
        "embedding is int64, not floats",
    ),
    "empty safetensors": ("model.safetensors", lambda data, folder: b"", "model.safetensors: 0 bytes"),
    "cut inside its length": ("model.safetensors", lambda data, folder: data[:5], "5 bytes, too short"),
    "a list for a dtype": (
        "model.safetensors",
        header_with(lambda v: {**v, "norm.bias": {**v["norm.bias"], "dtype": ["F32"]}}),
        "model.safetensors: 'norm.bias' has dtype ['F32']",
    ),
    "a table for a dtype": (
        "model.safetensors",
        header_with(lambda v: {**v, "norm.bias": {**v["norm.bias"], "dtype": {}}}),
        "model.safetensors: 'norm.bias' has dtype {}",
    ),
    "a deep header": (
        "model.safetensors",
        lambda data, folder: with_header(data, DEEP),
        "model.safetensors: its header is nested too deeply",
    ),
    "a deep config": ("config.json", lambda data, folder: DEEP, "config.json: not sound JSON (nested"),
    "a config that is a list": ("config.json", lambda data, folder: b"[]", "config.json is [], not a"),
    "measurements that are a list": (
        "isotropy.json",
        lambda data, folder: b"[1]",
        "isotropy.json: not a table",
    ),
    "a number of many digits": (
        "isotropy.json",
        lambda data, folder: b'{"a": ' + b"9" * 5000 + b"}",
        "isotropy.json: not sound JSON",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_named_and_refused(kind: str, tiny: Path) -> None:
    name, make, sentence = HOSTILE[kind]
    put(tiny, name, make((tiny / name).read_bytes(), tiny))
    problems = bundles.verify(tiny)
    assert any(sentence in problem for problem in problems), problems
    with pytest.raises(ArtifactError, match="not a sound bundle"):
        bundles.load(tiny)


VALUES: list[Any] = [
    None, True, -1, 0, 1e400, float("nan"), 10**40, "", "x" * 5000, "\ud800", "\x1b[31m[/]", "../..",
    "http://127.0.0.1:1/x", [], {}, [[[]]], {"a": {"b": []}}, [None], ["F32"],
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something may be changed inside a JSON value, the root included."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for number in range(len(value)):
            yield from places(value[number], (*path, number))


def mutated(value: Any, draw: random.Random) -> Any:
    value = copy.deepcopy(value)
    where = draw.choice(list(places(value)))
    if not where:
        return draw.choice(VALUES)
    holder = value
    for key in where[:-1]:
        holder = holder[key]
    if draw.random() < 0.2 and isinstance(holder, dict):
        del holder[where[-1]]
    elif draw.random() < 0.2 and isinstance(holder, dict):
        holder[str(draw.choice(VALUES))] = draw.choice(VALUES)
    else:
        holder[where[-1]] = draw.choice(VALUES)
    return value


def damaged(name: str, data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.25:  # bytes, whatever the kind
        at = draw.randrange(len(data))
        return draw.choice([data[:at], data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]])
    if name.endswith(".json"):
        return json.dumps(mutated(json.loads(data), draw)).encode()
    return with_header(data, json.dumps(mutated(header_of(data), draw)).encode())


@pytest.mark.parametrize("seed", range(3))
def test_no_mutation_of_a_bundle_crashes_verify(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers, manifests and configs changed at random; `verify` gives sentences that can be printed."""
    monkeypatch.setattr("jepack.files.os.fsync", lambda handle: None)
    draw = random.Random(seed)
    folder = write_tiny_bundle(tmp_path / "bundle")
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused = 0
    for _ in range(80):
        name = draw.choice(sorted(sound))
        data = damaged(name, sound[name], draw)
        if name == "manifest.json":
            (folder / name).write_bytes(data)
        else:
            put(folder, name, data)
        problems = bundles.verify(folder)
        refused += bool(problems)
        assert all(problem.isprintable() for problem in problems), problems
        for other, content in sound.items():
            (folder / other).write_bytes(content)
    assert refused > 40  # the others changed what nobody reads, such as a licence


ADDRESS = "http://127.0.0.1:9/weights.safetensors"
LEADING_AWAY: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "published weights": ("config.json", lambda v: v["model_args"].update(pretrained=True)),
    "an address": (
        "config.json",
        lambda v: v["model_args"].update(pretrained=True, pretrained_cfg={"url": ADDRESS}),
    ),
    "a repository": (
        "config.json",
        lambda v: v["model_args"].update(pretrained_cfg_overlay={"hf_hub_id": "ann/evil"}),
    ),
    "a file": ("config.json", lambda v: v["model_args"].update(checkpoint_path="/etc/passwd")),
    "a cache": ("config.json", lambda v: v["model_args"].update(cache_dir="/elsewhere")),
    "another output": ("config.json", lambda v: v["model_args"].update(features_only=True)),
    "scripted layers": ("config.json", lambda v: v["model_args"].update(scriptable=True)),
    "a path for a word": ("config.json", lambda v: v["model_args"].update(global_pool="../../x")),
    "a table for a number": ("config.json", lambda v: v["model_args"].update(depth={"a": 1})),
    "an absurd number": ("config.json", lambda v: v["model_args"].update(embed_dim=10**9)),
    "the name of a repository": ("config.json", lambda v: v.update(architecture="hf-hub:ann/evil")),
    "the name of a folder": ("config.json", lambda v: v.update(architecture="local-dir:/etc")),
    "weights of the config": ("config.json", lambda v: v["pretrained_cfg"].update(url=ADDRESS)),
    "a file of the config": ("config.json", lambda v: v["pretrained_cfg"].update(file="/etc/passwd")),
    "a loader of the config": ("config.json", lambda v: v["pretrained_cfg"].update(custom_load="hf")),
    "code of the config": ("config.json", lambda v: v.update(auto_map={"AutoModel": "a--b.C"})),
    "an absurd projector": (
        "config.json",
        lambda v: v["jepack"]["projector"].update(hidden=10**9, layers=40),
    ),
    "a projector of another width": (
        "config.json",
        lambda v: v["jepack"]["projector"].update(in_features=7),
    ),
    "a module that is code": ("modules.json", lambda v: v[0].update(type="os.system")),
    "a module elsewhere": ("modules.json", lambda v: v[0].update(path="../../elsewhere")),
    "a tokenizer that is code": (
        "sentence_bert_config.json",
        lambda v: v.update(model_args={"trust_remote_code": True}),
    ),
    "a processor elsewhere": (
        "preprocessor_config.json",
        lambda v: v["pretrained_cfg"].update(hf_hub_id="ann/evil"),
    ),
}  # fmt: skip


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address asked for and every file opened from now on; addresses fail."""
    import jepack.encoder  # noqa: F401  # opens files of its own

    found: list[str] = []
    opened = builtins.open

    def no_network(*arguments: Any, **options: Any) -> Any:
        found.append(f"network {arguments[1:]}")
        raise OSError("no network here")

    def watched(file: Any, *arguments: Any, **options: Any) -> Any:
        found.append(str(file))
        return opened(file, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(builtins, "open", watched)
    return found


@pytest.mark.parametrize("kind", LEADING_AWAY)
def test_what_would_lead_a_loader_out_of_the_bundle_is_refused_and_nothing_is_fetched(
    kind: str, tiny: Path, touched: list[str]
) -> None:
    from jepack.encoder import load_encoder

    name, change = LEADING_AWAY[kind]
    value = json.loads((tiny / name).read_text())
    change(value)
    put(tiny, name, json.dumps(value).encode())
    problems = bundles.verify(tiny)
    assert problems
    assert all(problem.startswith(name) for problem in problems), problems
    if name == "config.json":  # the same rules hold where nobody verified
        with pytest.raises(ArtifactError):
            load_encoder(Bundle(tiny, json.loads((tiny / "manifest.json").read_text())))
    assert [place for place in touched if not inside(place, tiny)] == []


def inside(place: str, folder: Path) -> bool:
    return place.startswith((str(folder), str(folder.parent / "made")))


def test_loading_a_bundle_touches_no_network_and_no_file_outside_it(
    small_bundle: Bundle, touched: list[str]
) -> None:
    from jepack.encoder import serving_graph

    serving_graph(bundles.load(small_bundle.folder))
    assert [place for place in touched if not inside(place, small_bundle.folder)] == []


def test_arguments_that_make_no_network_are_one_error(tiny: Path) -> None:
    from jepack.encoder import load_encoder

    value = json.loads((tiny / "config.json").read_text())
    value["model_args"]["num_heads"] = 3  # of 4 dimensions
    put(tiny, "config.json", json.dumps(value).encode())
    with pytest.raises(ArtifactError, match="timm cannot build this network"):
        load_encoder(bundles.load(tiny))


def test_every_argument_that_our_recipes_keep_in_a_bundle_is_on_the_list() -> None:
    from jepack.bundle import argument_problems
    from training.settings import RECIPES, recipe

    for name in RECIPES:
        assert argument_problems({**recipe(name).encoder_options, "img_size": 64}) == []


def test_a_bundle_of_200_channels_is_sound(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 200), dtype=np.uint8)
    made = write_small_bundle(tmp_path / "b", tmp_path, channels=200, size=32, pixels=pixels)
    assert bundles.verify(made.folder) == []
    assert bundles.load(made.folder).preprocessing.channels == 200


def test_a_list_for_each_channel_is_as_long_as_there_are_channels() -> None:
    from jepack.bundle import PRETRAINED_CFG, table_problems
    from jepack.bundle.rules import PREPROCESSING

    look = {"channels": 200, "mean": [0.5] * 200, "std": [0.2] * 200, "window": [[0, 1]] * 200}
    assert table_problems("preprocessing", look, PREPROCESSING) == []
    config = {"mean": [0.5] * 200, "std": [0.2] * 200}
    assert table_problems("pretrained_cfg", config, PRETRAINED_CFG) == []
    assert table_problems("preprocessing", {"window": [[0] * 65]}, PREPROCESSING) != []


# Each is within the bounds of its own, and asks for more than the weights are.
HUGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "layers": (lambda v: v["model_args"].update(depth=65_536), "more than 1,036 tensors"),
    "widths": (lambda v: v["model_args"].update(embed_dim=65_536), "and was not built"),
    "a crop": (lambda v: v["model_args"].update(img_size=65_536, patch_size=1), "and was not built"),
    "a hidden width": (lambda v: v["model_args"].update(mlp_ratio=65_536), "'blocks.0.mlp.fc1.weight'"),
    "another layer": (lambda v: v["model_args"].update(depth=2), "12 problems, first: 'blocks.1.norm1"),
    "one less": (lambda v: v["model_args"].update(pos_embed="none"), "1 problems, first: 'pos_embed' has"),
    "another network": (lambda v: v.update(architecture="resnet10t"), "timm cannot build this network"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGE)
def test_a_network_that_is_not_that_of_the_weights_is_refused_unbuilt(
    kind: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing larger than a few megabytes is ever asked of the processor's memory."""
    from jepack import network
    from jepack.encoder import load_encoder

    change, sentence = HUGE[kind]
    value = json.loads((tiny / "config.json").read_text())
    change(value)
    put(tiny, "config.json", json.dumps(value).encode())
    bundle = bundles.load(tiny)  # which knows nothing of networks

    def empty(*size: Any, **options: Any) -> Any:
        found = made(*size, **options)
        assert found.device.type == "meta" or found.numel() < 1 << 22
        return found

    import torch

    made = torch.empty
    monkeypatch.setattr(torch, "empty", empty)
    [problem] = network.problems_of(bundle)
    assert sentence in problem
    assert problem.startswith(str(tiny))
    with pytest.raises(ArtifactError):
        load_encoder(bundle)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": 65_536, "layers": 64},
        {"hidden": 65_536, "layers": 2},
        {"hidden": 0},
        {"layers": 0},
    ],
    ids=str,
)
def test_a_projector_that_is_not_that_of_its_file_is_refused(
    sizes: dict[str, int], tiny: Path
) -> None:
    from jepack.encoder import load_encoder

    value = json.loads((tiny / "config.json").read_text())
    value["jepack"]["projector"].update(sizes)
    put(tiny, "config.json", json.dumps(value).encode())
    [problem] = bundles.verify(tiny)
    assert "projector" in problem
    with pytest.raises(ArtifactError, match="projector"):
        load_encoder(Bundle(tiny, json.loads((tiny / "manifest.json").read_text())))


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_the_tensors_of_a_projector_follow_from_its_sizes(layers: int, tmp_path: Path) -> None:
    from safetensors.torch import save_file as save

    from jepack.bundle import projector_problems
    from jepack.encoder import Projector, ProjectorConfig

    sizes = {"in_features": 6, "hidden": 5, "out_features": 3, "layers": layers}
    state = Projector(ProjectorConfig(**sizes)).state_dict()
    state["calibration.mean"], state["calibration.matrix"] = (
        state[f"{3 * layers - 3}.bias"].clone(),
        state[f"{3 * layers - 3}.weight"][:, :3].clone().contiguous(),
    )
    save(state, tmp_path / "projector.safetensors")
    config = {"jepack": {"projector": sizes}}
    assert projector_problems(tmp_path / "projector.safetensors", config) == []
    for name in state:
        less = {key: value for key, value in state.items() if key != name}
        save(less, tmp_path / "less.safetensors")
        [problem] = projector_problems(tmp_path / "less.safetensors", config)
        assert f"1 problems, first: '{name}' is missing" in problem


def verified(folder: Path) -> tuple[int, Any]:
    from typer.testing import CliRunner

    from jepack.cli import app

    done = CliRunner().invoke(app, ["verify", str(folder), "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_verify_tells_a_pooling_of_another_width(digits_folder: Path, tmp_path: Path) -> None:
    """Its tensors are the same: only what the network gives shows it."""
    made = write_small_bundle(
        tmp_path / "bundle", digits_folder, architecture="test_resnet", size=32
    )
    code, told = verified(made.folder)
    assert (code, told["sound"], told["network_compared"]) == (0, True, True)
    value = json.loads((made.folder / "config.json").read_text())
    value["model_args"]["global_pool"] = "catavgmax"
    put(made.folder, "config.json", json.dumps(value).encode())
    assert bundles.verify(made.folder) == []
    code, told = verified(made.folder)
    width = made.dimensions["embedding"]
    assert (code, told["sound"]) == (4, False)
    assert (
        f"gives embeddings of {2 * width} dimensions, the manifest says {width}"
        in told["problems"][0]
    )


def test_verify_without_torch_says_that_it_did_not_compare(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepack.commands.small.importlib.util.find_spec", lambda name: None)
    code, told = verified(tiny)
    assert (code, told["sound"], told["network_compared"]) == (0, True, False)


def test_num_features_is_the_width_of_the_embedding(tiny: Path) -> None:
    value = json.loads((tiny / "config.json").read_text())
    put(tiny, "config.json", json.dumps({**value, "num_features": 8}).encode())
    [problem] = bundles.verify(tiny)
    assert "num_features is 8, the manifest's embedding has 4" in problem


def test_a_run_does_not_start_from_a_bundle_of_another_network(tiny: Path) -> None:
    import torch

    from training.parallel import Ranks
    from training.run import settle
    from training.settings import TrainConfig

    value = json.loads((tiny / "config.json").read_text())
    value["model_args"]["depth"] = 65_536
    put(tiny, "config.json", json.dumps(value).encode())
    with pytest.raises(ArtifactError, match="was not built"):
        settle(TrainConfig(init=str(tiny), size=8), Ranks(0, 1, torch.device("cpu")))

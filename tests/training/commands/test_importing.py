"""`jepack import`: weights from elsewhere become a bundle like any other."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from small_bundle import write_digits
from typer.testing import CliRunner

from export.evaluation import find_evaluation
from export.gates import Thresholds, judge_images
from jepack import bundle as bundles
from jepack.cli import app
from jepack.decoding import crop, preprocess
from jepack.encoder import serving_graph
from jepack.errors import ArtifactError, ConfigError, DataError, DecoderError, DependencyError
from jepack.sources import find_images, record_of
from training.bundling import principal_projector
from training.commands.weights import open_source
from training.run import preprocessing_of


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=5).eval()


@pytest.fixture(scope="module")
def weights(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), path)
    return path


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_a_weights_file_becomes_a_bundle_that_gives_timms_features(
    weights: Path, model: Any, digits_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    done = run(
        "import", weights, "--encoder", "resnet10t", "--data", digits_folder, "--out", out,
        "--size", "64", "--license", "MIT", "--json",
    )  # fmt: skip
    bundle = bundles.load(out)
    assert json.loads(done.stdout)["fingerprints"] == bundle.fingerprints
    golden = bundle.golden()
    look = bundle.preprocessing
    assert (look.size, look.channels, look.mean[0]) == (64, 3, pytest.approx(0.485))
    pixels = torch.from_numpy(golden["images"]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (look.mean, look.std))
    with torch.no_grad():
        features = model.forward_head(
            model.forward_features((pixels - mean) / std), pre_logits=True
        )
        embedding, projection = serving_graph(bundle)(torch.from_numpy(golden["images"]))
    assert np.allclose(embedding, features, atol=1e-4)
    assert np.allclose(projection, golden["projection"], atol=1e-3)
    assert bundle.manifest["provenance"]["license"] == "MIT"
    card = (out / "README.md").read_text()
    assert "Licence of the weights: MIT" in card
    assert "principal components" in card


def test_the_fitted_projection_is_white_on_the_images_it_was_fitted_on(
    weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    run(
        "import", weights, "--encoder", "resnet10t", "--data", digits_folder, "--out", out,
        "--size", "64", "--projection-dims", "4",
    )  # fmt: skip
    bundle = bundles.load(out)
    assert bundle.dimensions["projection"] == 4
    measured = bundle.isotropy()["projection"]  # on the 15 images held out of 60
    assert 0.2 < measured["variance"] < 5


@pytest.fixture(scope="module")
def imported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(bundle, its data): 40 digits, each of them twice under another name."""
    data = write_digits(tmp_path_factory.mktemp("twice"), 40)
    for path in sorted(data.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    out = tmp_path_factory.mktemp("imported") / "bundle"
    words = ("--encoder", "resnet10t", "--size", "32")
    done = run("import", weights, *words, "--data", data, "--out", out)
    assert "images are held out to judge it: its figures are rough" in " ".join(done.stdout.split())
    return bundles.load(out), data


def test_an_imported_bundle_exports_like_a_trained_one(imported: Any, tmp_path: Path) -> None:
    from export.run import export_bundle

    bundle = bundles.load(Path(shutil.copytree(imported[0].folder, tmp_path / "bundle")))
    found = export_bundle(bundle, formats=["onnx"], force=True, timing=False)
    assert (found.bundle.folder / "onnx" / "model.onnx").is_file()


@pytest.mark.parametrize("named", ["nothing", "the same folder", "a folder of it", "a link to it"])
def test_images_that_fitted_a_projection_never_judge_it(
    named: str, imported: Any, tmp_path: Path
) -> None:
    bundle, data = imported
    (tmp_path / "link").symlink_to(data)
    folder = {
        "nothing": None, "the same folder": data, "a folder of it": data / "digit-1",
        "a link to it": tmp_path / "link",
    }[named]  # fmt: skip
    held_out = set(bundle.manifest["provenance"]["data"]["held_out"])

    def pixels(chosen: Any) -> set[bytes]:
        return {preprocess.load(path, bundle.preprocessing).tobytes() for path in chosen}

    every = sorted(data.rglob("*.png"))
    kept_out = [path for path in every if path.relative_to(data).as_posix() in held_out]
    fitted = pixels(path for path in every if path not in kept_out)
    assert 0 < len(kept_out) < len(every) / 2
    assert not fitted & pixels(kept_out)  # copies stay on one side
    if named == "a folder of it":
        with pytest.raises(DataError, match="images that this encoder was not fitted on"):
            find_evaluation(bundle, folder, 512)
        return
    found = find_evaluation(bundle, folder, 512)
    judged = {image.tobytes() for image in found.images[found.judged]}
    assert judged == pixels(kept_out)
    assert not {image.tobytes() for image in found.calibration} & judged
    assert found.to_json()["known_held_out"]
    warnings = judge_images(found, ["onnx"], Thresholds()).warnings
    assert warnings == [
        f"only {len(kept_out)} held-out images (64 and more are wanted): figures are rough"
    ]


def test_an_image_whose_library_is_missing_does_not_stop_the_gate(
    imported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and import passed over it too; where every image needs it, that is the error."""
    bundle, data = imported
    files = [path.read_bytes() for path in sorted(data.rglob("*.png"))]
    lacking, load = files[:1], preprocess.load

    def missing(source: Any, look: Any) -> Any:
        if source in lacking:
            raise DecoderError("these images need pillow_heif")
        return load(source, look)

    monkeypatch.setattr(preprocess, "load", missing)
    assert find_evaluation(bundle, None, 512).held_out_count > 0
    lacking[:] = files
    with pytest.raises(DependencyError, match="pillow_heif"):
        find_evaluation(bundle, None, 512)


def test_images_beside_a_manifest_or_a_container_that_fitted_an_encoder_may_judge_it(
    tmp_path: Path,
) -> None:
    """A training and a test list often share a folder; so do scans."""
    names = sorted(path.name for path in write_digits(tmp_path, 6).rglob("*.png"))
    for path in sorted(tmp_path.rglob("*.png")):
        path.rename(tmp_path / path.name)
    (tmp_path / "train.csv").write_text("\n".join(["path", *names[:4]]))
    (tmp_path / "test.csv").write_text("\n".join(["path", *names[4:]]))

    def record(source: str, held_out: str) -> Any:
        told = {"folder": str(tmp_path), "source": source, "held_out": [held_out]}
        return record_of({"provenance": {"data": told}})

    def seen(source: str, held_out: str, data: str) -> list[bool]:
        return record(source, held_out).fitted_on(find_images(tmp_path / data, parts=True))

    assert seen("train.csv", names[0], "train.csv") == [False, True, True, True]
    assert seen("train.csv", names[0], "test.csv") == [False, False]
    assert sum(seen("", names[0], "test.csv")) == 2  # of a folder, all that lies in it
    h5py = pytest.importorskip("h5py")
    for name in ("train.h5", "test.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = np.zeros((3, 8, 8), np.uint8)
    assert seen("train.h5", "train.h5#slice=/x:1", "train.h5") == [True, False, True]
    assert seen("train.h5", "train.h5#slice=/x:1", "test.h5") == [False] * 3


def test_a_bundle_that_does_not_record_its_held_out_images_is_judged_with_a_word_about_it(
    imported: Any,
) -> None:
    bundle, data = imported
    told = {"folder": str(data), "images": 80}  # as earlier versions wrote it
    old = replace(bundle, manifest={**bundle.manifest, "provenance": {"data": told}})
    alone = find_evaluation(old, None, 512)
    assert alone.held_out_count == 0
    words = judge_images(alone, ["int8"], Thresholds()).warnings
    assert "golden images alone" in words[0]
    assert "ranges from the images that judge it" in words[1]
    named = find_evaluation(old, data, 512)
    assert named.held_out_count > 0
    assert "is your word" in judge_images(named, ["onnx"], Thresholds()).warnings[-1]


def test_a_probe_tells_how_many_test_images_the_encoder_was_fitted_on(imported: Any) -> None:
    bundle, data = imported
    done = run("probe", bundle.folder, "--data", data, "--no-save", "--json")
    seen = json.loads(done.stdout)["seen_in_training"]
    assert 0.5 < seen < 1  # three quarters of all images


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_an_imported_model_keeps_the_preprocessing_of_its_authors(
    mode: str, model: Any, tmp_path: Path
) -> None:
    stated = {
        "input_size": [3, 32, 32], "crop_pct": 0.9, "crop_mode": mode, "interpolation": "bicubic",
        "mean": [0.2, 0.4, 0.6], "std": [0.2, 0.3, 0.4],
    }  # fmt: skip
    settings = preprocessing_of(stated, 3, 0)
    noise = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    transform = timm.data.create_transform(
        tuple(stated["input_size"]), is_training=False, crop_pct=0.9, crop_mode=mode,
        interpolation="bicubic", mean=stated["mean"], std=stated["std"],
    )  # fmt: skip
    theirs = transform(Image.fromarray(noise))[None]
    ours = torch.from_numpy(preprocess.load(tmp_path / "image.png", settings))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.mean, settings.std))
    ours = ((ours.permute(2, 0, 1) / 255 - mean) / std)[None]
    with torch.no_grad():
        assert torch.allclose(
            model.forward_features(ours), model.forward_features(theirs), atol=1e-4
        )


def test_an_imported_model_fits_images_as_it_is_told_and_timm_does_the_same(
    weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    run(
        "import", weights, "--encoder", "resnet10t", "--data", digits_folder, "--out", out,
        "--size", "64", "--fit", "pad",
    )  # fmt: skip
    look = bundles.load(out).preprocessing
    assert look.crop_mode == "border"
    stated = timm.data.resolve_data_config(
        pretrained_cfg=json.loads((out / "config.json").read_text())["pretrained_cfg"]
    )
    noise = np.random.default_rng(0).integers(0, 256, (40, 200, 3), dtype=np.uint8)
    theirs = timm.data.create_transform(**stated, normalize=False)(Image.fromarray(noise))
    np.testing.assert_array_equal(crop(noise, look), np.asarray(theirs).transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"input_size": [3, 256, 192]}, "256 x 192 px and jepack square images"),
        ({"interpolation": "nearest"}, "resized by 'nearest'"),
        ({"crop_pct": 1.15}, "crop_pct 1.15"),
        ({"crop_mode": "stretch"}, "crop_mode cannot be 'stretch'"),
        ({"mean": "grey"}, "mean cannot be 'grey'"),
        ({"crop_border_pixels": 4}, "trims a border"),
    ],
)
def test_a_preprocessing_that_cannot_be_kept_is_refused(stated: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        preprocessing_of(stated, 3, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": True, "pretrained_cfg": {"url": "http://127.0.0.1:9/x"}},
        {"checkpoint_path": "/etc/passwd"},
        {"features_only": True},
        {"global_pool": "../x"},
    ],
)
def test_a_folder_that_asks_timm_for_more_than_a_network_is_refused(
    arguments: dict[str, Any], model: Any, tmp_path: Path
) -> None:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "resnet10t", "model_args": arguments, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="config.json: model_args"):
        open_source(str(tmp_path), None, channels=3, size=64)


def test_what_search_should_use_and_a_null_are_measured_where_images_suffice(
    weights: Path, imported: Any, tmp_path: Path
) -> None:
    words = ("--encoder", "resnet10t", "--size", "32")
    few, _ = imported  # 20 held-out images
    assert few.manifest["retrieval"] == {"output": "embedding", "basis": "benchmark"}
    digits = write_digits(tmp_path / "digits", 300)
    run("import", weights, *words, "--data", digits, "--out", tmp_path / "more")
    more = bundles.load(tmp_path / "more")
    found = more.manifest["retrieval"]
    assert (found["basis"], found["queries"], found["classes"]) == ("measured", 75, 10)
    assert found["outputs"]["embedding"]["mean_average_precision"] > 1.5 * found["chance"]
    assert more.default_output == found["output"]
    assert "75 held-out images ask" in (more.folder / "README.md").read_text()
    null = more.null()
    assert few.null() is None
    assert null is not None
    assert null.held_out == 75
    assert null.known is not None


def test_a_folder_in_timms_format_brings_its_own_settings(model: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", img_size=48, class_token=False, global_pool="avg")
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_vit",
        "model_args": {"img_size": 48, "class_token": False, "global_pool": "avg"},
        "pretrained_cfg": {"input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "license": "mit"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = open_source(str(tmp_path), None, channels=3, size=0)
    assert found.model_args == {"class_token": False, "global_pool": "avg"}
    assert found.stated["license"] == "mit"
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        wanted = vit.eval().forward_head(vit.forward_features(images), pre_logits=True)
        assert torch.allclose(found.backbone.eval()(images), wanted, atol=1e-5)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder."])
def test_a_checkpoint_of_another_trainer_is_understood(
    model: Any, tmp_path: Path, prefix: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, path)
    found = open_source(str(path), "resnet10t", channels=3, size=64)
    assert found.left_out == (f"{prefix}fc.bias", f"{prefix}fc.weight")
    assert torch.equal(
        found.backbone.state_dict()["conv1.0.weight"], model.state_dict()["conv1.0.weight"]
    )


class Boom:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def test_a_file_that_holds_code_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"state_dict": Boom()}))
    with pytest.raises(ArtifactError, match="state_dict, best as safetensors"):
        open_source(str(path), "resnet10t", channels=3, size=64)
    assert "must not run" not in capsys.readouterr().out


def test_weights_of_another_architecture_are_refused(weights: Path) -> None:
    with pytest.raises(ArtifactError, match="do not fit the architecture"):
        open_source(str(weights), "resnet18", channels=3, size=64)


@pytest.mark.parametrize(
    ("source", "encoder", "words"),
    [
        ("nowhere.safetensors", "resnet10t", "neither timm:NAME"),
        ("timm:resnet10tt", None, "timm has no model"),
    ],
)
def test_sources_that_name_nothing_are_refused(
    source: str, encoder: str | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        open_source(source, encoder, channels=3, size=64)


def test_a_file_needs_the_name_of_its_architecture(weights: Path) -> None:
    with pytest.raises(ConfigError, match="--encoder NAME"):
        open_source(str(weights), None, channels=3, size=64)


@pytest.mark.parametrize("source", ["timm:test_resnet.r160_in1k", "hf:someone/something"])
def test_without_the_hub_the_error_says_what_to_do(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ArtifactError, match="jepack import FILE --encoder NAME"):
        open_source(source, None, channels=3, size=64)


def test_too_few_images_are_refused(weights: Path, digits_folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(digits_folder.rglob("*.png"))[:5]:
        (few / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="5 readable images"):
        run("import", weights, "--encoder", "resnet10t", "--data", few, "--out", tmp_path / "b")


def test_directions_without_variance_do_not_reach_the_projection() -> None:
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(500, 6)) @ generator.normal(size=(6, 32)) + 5
    flat += 1e-6 * generator.normal(size=flat.shape)
    head = principal_projector(flat, 16)
    with torch.no_grad():
        projected = head(torch.from_numpy(flat).float()).numpy()
    assert projected.shape == (500, 6)
    assert np.abs(projected.mean(axis=0)).max() < 1e-3
    covariance = np.cov(projected, rowvar=False)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-2)
    assert (np.diff(np.diag(covariance)) <= 0).all()  # widest first


def test_a_folder_that_asks_for_more_than_its_weights_is_not_built(tmp_path: Path) -> None:
    save_file({"norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 65_536}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ArtifactError, match="more than .* and was not built; the weights do not fit"
    ):
        open_source(str(tmp_path), None, 3, 32)

"""The model card: figures as measured, metadata the Hub accepts, and snippets that run as printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import local_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, constants
from PIL import Image, ImageOps

from jepack import bundle as bundles
from jepack.bundle import Bundle, card
from jepack.bundle.card.metadata import license_fields
from jepack.bundle.card.snippets import opening, snippets
from jepack.decoding import preprocess
from jepack.hub.preparing import prepare
from jepack.hub.publishing import publish
from jepack.measures import isotropy

REPO = "ann/digits"
PROBE: dict[str, Any] = {
    "encoder": "runs/digits/bundle", "output": "embedding", "linear": 0.912, "linear_low": 0.88,
    "linear_high": 0.94, "balanced": 0.9, "knn": 0.87, "few_shot": {"1": 0.4}, "majority": 0.11,
    "train_images": 400, "test_images": 100,
}  # fmt: skip
BASELINE = {**PROBE, "encoder": "timm:resnet18.a1_in1k", "linear": 0.95}


@pytest.fixture
def told(tmp_path: Path, told_once: Bundle) -> Bundle:
    """A copy to change at will."""
    return Bundle(shutil.copytree(told_once.folder, tmp_path / "bundle"), told_once.manifest)


@pytest.fixture(scope="module")
def told_once(tmp_path_factory: pytest.TempPathFactory, small_bundle: Bundle) -> Bundle:
    """A bundle whose story is told in full: data, recipe, curves, probes, isotropy, gate, exports."""
    folder = shutil.copytree(small_bundle.folder, tmp_path_factory.mktemp("told") / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    manifest["provenance"] = {
        "data": {
            "folder": "/home/ann/digits",
            "digest": "ab" * 32,
            "images": 1797,
            "held_out": ["a"],
        },
        "license": "CC BY-NC-SA 4.0: research only",
        "recipe": {"encoder": "resnet10t", "epochs": 12, "method": "lejepa", "sigreg_weight": 0.02},
        "versions": {"jepack": "0.1.0"},
        "commit": "c0ffee",
    }
    manifest["gate"] = {"passed": True, "forced": False, "refusals": [], "warnings": ["few images"]}
    manifest["card"] = {
        "story": "Trained on digits for a test.",
        "limits": "Knows ten digits.",
        "projection": "principal components",
    }
    manifest["promises"] = {"drift": True, "atypicality": False}
    generator = np.random.default_rng(0)
    shapes = {"embedding": 512, "raw_projection": 64, "projection": 64}
    outputs = {
        name: isotropy.report(generator.standard_normal((300, width))).to_json()
        for name, width in shapes.items()
    }
    parity = {"cosine": 0.99999, "max_abs": 2e-6, "recall_at_10": 1.0}
    exports = {
        "onnx/model.onnx": {
            "format": "onnx", "bytes": 22_000_000, "embedding": parity, "projection": parity,
            "milliseconds": {"1": 3.2, "32": 60.0}, "speed": {"1": 1.5, "32": 1.25},
        }
    }  # fmt: skip
    images = {"source": "300 images of /home/ann/held-out", "golden": 8, "held_out": 300}
    measured = {"outputs": outputs, "images": images, "exports": exports}
    (folder / "isotropy.json").write_text(json.dumps(measured))
    (folder / "probes.json").write_text(json.dumps([PROBE, BASELINE]))
    curves = Image.new("RGB", (40, 20), "white")
    curves.save(folder / "curves.png")
    card.refresh(folder, manifest)
    bundles.write_manifest(folder, manifest)
    return bundles.load(folder)


def text_of(bundle: Bundle) -> str:
    return (bundle.folder / "README.md").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "# small-resnet10t\n\nTrained on digits for a test.\n",
        "| 64 dimensions, principal components, calibrated towards N(0, I)",
        "## Limits\n- Knows ten digits.\n",
        "- Images: 1,797",
        "- SHA-256 of the images: `" + "ab" * 32 + "`",
        "binds these weights too: **CC BY-NC-SA 4.0: research only**",
        "| sigreg weight | 0.02 |",
        "![Loss, kNN accuracy and effective rank during training](curves.png)",
        "| runs/digits/bundle | embedding | 0.912 | 0.880 to 0.940 | 0.900 | 0.870 | 0.110 | 100 images |",
        "| timm:resnet18.a1\\_in1k | embedding | 0.950 |",
        "Measured on 300 images of held-out.",
        "(isotropy.png)",
        "Passed: no collapse",
        "- Warning: few images",
        "- drift: kept\n- atypicality: switched off",
        "| `onnx/model.onnx` | 22.0 | 0.99999 | 2e-06 | 1.000 | 3.2 (1.5x) | 60.0 (1.2x) |",
        "- Code: commit `c0ffee`",
    ],
)
def test_the_card_tells_what_was_measured(line: str, told: Bundle) -> None:
    assert line in text_of(told)


def test_the_card_names_no_folder_of_this_machine(told: Bundle) -> None:
    assert "/home" not in text_of(told)


def test_the_card_of_a_bundle_that_nobody_measured_says_so(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_bundle.folder, tmp_path / "bundle")
    text = card.make(folder, small_bundle.manifest)
    assert "## Probes\nNot measured." in text
    assert "## Isotropy\nNot measured." in text
    assert "## Gate\nNot judged yet" in text
    assert ModelCard(text).data.to_dict()["license"] == "unknown"


def test_huggingface_hub_reads_the_results_in_the_front_matter(told: Bundle) -> None:
    data = ModelCard(text_of(told)).data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.license == "cc-by-nc-sa-4.0"
    results = data.eval_results
    assert all(isinstance(result, EvalResult) for result in results)
    found = {(result.metric_type, result.metric_name): result.metric_value for result in results}
    assert found["accuracy", "Linear probe, embedding"] == 0.912
    assert len([key for key in found if key[0] == "sliced_epps_pulley"]) == 3
    assert {result.dataset_name for result in results} == {"digits"}


def test_eval_results_are_written_for_data_on_the_hub_only(told: Bundle) -> None:
    path = told.folder / ".eval_results" / "probes.yaml"
    assert not path.exists()
    entries = [{**PROBE, "hub_dataset": "ann/digits"}, {**BASELINE, "hub_dataset": "ann/digits"}]
    with bundles.editing(told) as stage:
        (stage / "probes.json").unlink()
        (stage / "probes.json").write_text(json.dumps(entries))
        card.refresh(stage, told.manifest)
    (entry,) = yaml.safe_load(path.read_text())
    assert entry["dataset"] == {"id": "ann/digits", "task_id": "default"}
    assert entry["value"] == 0.912


def test_notes_below_the_card_outlive_its_renewal_and_a_foreign_readme_is_left_alone(
    told: Bundle,
) -> None:
    with bundles.editing(told) as stage:
        text = (stage / "README.md").read_text()
        (stage / "README.md").unlink()
        (stage / "README.md").write_text(text + "Ask ann before use.\n")
        card.refresh(stage, {**told.manifest, "name": "renamed"})
    text = text_of(told)
    assert "# renamed" in text
    assert text.endswith(f"{card.NOTES}\nAsk ann before use.\n")
    with bundles.editing(told) as stage:
        (stage / "README.md").unlink()
        (stage / "README.md").write_text("# My own words\n")
        card.refresh(stage, told.manifest)
    assert text_of(told) == "# My own words\n"


def test_words_from_elsewhere_cannot_break_out_of_the_card(told: Bundle) -> None:
    manifest = {**told.manifest, "name": "a | b <script> [x](http://y)\n# c"}
    manifest["provenance"] = {**told.manifest["provenance"], "license": "```\n<img src=x>"}
    text = card.make(told.folder, manifest)
    assert "# a \\| b \\<script\\> \\[x\\](http://y) # c\n" in text
    assert "**\\`\\`\\` \\<img src=x\\>**" in text


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("CC BY-NC-SA 4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("MIT License", {"license": "mit"}),
        ("apache-2.0", {"license": "apache-2.0"}),
        ("not stated", {"license": "unknown"}),
        ("Acme internal: do not share", {"license": "other", "license_name": "acme-internal"}),
    ],
)
def test_a_licence_in_words_becomes_the_hubs_name_for_it(
    words: str, fields: dict[str, str]
) -> None:
    assert license_fields(words) == fields


RUN = """
import json, sys
import numpy as np
found = {}
for library, code in json.load(open("snippets.json")).items():
    names = {}
    exec(code, names)
    found[library] = np.asarray(names["embedding"])
np.savez("embeddings.npz", **found)
"""
LIBRARIES = ("timm", "transformers", "sentence-transformers", "onnxruntime")


def blocks_of(readme: str) -> dict[str, str]:
    blocks = dict(re.findall(r"### (\S+)\n```python\n(.*?)```", readme, re.DOTALL))
    assert list(blocks) == [*LIBRARIES, "jepack.client"]
    return {library: blocks[library] for library in LIBRARIES}  # tests/serving calls the client


@pytest.fixture(scope="module")
def by_snippets(
    exported_bundle: Bundle, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What each snippet gives, from a local server in place of the Hub and from a folder: in one process,
    since their libraries take longer to load than to run; and `expected`."""
    place = tmp_path_factory.mktemp("snippets")
    hubbed = with_other_loaders(exported_bundle, place / "hubbed")
    kept = with_other_loaders(exported_bundle, place / "kept")
    turned_on_glass(sorted(digits_folder.rglob("*.png"))[3], place / "image.png")
    with pytest.MonkeyPatch.context() as patch, local_hub.running() as hub:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        (place / "work").mkdir()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
            publication = prepare(hubbed, REPO, place / "work")
            publish(publication, REPO, api=HfApi(endpoint=hub.url, token=local_hub.TOKEN))
        shutil.rmtree(hubbed.folder)
        cards = {
            "hub": hub.repos[REPO].commits[-1]["README.md"].decode(),
            "folder": text_of(kept),
        }
        codes = {
            f"{where} {library}": code
            for where, readme in cards.items()
            for library, code in blocks_of(readme).items()
        }
        (place / "snippets.json").write_text(json.dumps(codes))
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            cwd=place,
            env={
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_TOKEN": local_hub.TOKEN,
                "HF_HOME": str(place / "home"),
                "HF_HUB_DISABLE_XET": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = embedding_of(exported_bundle, place / "image.png")
    return {"expected": expected, **np.load(place / "embeddings.npz")}


@pytest.mark.parametrize("place", ["hub", "folder"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_loading_snippets_run_as_printed_and_agree(
    library: str, place: str, by_snippets: dict[str, Any]
) -> None:
    found, expected = by_snippets[f"{place} {library}"], by_snippets["expected"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def turned_on_glass(source: Path, target: Path) -> None:
    """An oblong picture with alpha that lies on its side, as its EXIF tells."""
    picture = Image.open(source).convert("RGB").resize((48, 40))
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    about = Image.Exif()
    about[0x0112] = 6  # turn by 90 degrees
    picture.save(target, exif=about)


def alike(folder: Path, mode: str) -> Any:
    """What the snippets' lines make of `image.png`, [H, W, C]."""
    names: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps}
    exec(opening(mode).replace("image.png", str(folder / "image.png")), names)
    pixels = np.asarray(names["image"])
    return pixels.reshape(*pixels.shape[:2], -1)


PICTURES: dict[str, Any] = {
    "alpha": lambda p, path: p.save(path, "PNG"),
    "grey with alpha": lambda p, path: p.convert("LA").save(path, "PNG"),
    "palette": lambda p, path: p.convert("RGB").quantize(16).save(path, "PNG"),
    "palette with a clear colour": lambda p, path: (
        p.convert("RGB").quantize(16).save(path, "PNG", transparency=3)
    ),
    "a clear colour": lambda p, path: p.convert("RGB").save(path, "PNG", transparency=(0, 0, 0)),
    "CMYK": lambda p, path: p.convert("RGB").convert("CMYK").save(path, "JPEG"),
    "black and white": lambda p, path: p.convert("1").save(path, "PNG"),
    **{
        f"turned, {number}": lambda p, path, number=number: p.convert("RGB").save(
            path, "JPEG", exif=orientation(number)
        )
        for number in range(1, 9)
    },
}


def orientation(number: int) -> Any:
    about = Image.Exif()
    about[0x0112] = number
    return about


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", PICTURES)
def test_the_snippets_open_a_picture_as_every_stage_does(
    kind: str, mode: str, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    PICTURES[kind](Image.fromarray(noise), tmp_path / "image.png")
    wanted = preprocess.decode(tmp_path / "image.png", {"L": 1, "RGB": 3}[mode])
    np.testing.assert_array_equal(alike(tmp_path, mode), wanted)


def test_a_window_of_intensities_is_left_to_our_own_decoder(told_once: Bundle) -> None:
    look = {**told_once.manifest["preprocessing"], "window": [[0, 100]]}
    files = told_once.manifest["files"]
    found = snippets(
        {**told_once.manifest, "preprocessing": look}, [*files, "onnx/model.onnx"], None
    )
    assert [item.library for item in found] == ["onnxruntime", "jepack.client"]


def embedding_of(bundle: Bundle, image: Path) -> Any:
    import torch

    from jepack.encoder import serving_graph

    pixels = torch.from_numpy(preprocess.load(image, bundle.preprocessing))[None]
    with torch.no_grad():
        return serving_graph(bundle)(pixels)[0].numpy()


def with_other_loaders(bundle: Bundle, folder: Path) -> Bundle:
    """A copy with the files that transformers and sentence-transformers look for."""
    shutil.copytree(bundle.folder, folder)
    look = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    processor = {"image_processor_type": "TimmWrapperImageProcessor", "pretrained_cfg": look}
    output = {"method": "forward", "method_output_name": "pooler_output"}
    bert = {
        "transformer_task": "feature-extraction",
        "modality_config": {"image": output},
        "module_output_name": "sentence_embedding",
    }
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    files = {
        "preprocessor_config.json": processor,
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": kind}],
        "sentence_bert_config.json": bert,
    }
    copy = Bundle(folder, bundle.manifest)
    with bundles.editing(copy) as stage:
        for name, content in files.items():
            if not (stage / name).exists():
                (stage / name).write_text(json.dumps(content))
        card.refresh(stage, bundle.manifest)
    return bundles.load(folder)

"""The lines that load a bundle, one snippet per library, as its model card prints them.

A test runs every snippet against the real library, so what the card says is what works.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Snippet:
    """Python that ends with `embedding`, [N, E]; it starts from the file `image.png`."""

    library: str
    needs: tuple[str, ...]  # files the bundle must hold for it
    code: str


def snippets(manifest: dict[str, Any], files: Iterable[str], repo: str | None) -> list[Snippet]:
    """What works with these files. `repo` is the Hub's name of the bundle; None is a local folder."""
    present = set(files)
    return [item for item in every(manifest, repo) if present.issuperset(item.needs)]


def every(manifest: dict[str, Any], repo: str | None) -> list[Snippet]:
    mode = {1: "L", 3: "RGB"}.get(manifest["preprocessing"]["channels"])
    place = repo or "./bundle"
    loaders = [
        Snippet("timm", ("config.json",), TIMM),
        Snippet("transformers", ("preprocessor_config.json",), TRANSFORMERS),
        Snippet("sentence-transformers", ("modules.json",), SENTENCE_TRANSFORMERS),
    ]
    # Their image readers know grey and colour of 8 bits only; what else there is, other channels and
    # windows of intensities, goes through jepack.decoding.
    plain = mode is not None and manifest["preprocessing"].get("window") is None
    usable = loaders if plain else []
    usable = [*usable, Snippet("onnxruntime", ("onnx/model.onnx",), fetching(repo) + ONNX)]
    usable.append(Snippet("jepack.client", ("onnx/model.onnx",), CLIENT))
    hub = "hf-hub:" if repo else "local-dir:"
    return [
        Snippet(
            item.library,
            item.needs,
            item.code.strip().format(open_image=opening(mode or "RGB"), place=place, hub=hub),
        )
        for item in usable
    ]


def opening(mode: str) -> str:
    """Lines that open `image.png` as jepack.decoding opens it: upright, on white paper, "L" or "RGB"."""
    convert = 'convert("RGB").convert("L")' if mode == "L" else 'convert("RGB")'
    return OPENING.strip().replace("CONVERT", convert)


def fetching(repo: str | None) -> str:
    if repo is None:
        return 'folder = "./bundle"\n'
    return (
        "from huggingface_hub import snapshot_download\n"
        'folder = snapshot_download("{place}", local_dir="bundle")  # or: jepack pull\n'
    )


OPENING = """
image = ImageOps.exif_transpose(Image.open("image.png"))  # upright
if image.has_transparency_data:  # laid on white paper
    paper = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(paper, image.convert("RGBA"))
image = image.CONVERT
"""

TIMM = """
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("{hub}{place}", pretrained=True, num_classes=0).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
{open_image}
with torch.no_grad():
    embedding = model(transform(image)[None])
"""

TRANSFORMERS = """
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{place}")
model = AutoModel.from_pretrained("{place}").eval()
{open_image}
with torch.no_grad():
    embedding = model(**processor(image, return_tensors="pt")).pooler_output
"""

SENTENCE_TRANSFORMERS = """
from PIL import Image, ImageOps
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{place}")
{open_image}
embedding = model.encode([image])
"""

ONNX = """
from pathlib import Path

import onnxruntime
from jepack import bundle
from jepack.decoding import preprocess

encoder = bundle.load(folder)  # checks every file against the manifest
pixels = preprocess.load(Path("image.png"), encoder.preprocessing)
session = onnxruntime.InferenceSession(encoder.onnx(), providers=["CPUExecutionProvider"])
outputs = ["pooler_output", "projection"]
embedding, projection = session.run(outputs, {{"pixel_values": pixels[None]}})
"""

CLIENT = """
from pathlib import Path

from jepack.client import Client

with Client("127.0.0.1:8001") as client:  # a running `jepack serve`
    embedding = client.embed([Path("image.png")]).embedding
"""

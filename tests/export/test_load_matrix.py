"""One folder, four libraries: timm, transformers, sentence-transformers and onnxruntime agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_bundle import write_small_bundle

from export.formats import FORMATS, Source
from jepack.bundle import Bundle
from jepack.decoding import preprocess
from jepack.encoder import serving_graph

ARCHITECTURES = {"resnet10t": 64, "convnext_atto": 64, "vit_tiny_patch16_224": 64}
CHANNELS = (1, 3, 5)
MODES = {1: "L", 3: "RGB"}


def noise(count: int, height: int, width: int, channels: int) -> Any:
    """Smooth random images, uint8 [N, H, W, C]."""
    small = np.random.default_rng(0).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    return np.stack([preprocess.resize(image, height, width) for image in small])


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Bundle]:
    made: dict[tuple[str, int], Bundle] = {}

    def make(architecture: str, channels: int) -> Bundle:
        key = architecture, channels
        if key not in made:
            size = ARCHITECTURES[architecture]
            folder = tmp_path_factory.mktemp("matrix") / "bundle"
            pixels = noise(16, size, size, channels)
            made[key] = write_small_bundle(
                folder,
                folder,
                architecture=architecture,
                channels=channels,
                size=size,
                pixels=pixels,
            )
        return made[key]

    return make


def normalised(bundle: Bundle, pixels: Any) -> torch.Tensor:
    """What a library that normalises itself feeds the backbone, [N, C, H, W]."""
    images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    mean, std = (
        torch.tensor(value).view(1, -1, 1, 1)
        for value in (bundle.preprocessing.mean, bundle.preprocessing.std)
    )
    return (images - mean) / std


def by_timm(bundle: Bundle, pixels: Any) -> Any:
    import timm

    model = timm.create_model(f"local-dir:{bundle.folder}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        return model(normalised(bundle, pixels)).numpy()


def by_transformers(bundle: Bundle, pixels: Any) -> Any:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(bundle.folder).eval()
    with torch.no_grad():
        return model(pixel_values=normalised(bundle, pixels)).pooler_output.numpy()


def by_onnxruntime(bundle: Bundle, pixels: Any) -> Any:
    path = bundle.folder.parent / "model.onnx"
    if not path.exists():
        FORMATS["onnx"].write(Source(serving_graph(bundle), pixels, bundle.folder.parent), path)
    return FORMATS["onnx"].engine(path)(pixels)[0]


def by_sentence_transformers(bundle: Bundle, pixels: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    mode = MODES[bundle.preprocessing.channels]
    images = [Image.fromarray(p if mode == "RGB" else p[..., 0], mode=None) for p in pixels]
    model = SentenceTransformer(str(bundle.folder), device="cpu")
    return model.encode(images, show_progress_bar=False)


LIBRARIES = {
    "timm": by_timm,
    "transformers": by_transformers,
    "onnxruntime": by_onnxruntime,
    "sentence-transformers": by_sentence_transformers,
}


# An architecture and a number of channels meet in separate lines of each library's loading: one pair of each
# tells, the other pairs are for `-m slow`.
PAIRS = [
    pytest.param(architecture, channels, marks=() if row == column else pytest.mark.slow)
    for row, architecture in enumerate(ARCHITECTURES)
    for column, channels in enumerate(CHANNELS)
]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("architecture", "channels"), PAIRS)
def test_every_library_gives_the_bundles_embedding(
    library: str, architecture: str, channels: int, bundle_of: Callable[[str, int], Bundle]
) -> None:
    if library == "sentence-transformers" and channels not in MODES:
        pytest.skip("sentence-transformers takes Pillow images, which have 1 or 3 channels")
    bundle = bundle_of(architecture, channels)
    golden = bundle.golden()
    found = LIBRARIES[library](bundle, golden["images"])
    scale = float(np.abs(golden["embedding"]).max())
    assert np.abs(found - golden["embedding"]).max() <= 1e-5 * max(scale, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(64, 64), (90, 130), (200, 71)])
def test_preprocessing_is_the_same_to_the_pixel_in_timm_and_transformers(
    shape: tuple[int, int], channels: int, bundle_of: Callable[[str, int], Bundle]
) -> None:
    import timm
    from transformers import AutoImageProcessor

    bundle = bundle_of("resnet10t", channels)
    pixels = noise(1, *shape, channels)[0]
    ours = normalised(bundle, preprocess.crop(pixels, bundle.preprocessing)[None])[0]
    image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    model = timm.create_model(f"local-dir:{bundle.folder}", pretrained=False, num_classes=0)
    data = timm.data.resolve_model_data_config(model)
    by_timm = timm.data.create_transform(**data, is_training=False)(image)
    processor = AutoImageProcessor.from_pretrained(bundle.folder)
    by_processor = processor(image, return_tensors="pt")["pixel_values"][0]
    for theirs in (by_timm, by_processor):
        assert theirs.shape == ours.shape
        assert float((theirs - ours).abs().max()) < 1e-5  # 1 step of 255 would be 1.6e-2

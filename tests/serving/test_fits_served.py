"""What `--fit` says of an elongated picture holds in each engine, to the bit."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from jepack.bundle import Bundle, fingerprints
from jepack.decoding import FITS, load, seen_box
from jepack.inprocess import InProcess
from serving.repository import write_repository

DISC = (1110, 60, 1190, 140)
# Triton's Python backend, as far as the decoder asks for it: a request is a list of images.
DECODER = """
import runpy, sys, types
import numpy as np
class Tensor:
    def __init__(self, name, values): self.values = values
    def as_numpy(self): return self.values
backend = types.ModuleType("triton_python_backend_utils")
backend.Tensor, backend.TritonError = Tensor, lambda text, code: text
backend.get_input_tensor_by_name = lambda request, name: request
backend.InferenceResponse = lambda tensors: tensors[0].values
sys.modules[backend.__name__] = backend
model = runpy.run_path(sys.argv[1])["TritonPythonModel"]()
model.initialize({})
images = np.array([open(path, "rb").read() for path in sys.argv[3:]], object)
np.save(sys.argv[2], model.execute([Tensor("image", images)])[0])
"""


def strip(*, disc: bool) -> bytes:
    """A noisy picture of 1200 x 200 px, with or without a bright disc at its right end."""
    pixels = np.random.default_rng(0).integers(60, 120, (200, 1200), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    if disc:
        ImageDraw.Draw(picture).ellipse(DISC, fill=250)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def fitting(bundle: Bundle, fit: str) -> Bundle:
    told = {**bundle.preprocessing.to_json(), "crop_mode": FITS[fit]}
    return Bundle(bundle.folder, {**bundle.manifest, "preprocessing": told})


@pytest.mark.parametrize("fit", FITS)
def test_a_disc_at_the_end_of_a_strip_is_seen_by_whoever_sees_whole_pictures(
    exported_bundle: Bundle, fit: str
) -> None:
    engine = InProcess(fitting(exported_bundle, fit))
    without, with_it = engine.infer([strip(disc=False), strip(disc=True)]).rows["embedding"]
    assert (np.abs(without - with_it).max() > 1e-4) == (fit != "crop")
    pixels = [load(strip(disc=disc), engine.bundle.preprocessing) for disc in (False, True)]
    assert np.array_equal(*pixels) == (fit == "crop")  # 0.0 then, on every engine
    told = engine.endpoint()
    _, _, tall, wide = seen_box(200, 1200, told.crop_pct, told.crop_mode)
    assert (tall, wide) == ((1, 1 / 6) if fit == "crop" else (1, 1))


@pytest.mark.parametrize("fit", FITS)
def test_tritons_decoder_gives_the_pixels_of_the_embedded_engine(
    exported_bundle: Bundle, tmp_path: Path, fit: str
) -> None:
    bundle = fitting(exported_bundle, fit)
    paths = [tmp_path / "without.png", tmp_path / "with.png"]
    for path, disc in zip(paths, (False, True), strict=True):
        path.write_bytes(strip(disc=disc))
    repository = write_repository(bundle, tmp_path / "repository")
    model = repository / "preprocess" / "1" / "model.py"
    words = [sys.executable, "-c", DECODER, model, tmp_path / "pixels.npy", *paths]
    subprocess.run(words, check=True, cwd=tmp_path, timeout=120)
    decoded = np.load(tmp_path / "pixels.npy")
    np.testing.assert_array_equal(decoded, [load(path, bundle.preprocessing) for path in paths])


def test_a_bundle_that_says_nothing_crops_and_keeps_its_fingerprints(small_bundle: Bundle) -> None:
    assert "crop_mode" not in small_bundle.manifest["preprocessing"]
    assert small_bundle.preprocessing.crop_mode == FITS["crop"]
    assert (
        fitting(small_bundle, "crop").preprocessing.to_json()
        == small_bundle.manifest["preprocessing"]
    )
    assert fingerprints(small_bundle.manifest) == small_bundle.fingerprints
    assert fingerprints(fitting(small_bundle, "pad").manifest) != small_bundle.fingerprints

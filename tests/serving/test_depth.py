"""A deep image posted to the real server gives what its crop gives at training."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.client import Client
from jepack.preprocess import load

pytestmark = pytest.mark.triton


def files_of(values: np.ndarray) -> dict[str, bytes]:
    """One 16-bit image in each format that needs NumPy and Pillow alone."""
    found = {}
    for kind in ("PNG", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, kind)
        found[kind] = stream.getvalue()
    stream = io.BytesIO()
    np.save(stream, values)
    return found | {"npy": stream.getvalue()}


def test_sixteen_bits_reach_the_encoder_through_the_server(
    tmp_path: Path, exported_bundle: Bundle
) -> None:
    from serving.server import TritonServer

    folder = tmp_path / "bundle"
    shutil.copytree(exported_bundle.folder, folder)
    changed = {**exported_bundle.preprocessing.to_json(), "window": [[500.0, 3000.0]]}
    with bundles.editing(bundles.load(folder), {"preprocessing": changed}):
        pass
    bundle = bundles.load(folder)
    assert bundle.fingerprints != exported_bundle.fingerprints
    values = np.random.default_rng(0).integers(0, 4096, (90, 70), dtype=np.uint16)
    files = files_of(values)
    crops = np.stack([load(data, bundle.preprocessing) for data in files.values()])
    assert all(np.array_equal(crop, crops[0]) for crop in crops)
    graph = onnxruntime.InferenceSession(bundle.onnx(), providers=["CPUExecutionProvider"])
    expected = graph.run(None, {graph.get_inputs()[0].name: crops})[0]
    with (
        TritonServer(bundle, http_port=0, grpc_port=0, metrics_port=0, log_file=tmp_path / "log") as server,
        Client(server.url) as client,
    ):  # fmt: skip
        found = client.embed(list(files.values()))
    np.testing.assert_allclose(found.embedding, expected, atol=1e-5)

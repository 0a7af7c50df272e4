"""What training saw against what the real Triton server sees, for benchmarks/formats.py.

One small encoder per number of channels is trained for a few steps and exported; a window is then written
into its bundle as training would have, and the server asked with the bytes a client posts.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from export.run import export_bundle
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.client import Client
from jepack.decoding import Window, crop, load
from jepack.machine.threads import cores
from serving.server import TritonServer
from training.data import Cache
from training.settings import override, recipe
from training.train import train

SETTINGS = [
    "encoder=test_resnet", "size=64", "eval_size=224", "global_views=2", "images_per_step=16",
    "projector_hidden=32", "projection_dims=16", "slices=16", "minutes=null", "epochs=1",
    "evaluate_epochs=100", "precision=fp32", "preset=none",
]  # fmt: skip
ASKED = 8  # images of a format that are posted


class Encoders:
    """Exported bundles by their number of channels, made when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[int, Bundle] = {}

    def get(self, folder: Path, channels: int, window: str | None, tile: int) -> Bundle:
        if channels not in self.made:
            config = override(
                recipe("quickstart"), [*SETTINGS, f"channels={channels}", f"tile={tile}"]
            )
            config = override(config, [] if window is None else [f"window={window}"])
            out = self.root / f"run-{channels}"
            with contextlib.redirect_stdout(io.StringIO()):
                found = train(config, folder, out, device="cpu", cache_root=self.root / "caches")
            assert found is not None
            self.made[channels] = export_bundle(
                found, formats=["onnx"], force=True, timing=False
            ).bundle
        return self.made[channels]


def differences(start: Bundle, cache: Cache, window: Window, work: Path) -> dict[str, Any]:
    """The largest difference of a pixel (levels) and of an embedding, and the embedding's largest value."""
    shutil.copytree(start.folder, work)
    changed = {**start.preprocessing.to_json(), "window": window}
    with bundles.editing(bundles.load(work), {"preprocessing": changed}):
        pass
    bundle = bundles.load(work)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()  # as the server has it
    graph = onnxruntime.InferenceSession(
        str(bundle.onnx()), options, providers=["CPUExecutionProvider"]
    )
    pixel, vector, size = 0, 0.0, 0.0
    with (
        TritonServer(bundle, http_port=0, grpc_port=0, metrics_port=0, log_file=work / "log") as server,
        Client(server.url) as client,
    ):  # fmt: skip
        for number in range(0, len(cache), max(1, len(cache) // ASKED)):
            trained = crop(cache[number], bundle.preprocessing)
            posted = cache.files[number].read()
            seen = load(posted, bundle.preprocessing)  # the server has a copy of this code
            pixel = max(pixel, int(np.abs(seen.astype(int) - trained.astype(int)).max()))
            want = graph.run(["pooler_output"], {"pixel_values": trained[None]})[0]
            got = client.embed([posted]).embedding
            vector = max(vector, float(np.abs(got - want).max()))
            size = max(size, float(np.abs(want).max()))
    return {"pixel_difference": pixel, "embedding_difference": vector, "embedding_largest": size}

"""LitServe with our graph and our decoder, for benchmarks/serving.py: a rival as its guide would write it.

    python -m benchmarks.litserve_app BUNDLE --port 9000 --workers 2 --threads 1

Its Python needs litserve, onnxruntime, Pillow and jepack. It takes the OpenAI request of base64 images
that the gateway takes, batches what came meanwhile, and answers with lists of floats.
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
import onnxruntime

from jepack import bundle as bundles
from jepack.decoding import load
from jepack.machine import HOST


class Embedder(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, bundle: Path, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self.folder, self.threads = bundle, threads

    def setup(self, device: str) -> None:
        bundle, options = bundles.load(self.folder), onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            str(bundle.onnx()), options, providers=["CPUExecutionProvider"]
        )
        self.preprocessing = bundle.preprocessing

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads its annotation
        return [
            load(base64.b64decode(text.partition(",")[2]), self.preprocessing)
            for text in request["input"]
        ]

    def batch(self, inputs: list[list[Any]]) -> tuple[Any, list[int]]:
        return np.stack([crop for crops in inputs for crop in crops]), [*map(len, inputs)]

    def predict(self, batch: tuple[Any, list[int]]) -> tuple[Any, list[int]]:
        crops, counts = batch
        return self.session.run(["pooler_output"], {"pixel_values": crops})[0], counts

    def unbatch(self, output: tuple[Any, list[int]]) -> list[Any]:
        rows, counts = output
        return np.split(rows, np.cumsum(counts)[:-1])

    def encode_response(self, output: Any) -> dict[str, Any]:
        data = [{"index": number, "embedding": row.tolist()} for number, row in enumerate(output)]
        return {"object": "list", "data": data}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16, help="requests at once")
    asked = parser.parse_args()
    api = Embedder(
        asked.bundle, asked.threads, max_batch_size=asked.batch, batch_timeout=0.001,
        api_path="/v1/embeddings",
    )  # fmt: skip
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=asked.workers, timeout=120
    )
    server.run(host=HOST, port=asked.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()

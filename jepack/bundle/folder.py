"""The encoder bundle: one flat folder that is also one Hub repository. No torch here.

Written to a temporary name and renamed (making.py); every load checks the manifest (verifying.py). Section 3
of the design lists the files; `manifest.json` holds their SHA-256, the fingerprints and the provenance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from jepack.bundle import origin
from jepack.bundle.contents import OUTPUTS
from jepack.bundle.ordinary import read_null
from jepack.bundle.probes import Probe, names_of, read_probe
from jepack.bundle.verifying import read_manifest, verify
from jepack.decoding import Preprocessing
from jepack.errors import ArtifactError
from jepack.measures import Null


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_json(self.manifest["preprocessing"])

    @property
    def dimensions(self) -> dict[str, int]:
        """Width of each output, e.g. {"embedding": 512, "projection": 64}."""
        return dict(self.manifest["dimensions"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """Identity of each output's space; vectors of different fingerprints never mix."""
        return dict(self.manifest["fingerprints"])

    @property
    def default_output(self) -> str:
        """The output that search should use; `retrieval` in the manifest says on what evidence."""
        return str(self.manifest.get("default_output", OUTPUTS[0]))

    @property
    def promises(self) -> dict[str, bool]:
        """What the projection's nearness to N(0, I) allows, as export measured it; {} before it did.

        `drift`: a batch's statistic may be compared with its null. `atypicality`: a squared norm may
        be read as a chi-square p-value. A missing promise is not given.
        """
        return dict(self.manifest.get("promises") or {})

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    def golden(self) -> dict[str, npt.NDArray[Any]]:
        """`images` [N, H, W, C] uint8, and the `embedding`, `projection` PyTorch gave for them."""
        return load_file(self.folder / "golden.safetensors")

    def null(self) -> Null | None:
        """What held-out images look like to the projection; None where nobody measured it."""
        return read_null(self.folder)

    @property
    def probes(self) -> list[str]:
        """Names of the probes kept in it."""
        return names_of(self.manifest["files"])

    def probe(self, name: str) -> Probe:
        """A head that was kept. Raises ArtifactError where there is none of that name."""
        return read_probe(self.folder, self.manifest, name)

    def config(self) -> dict[str, Any]:
        """timm's config.json, with our block under "jepack"."""
        return dict(json.loads((self.folder / "config.json").read_text()))

    def isotropy(self) -> dict[str, Any]:
        """What training and export measured, see section 5 of the design; {} before any did."""
        return dict(json.loads((self.folder / "isotropy.json").read_text()))

    def onnx(self) -> Path:
        """The float32 ONNX graph; ArtifactError tells how to make it."""
        path = self.folder / "onnx" / "model.onnx"
        if not path.is_file():
            raise ArtifactError(
                f"{self.folder}: no ONNX export. Make it: jepack export {self.folder}"
            )
        return path


def load(folder: Path | str) -> Bundle:
    """Open a bundle and check every file against its manifest. Raises ArtifactError."""
    folder = Path(folder)
    problems = verify(folder)
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise ArtifactError(f"{folder}: not a sound bundle.\n{listing}\n{origin.mend(folder)}")
    return Bundle(folder, read_manifest(folder))


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Row-wise cosine similarity of two [N, D] arrays, [N]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(scale, 1e-300)

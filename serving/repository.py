"""Bundles -> a Triton model repository: one generator for the laptop and for production.

The configs of models.py are written, and the short Python models of model_repository/ copied, with each
bundle's ONNX graph and jepack's own decoder beside them. The configs that lie in model_repository/ are what
this gives for an example, to be read; a test holds them to it.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jepack
from jepack import __version__, stages
from jepack.bundle import Bundle, golden_file
from jepack.errors import ArtifactError
from jepack.files import link_or_copy, new_folder, write_bytes, write_json
from serving import models, pbtxt
from serving.models import RepositoryConfig
from serving.served import Served

__all__ = ["RepositoryConfig", "write_repository"]

SOURCES = stages.home() / "model_repository"
RECORD = "jepack-repository.json"  # what the folder was made from; Triton passes over files here
BOTH, CPU = "config.pbtxt", "configs/cpu.pbtxt"  # the second where tritonserver is told "cpu"
COMMENTS = {  # above the configs, for whoever opens them
    "embed": "Image bytes in, embedding and projection out.",
    "cpu": "A laptop or a test: the same by one Python model, which decodes and runs the graph.",
    "preprocess": "Image bytes -> uint8 crop, in processes of one thread each.",
    "encoder": "The graph in Triton's own ONNX Runtime backend, on the GPU where there is one.",
}


@dataclass(frozen=True)
class Plan:
    """Which models a repository holds: bundles whose crops are the same share their decoders."""

    served: Sequence[Served]

    def decoders(self) -> Iterator[tuple[str, Bundle]]:
        """Name of a decoding model, and the first bundle that it decodes for."""
        kinds: list[dict[str, object]] = []
        for one in self.served:
            kind = models.decoded_as(one.bundle.preprocessing)
            if kind not in kinds:
                kinds.append(kind)
                yield numbered("preprocess", len(kinds)), one.bundle

    def decoder_of(self, served: Served) -> str:
        kind = models.decoded_as(served.bundle.preprocessing)
        return next(
            name
            for name, bundle in self.decoders()
            if models.decoded_as(bundle.preprocessing) == kind
        )

    def encoder_of(self, served: Served) -> str:
        return f"encoder@{served.model}" if served.name else "encoder"

    def processes(self, config: RepositoryConfig) -> int:
        """Of Python models, on the CPU."""
        return config.processes * len(self.served)


def numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}@{number}"


def write_repository(
    served: Bundle | Sequence[Served], folder: Path | str, config: RepositoryConfig | None = None
) -> Path:
    """Write the Triton model repository of a bundle, or of several by name; returns `folder`.

    Replaces a repository written before, never another folder. Raises ArtifactError when a bundle has no
    ONNX export or the place is taken.
    """
    folder, config = Path(folder), config or RepositoryConfig()
    plan = Plan([Served(served)] if isinstance(served, Bundle) else served)
    for one in plan.served:
        one.bundle.onnx()
    if folder.is_dir() and not (folder / RECORD).is_file() and any(folder.iterdir()):
        raise ArtifactError(
            f"{folder}: not empty and not a repository of jepack's, so it is left alone. "
            "Choose another folder."
        )
    with new_folder(folder) as stage:
        for place, text in configs(plan, config):
            (stage / place).parent.mkdir(parents=True, exist_ok=True)
            (stage / place).write_text(text)
        for name, bundle in plan.decoders():
            write_decoder(stage / name, bundle)
        for one in plan.served:
            graph = stage / plan.encoder_of(one) / "1" / "model.onnx"
            graph.parent.mkdir()
            link_or_copy(str(one.bundle.onnx()), str(graph))
            copy_model("embed", stage / one.model)
            write_warmup(one.bundle, stage / one.model / "warmup" / "image")
        write_json(stage / RECORD, record(plan, config))
    return folder


def configs(plan: Plan, config: RepositoryConfig) -> Iterator[tuple[str, str]]:
    """(place in the repository, text) of every config."""
    for name, bundle in plan.decoders():
        decoder = models.preprocess(name, bundle.preprocessing, config)
        yield f"{name}/{BOTH}", pbtxt.write(decoder, COMMENTS["preprocess"])
    for one in plan.served:
        name, decoded = plan.encoder_of(one), plan.decoder_of(one)
        encoder = models.encoder(name, one, config)
        yield f"{name}/{BOTH}", pbtxt.write(encoder, COMMENTS["encoder"])
        embed = models.embed(one, decoded, name, config)
        yield f"{one.model}/{BOTH}", pbtxt.write(embed, COMMENTS["embed"])
        alone = models.embed_on_cpu(one, decoded, name, config)
        yield f"{one.model}/{CPU}", pbtxt.write(alone, COMMENTS["cpu"])


def record(plan: Plan, config: RepositoryConfig) -> dict[str, object]:
    models_of = {
        one.model: {
            "bundle": one.bundle.name,
            "version": one.version,
            "fingerprints": one.bundle.fingerprints,
        }
        for one in plan.served
    }
    return {"models": models_of, "jepack": __version__, "config": asdict(config)}


def write_decoder(model: Path, bundle: Bundle) -> None:
    """jepack/decoding/ and errors.py go beside the model, which so needs Pillow and NumPy only.

    Formats that need more work when their library is installed in the server's environment.
    """
    version, source = copy_model("preprocess", model), Path(jepack.__file__).resolve().parent
    (version / "jepack").mkdir()
    (version / "jepack" / "__init__.py").write_text("# Copied from jepack; do not edit.\n")
    shutil.copyfile(source / "errors.py", version / "jepack" / "errors.py")
    shutil.copytree(
        source / "decoding",
        version / "jepack" / "decoding",
        ignore=shutil.ignore_patterns("__pycache__"),
        copy_function=shutil.copyfile,
    )
    write_json(version / "preprocessing.json", bundle.preprocessing.to_json())
    write_warmup(bundle, model / "warmup" / "image")


def write_warmup(bundle: Bundle, path: Path) -> None:
    """The first golden image as Triton's raw string tensor: a 4-byte length, then the bytes."""
    image = golden_file(bundle.golden()["images"][0], bundle.preprocessing)
    write_bytes(path, struct.pack("<I", len(image)) + image)


def copy_model(name: str, model: Path) -> Path:
    """The short Python model of this name; gives the folder of its only version."""
    version = model / "1"
    version.mkdir()
    shutil.copyfile(SOURCES / name / "1" / "model.py", version / "model.py")
    return version

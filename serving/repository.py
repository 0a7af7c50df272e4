"""A bundle -> a Triton model repository: one generator for the laptop and for production.

The templates and the short Python models in model_repository/ are filled in and copied, with the
bundle's ONNX graph and jepack's own decoder beside them. `config.pbtxt` is the production config;
`--model-config-name=cpu` picks `configs/cpu.pbtxt`.
"""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

import jepack
from jepack import __version__, stages
from jepack.bundle import Bundle, golden_file, standing
from jepack.errors import ArtifactError, ConfigError
from jepack.files import link_or_copy, new_folder, write_bytes, write_json

TEMPLATES = stages.home() / "model_repository"
RECORD = "jepack-repository.json"  # what the folder was made from; Triton passes over files here
TENSORRT = ("off", "fp32", "fp16")


@dataclass(frozen=True, kw_only=True)
class RepositoryConfig:
    """Knobs of the generated configs; defaults suit one small GPU or a laptop."""

    max_batch_size: int = 16  # images per request and per encoder run
    queue_delay_us: int = 1000  # how long an image may wait for others to share a batch
    max_queue_size: int = 128  # requests waiting per model; more are refused at once
    threads: int = 2  # of the CPU encoder
    preprocess_instances: int = 4  # production: processes that decode
    encoder_instances: int = 1  # production: per GPU
    tensorrt: str = "off"  # production: off (CUDA), fp32 or fp16 engines
    tensorrt_cache: str = "/var/cache/jepack/tensorrt"  # persistent volume in the container

    def __post_init__(self) -> None:
        if self.tensorrt not in TENSORRT:
            raise ConfigError(f"tensorrt must be {', '.join(TENSORRT)}; found {self.tensorrt}")
        counts = (
            self.max_batch_size,
            self.max_queue_size,
            self.threads,
            self.preprocess_instances,
            self.encoder_instances,
        )
        if min(counts) < 1 or self.queue_delay_us < 0:
            raise ConfigError(f"counts must be at least 1 and delays at least 0; found {self}")


def write_repository(
    bundle: Bundle, folder: Path | str, config: RepositoryConfig | None = None
) -> Path:
    """Write the Triton model repository of a bundle; returns `folder`.

    Replaces a repository written before, never another folder. Raises ArtifactError when the bundle
    has no ONNX export or the place is taken.
    """
    folder, config = Path(folder), config or RepositoryConfig()
    graph = bundle.onnx()
    if folder.is_dir() and not (folder / RECORD).is_file() and any(folder.iterdir()):
        raise ArtifactError(
            f"{folder}: not empty and not a repository of jepack's, so it is left alone. "
            "Choose another folder."
        )
    with new_folder(folder) as stage:
        fill_templates(stage, values_of(bundle, config))
        for model in ("preprocess", "encoder"):
            (stage / model / "1").mkdir()
            shutil.copyfile(TEMPLATES / model / "1" / "model.py", stage / model / "1" / "model.py")
        link_or_copy(str(graph), str(stage / "encoder" / "1" / "model.onnx"))
        write_decoder(bundle, stage / "preprocess" / "1")
        write_warmup(bundle, stage / "preprocess" / "warmup" / "image")
        # An ensemble has no files, yet Triton wants its version folder; the file survives copying.
        write_bytes(stage / "embed" / "1" / ".keep", b"")
        record = {
            "bundle": bundle.name,
            "fingerprints": bundle.fingerprints,
            "jepack": __version__,
            "config": asdict(config),
        }
        write_json(stage / RECORD, record)
    return folder


def fill_templates(stage: Path, values: dict[str, str]) -> None:
    for template in sorted(TEMPLATES.rglob("*.pbtxt")):
        target = stage / template.relative_to(TEMPLATES)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = Template(template.read_text()).substitute(values)
        target.write_text(text.rstrip() + "\n")


def values_of(bundle: Bundle, config: RepositoryConfig) -> dict[str, str]:
    """What stands for each $name of the templates."""
    fingerprints, dimensions = bundle.fingerprints, bundle.dimensions
    size, channels = bundle.preprocessing.size, bundle.preprocessing.channels
    return {
        **{key: str(value) for key, value in asdict(config).items()},
        "size": str(size),
        "channels": str(channels),
        "embedding_dims": str(dimensions["embedding"]),
        "projection_dims": str(dimensions["projection"]),
        "name": quoted(bundle.name),
        "fingerprint_embedding": quoted(fingerprints["embedding"]),
        "fingerprint_projection": quoted(fingerprints["projection"]),
        "default_output": quoted(bundle.default_output),
        "promises": quoted(",".join(name for name, kept in bundle.promises.items() if kept)),
        "window": quoted(json.dumps(bundle.preprocessing.to_json()["window"])),
        "crop": quoted(f"{bundle.preprocessing.crop_pct:g} {bundle.preprocessing.crop_mode}"),
        "notes": quoted("\n".join(standing.notes(bundle))),
        "accelerator": accelerator(config, f"{size}x{size}x{channels}"),
    }


def quoted(text: str) -> str:
    """A string of protobuf's text format; it takes JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


def accelerator(config: RepositoryConfig, shape: str) -> str:
    """The TensorRT block of the production encoder, empty when off.

    Engines take minutes to build, so they and their timings are kept, and one profile spans every
    batch size: without it each new size builds again.
    """
    if config.tensorrt == "off":
        return ""
    options = {
        "precision_mode": config.tensorrt.upper(),
        "max_workspace_size_bytes": str(1 << 30),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": config.tensorrt_cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": config.tensorrt_cache,
        "trt_profile_min_shapes": f"pixel_values:1x{shape}",
        "trt_profile_opt_shapes": f"pixel_values:{config.max_batch_size}x{shape}",
        "trt_profile_max_shapes": f"pixel_values:{config.max_batch_size}x{shape}",
    }
    lines = [f'    parameters {{ key: "{k}" value: {quoted(v)} }}' for k, v in options.items()]
    head = 'optimization { execution_accelerators {\n  gpu_execution_accelerator [ {\n    name: "tensorrt"'
    return "\n".join([head, *lines, "  } ]\n} }"])


def write_decoder(bundle: Bundle, version: Path) -> None:
    """Copy jepack/decoding/ and errors.py beside the server's model, which so needs Pillow and NumPy only.

    Formats that need more work when their library is installed in the server's environment.
    """
    source = Path(jepack.__file__).resolve().parent
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


def write_warmup(bundle: Bundle, path: Path) -> None:
    """The first golden image as Triton's raw string tensor: a 4-byte length, then the bytes."""
    image = golden_file(bundle.golden()["images"][0], bundle.preprocessing)
    write_bytes(path, struct.pack("<I", len(image)) + image)

"""Where an encoder came from, as its manifest tells it: code, data, versions."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from jepack import __version__, stages
from jepack.bundle import load
from jepack.sources import ImageFile, Source
from training.run import Prepared, sameness, stated_by_timm
from training.settings import TrainConfig

HELD_OUT_NAMES = 2048


def provenance(prepared: Prepared, record: dict[str, Any]) -> dict[str, Any]:
    """Where an encoder came from: code, data, versions."""
    config, images, held_out = prepared.config, prepared.images, prepared.split.held_out
    return {
        "data": data_of(prepared.source, images.files, images.digest, held_out, config.seed),
        "license": record["license"],
        "commit": commit(),
        "versions": versions(),
        "recipe": config.to_json(),
        "history": record["history"],
        **({} if (start := start_of(config)) is None else {"start": start}),
    }


def start_of(config: TrainConfig) -> dict[str, Any] | None:
    """The weights that a run starts from and their licence; None where they are random."""
    if config.init is not None:
        bundle = load(Path(config.init))
        source = bundle.manifest.get("provenance") or {}
        return {
            "name": bundle.manifest["name"],
            "origin": (source.get("weights") or {}).get("origin", "a run of jepack"),
            "license": source.get("license", sameness.NOT_STATED),
            "fingerprints": bundle.fingerprints,
        }
    if not config.pretrained:
        return None
    stated = stated_by_timm(config.encoder)
    name = f"{config.encoder.split('.')[0]}.{stated.get('tag', '')}".rstrip(".")
    license = stated.get("license") or sameness.NOT_STATED
    return {"name": name, "origin": f"timm, {name}", "license": license}


def data_of(
    source: Source, files: Sequence[ImageFile], digest: str, held_out: Any, seed: int
) -> dict[str, Any]:
    """What the manifest says of the data; jepack.sources.record_of reads it."""
    return {
        "folder": source.text if source.away else str(source.base.absolute()),
        **({"source": source.below} if source.below and not source.away else {}),
        "digest": digest,
        "images": len(files),
        "held_out": held_out_names(files, source.base, held_out, seed),
    }


def held_out_names(files: Sequence[ImageFile], base: Path, held_out: Any, seed: int) -> list[str]:
    """Names of the images kept out, a draw of them where there are very many: `jepack export` judges by
    these alone, so they must not be those of the first classes."""
    return [files[int(i)].name_below(base) for i in pick(held_out, HELD_OUT_NAMES, seed)]


def versions() -> dict[str, str]:
    return {
        "jepack": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def commit() -> str | None:
    """The checkout's commit, with `+` when files differ from it; None outside a checkout."""
    here = stages.checkout()
    if here is None:  # a repository around the installed package is somebody else's
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty else "")


def pick(indices: Any, count: int, seed: int) -> Any:
    """`count` of the indices at most, the same for a seed, in their order."""
    if len(indices) <= count:
        return indices
    return np.sort(np.random.default_rng([seed, 5]).choice(indices, count, replace=False))

"""Folders that jepack wrote: what lies in them is no image of the data around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

MOST = 4 << 20  # bytes of a record; a larger file of that name is somebody's own

# A record in the folder -> (what else lies there, keys of the record that no other file of that name has).
RECORDS = {
    "index.json": ((), {"fingerprint", "metric", "dimension"}),  # an index in LanceDB
    "milvus.json": ((), {"uri", "collection"}),  # what stands for one on a server
    "job.json": ((), {"job", "run", "whole"}),  # parts of `jepack embed`
    "manifest.json": (("model.safetensors",), {"fingerprints", "files"}),  # a bundle
    "config.json": (("checkpoints",), {"encoder", "images_per_step"}),  # a run
}
LITE = ".db"  # ending of a folder of Milvus Lite, which holds
IN_LITE = {"LOCK", "aliases.json", "collections"}


def is_ours(folder: Path, names: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether jepack wrote this folder, by the names in it; a record is opened where one is among them."""
    found = {name for name in (*RECORDS, "LOCK", "aliases.json") if name in names}
    if folder.suffix == LITE and found.union(folders) >= IN_LITE:
        return True
    return any(
        set(besides) <= {*names, *folders} and keys <= keys_of(folder / name)
        for name, (besides, keys) in RECORDS.items()
        if name in found
    )


def keys_of(record: Path) -> set[str]:
    """Of the JSON object in a file; none of anything else."""
    try:
        value = json.loads(record.read_bytes()) if record.stat().st_size <= MOST else None
    except (OSError, ValueError, RecursionError):
        return set()
    return set(value) if isinstance(value, dict) else set()

"""What kept probes say of each row, as columns of a table beside the vectors. N rows, C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepack.bundle import Probe
from jepack.bundle import load as load_bundle
from jepack.errors import ConfigError


def heads_of(
    bundle: Path, names: Sequence[str], outputs: Sequence[str]
) -> tuple[list[Probe], tuple[str, ...]]:
    """The probes of these names, and what tells them from others: `name digest digest`.

    Raises ArtifactError where the bundle keeps no such probe, ConfigError where one reads an output that is
    not kept.
    """
    loaded, heads, told = load_bundle(bundle), [], []
    for name in dict.fromkeys(names):
        head = loaded.probe(name)
        if head.output not in outputs:
            raise ConfigError(
                f"probe {name} reads the {head.output}, which --output {outputs[0]} leaves out: "
                "--output both"
            )
        heads.append(head)
        files = [f"probes/{name}{ending}" for ending in (".json", ".safetensors")]
        told.append(
            " ".join([name, *(loaded.manifest["files"][one]["sha256"][:16] for one in files)])
        )
    return heads, tuple(told)


def said_by(heads: Sequence[Probe], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """{column: Arrow array}: `probe_NAME` (the class, null for "unsure"), `probe_NAME_probability` of the
    likeliest class, and `probe_NAME_set`, the classes it may be; null for a probe without a threshold."""
    import pyarrow as pa

    found: dict[str, Any] = {}
    for head in heads:
        shares_NC = head.probabilities(outputs[head.output])
        sets_NC = head.sets_by(shares_NC)
        names = np.array(head.classes, dtype=object)
        sets = [None] * len(shares_NC) if sets_NC is None else [list(names[row]) for row in sets_NC]
        column = f"probe_{head.name}"
        found[column] = pa.array(head.named_by(shares_NC), pa.string())
        found[f"{column}_probability"] = pa.array(shares_NC.max(axis=1).astype(np.float32))
        found[f"{column}_set"] = pa.array(sets, pa.list_(pa.string()))
    return found

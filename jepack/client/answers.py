"""What an endpoint tells of itself, and what a call gives. N items, E embedding dims, D projection dims."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from jepack.client.items import REQUEST_BYTES
from jepack.decoding import Window, checked_window
from jepack.errors import ConfigError

OUTPUTS = ("embedding", "projection")
Output = Literal["embedding", "projection", "both"]
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Endpoint:
    """What a running endpoint serves."""

    bundle: str  # name of the bundle
    fingerprints: dict[str, str]  # of each output's space
    dimensions: dict[str, int]  # {"embedding": E, "projection": D}
    max_batch_size: int  # images per request
    default_output: str = "embedding"  # the one that search should use
    promises: tuple[str, ...] = ()  # what the projection allows: "drift", "atypicality"
    window: Window = None  # the values it shows as 0..255; None where it has none, or does not tell
    crop_pct: float = 1.0  # side of the seen square over the shorter side, see Preprocessing
    crop_mode: str = "center"
    notes: tuple[
        str, ...
    ] = ()  # what its user must know, a sentence each; see jepack.bundle.standing
    version: int = 1  # of the name it is served by
    max_bytes: int = REQUEST_BYTES  # of the image files of one request
    probes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # served ones: their classes


@dataclass(frozen=True)
class Embeddings:
    """The rows of a call, float32 in the order of its items; the row of a skipped bad image is NaN.

    An output that was not asked for has no columns, [N, 0].
    """

    embedding: Rows  # [N, E]
    projection: Rows  # [N, D]
    fingerprints: dict[str, str]  # {"embedding": ..., "projection": ...}
    errors: dict[int, str] = field(default_factory=dict)  # item: why it was refused
    default_output: str = "embedding"  # the one that search should use, says the bundle
    names: tuple[str, ...] = ()  # of each item: its path, or "item 3"
    # By probe, where asked for: [N, C], a column for each class that `Endpoint.probes` tells of it.
    probabilities: dict[str, Rows] = field(default_factory=dict)

    @property
    def for_search(self) -> Rows:
        """The rows that search should use, [N, E] or [N, D]. Raises ConfigError when not asked for."""
        rows = self.projection if self.default_output == "projection" else self.embedding
        if rows.shape[1:] == (0,):
            raise ConfigError(
                f"search should use the {self.default_output}, which was not asked for. "
                f'Ask for it: embed(..., output="{self.default_output}")'
            )
        return rows

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """[N], True where the row is an embedding."""
        mask = np.ones(len(self.embedding), dtype=bool)
        mask[list(self.errors)] = False
        return mask


def outputs_of(output: str) -> tuple[str, ...]:
    """Raises ConfigError."""
    if output == "both":
        return OUTPUTS
    if output not in OUTPUTS:
        raise ConfigError(f"output is {', '.join(OUTPUTS)} or both, found {output!r:.60}")
    return (output,)


def probes_of(asked: str | Sequence[str], endpoint: Endpoint, url: str) -> tuple[str, ...]:
    """Names of probes that are served. Raises ConfigError for another."""
    names = (asked,) if isinstance(asked, str) else tuple(dict.fromkeys(asked))
    for name in names:
        if name not in endpoint.probes:
            there = (
                f"there are {', '.join(endpoint.probes)}" if endpoint.probes
                else "there is none. Serve it, and ask over HTTP: jepack serve BUNDLE --probe NAME"
            )  # fmt: skip
            raise ConfigError(f"{url}: no probe {name!r:.70} answers there; {there}")
    return names


def window_of(text: str | None) -> Window:
    """A window as the endpoint tells it; None for one that cannot be read."""
    try:
        value = json.loads(text or "null")
        return checked_window(value, len(value) if isinstance(value, list) else 1)
    except ValueError:
        return None

"""Who embeds the images that a person brings: an endpoint, or a bundle in this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.indexing import Embedder, fingerprint_of
from app.store import IndexInfo
from jepack.bundle import Bundle
from jepack.bundle import load as load_bundle
from jepack.client import DEFAULT_URL, Client
from jepack.errors import ArtifactError, JepackError
from jepack.inprocess import InProcess
from jepack.machine import threads
from jepack.measures import Null

Connect = Callable[[str], Embedder]


@dataclass(frozen=True)
class Engine:
    """One way to embed. `connect` makes an embedder that its user closes.

    A new one for each upload: a client that lives on would not notice another bundle being served.
    """

    place: str  # shown: an address, or the bundle's folder
    connect: Callable[[], Embedder]
    bundle: Bundle | None = None  # where it is at hand: quality, null and crop are then known

    @property
    def remote(self) -> bool:
        """Whether somebody has to keep an endpoint running."""
        return self.bundle is None or self.place != str(self.bundle.folder)

    @cached_property
    def null(self) -> Null | None:
        """What ordinary images look like to the projection; None where nobody measured it."""
        return self.bundle.null() if self.bundle is not None else None

    def atypicality(self, projection: npt.ArrayLike) -> float | None:
        """The p-value of a new image [P] under the bundle's null; None where there is none.

        Of images like the held-out ones at most a share p has a value <= p, whatever their distribution.
        """
        if self.null is None:
            return None
        return float(self.null.p_values(np.atleast_2d(projection))[0])


def at_endpoint(url: str, connect: Connect = Client, bundle: Path | None = None) -> Engine:
    """The endpoint of `jepack serve`. Raises ArtifactError for a `bundle` that is not sound."""
    return Engine(url, partial(connect, url), None if bundle is None else load_bundle(bundle))


def in_process(bundle: Path) -> Engine:
    """The bundle's ONNX graph here. Raises ArtifactError, DependencyError or ServerError."""
    encoder = InProcess(load_bundle(bundle), threads=threads.cores())
    return Engine(str(encoder.bundle.folder), lambda: encoder, encoder.bundle)


def engine_for(url: str | None, bundle: Path | None, connect: Connect = Client) -> Engine:
    """As a command was told: `bundle` alone runs here, with `url` it only tells about the encoder."""
    if bundle is not None and url is None:
        return in_process(bundle)
    return at_endpoint(url or DEFAULT_URL, connect, bundle)


@dataclass(frozen=True)
class EngineState:
    """`kind`: "ready"; "other", it serves another encoder than the index holds; or "down"."""

    kind: str
    headline: str
    detail: str = ""
    remedy: str = ""  # a command


def state_of(engine: Engine, info: IndexInfo, folder: Path) -> EngineState:
    """Ask for its fingerprint, an endpoint for a real embedding too; never raises for what is answered."""
    reason, serves = None, ""
    try:
        with closing(engine.connect()) as embedder:
            if (
                engine.remote
            ):  # a bundle in this process embedded its golden image when it was opened
                reason = embedder.diagnose()
            if reason is None:
                found = embedder.endpoint().fingerprints
                serves = fingerprint_of(found, info.output, engine.place)
    except JepackError as error:
        reason = str(error)
    if reason is not None:
        headline = "Uploads cannot be searched with: clicking works"
        return EngineState("down", headline, reason, start_command(engine, info))
    if serves != info.fingerprint:
        return EngineState(
            "other",
            "This is another encoder: uploads cannot be compared",
            f"{engine.place} serves {info.output} {serves}, the index holds {info.fingerprint}. "
            "Serve the index's encoder, or rebuild the index:",
            f"jepack index {info.data} {option_of(engine)} --out {folder}",
        )
    return EngineState("ready", "Endpoint ready" if engine.remote else "Ready", engine.place)


def start_command(engine: Engine, info: IndexInfo) -> str:
    """What starts the endpoint that is missing; "" where there is none to start."""
    if not engine.remote:
        return ""
    bundle = engine.bundle.folder if engine.bundle is not None else info.bundle_folder or "BUNDLE"
    port = engine.place.rpartition(":")[2]
    return f"jepack serve {bundle} --port {port}"


def option_of(engine: Engine) -> str:
    """What tells a command to embed as this engine does."""
    return f"--url {engine.place}" if engine.remote else f"--bundle {engine.place}"


def check_same_space(engine: Engine, info: IndexInfo, folder: Path) -> None:
    """Raises ArtifactError when the engine's bundle is at hand and is another encoder than the index's."""
    if engine.bundle is None:
        return
    found = engine.bundle.fingerprints[info.output]
    if found != info.fingerprint:
        raise ArtifactError(
            f"{engine.bundle.folder}: its {info.output} has fingerprint {found} but the index {folder} "
            f"holds {info.fingerprint}: another encoder. Rebuild the index: jepack index {info.data} "
            f"--bundle {engine.bundle.folder} --out {folder}"
        )

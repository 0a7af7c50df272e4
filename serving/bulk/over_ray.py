"""Actors on a Ray cluster, one a core, each with the bundle's encoder. What they give is written here.

Ray places the actors and tells when one ends, with its process or its node. Its batch then goes to another,
and a new actor takes its place when a core is free. Bundle and images lie at the same paths on every node.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jepack.bundle import load as load_bundle
from jepack.client import Embeddings, Endpoint
from jepack.errors import DependencyError, ServerError
from jepack.inprocess import InProcess
from jepack.sources import ENDED, ImageFile
from serving.bulk.workers import Worker, items_of

WAIT_S = 60.0  # for an actor to start: a process, its imports, the encoder and its golden images
FEW = 2  # a batch at which so many actors ended is done image by image


def on_cluster(
    folder: Path, stack: ExitStack, *, address: str | None, workers: int, batch_size: int
) -> tuple[Endpoint, list[Worker]]:
    """What the bundle serves, and `workers` actors (0: one a core of the cluster).

    Without an address a cluster is started on this machine, and ends with `stack`. Raises DependencyError,
    and ServerError where the cluster cannot be joined or no actor starts.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DependencyError(
            "--engine ray needs Ray, which is not installed. Install it: pip install 'jepack[ray]'"
        ) from error
    stack.enter_context(redirect_stdout(sys.stderr))  # what Ray prints is no answer of ours
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ServerError(f"{address}: no Ray cluster can be joined there ({error})") from error
    stack.callback(ray.shutdown)
    count = workers or int(ray.cluster_resources().get("CPU", 0))
    if not count:
        raise ServerError(
            "the Ray cluster has no cores. Add nodes to it, or say how many: --workers"
        )
    bundle = load_bundle(folder.absolute())
    actor_class = ray.remote(num_cpus=1)(InProcess)

    def make() -> Any:
        return actor_class.remote(bundle, max_batch_size=batch_size, threads=1)

    ended: Counter[tuple[str, int]] = Counter()
    actors = [Actor(f"Ray actor {n}", ray, make, ended, make()) for n in range(1, count + 1)]
    described = [one.actor.endpoint.remote() for one in actors]
    ready, _ = ray.wait(described, num_returns=1, timeout=WAIT_S)
    if not ready:
        raise ServerError(
            f"no Ray actor started within {WAIT_S:g} s: is a core of the cluster free?"
        )
    try:
        endpoint: Endpoint = ray.get(ready[0])
    except ray.exceptions.RayError as error:
        raise ServerError(
            f"the encoder does not start on the Ray cluster: {told(error)}"
        ) from error
    return endpoint, list[Worker](actors)


@dataclass
class Actor:
    """One actor after another: a new one where the last has ended."""

    place: str
    ray: Any
    make: Callable[[], Any]
    ended: Counter[
        tuple[str, int]
    ]  # of a batch, for all workers: at how many actors' ends it was being done
    actor: Any
    up: bool = field(default=False)  # whether it was seen working

    def embed(self, files: Sequence[ImageFile]) -> Embeddings:
        if not self.up and (problem := self.diagnose()):
            raise ServerError(f"{self.place}: {problem}")
        key = (files[0].name, len(files))
        if self.ended[key] >= FEW:
            return joined([self.alone(file) for file in files])
        try:
            return self.ask(files)
        except self.ray.exceptions.RayActorError as error:
            self.ended[key] += 1
            self.renew()
            raise ServerError(f"{self.place} ended: {told(error)}") from error

    def alone(self, file: ImageFile) -> Embeddings:
        """One image; where the actor ends once more it was the image. Raises ServerError without another."""
        try:
            return self.ask([file])
        except self.ray.exceptions.RayActorError as error:
            self.renew()
            if problem := self.diagnose():
                raise ServerError(f"{self.place}: {problem}") from error
            nothing = np.full((1, 1), np.nan, np.float32)
            return Embeddings(nothing, nothing, {}, {0: ENDED})

    def ask(self, files: Sequence[ImageFile]) -> Embeddings:
        there = [replace(file, path=file.path.absolute()) for file in files]
        found: Embeddings = self.ray.get(self.actor.embed.remote(items_of(there), skip_bad=True))
        return found

    def diagnose(self) -> str | None:
        """Waits for a core that is free."""
        try:
            problem: str | None = self.ray.get(self.actor.diagnose.remote(), timeout=WAIT_S)
        except self.ray.exceptions.GetTimeoutError:
            return f"no core was free for it within {WAIT_S:g} s"
        except self.ray.exceptions.RayError as error:
            self.renew()
            return told(error)
        self.up = problem is None
        return problem

    def renew(self) -> None:
        self.up = False
        with suppress(Exception):
            self.ray.kill(self.actor)
        self.actor = self.make()


def joined(found: Sequence[Embeddings]) -> Embeddings:
    """Rows of single images as those of a batch."""
    good = next((one for one in found if not one.errors), found[0])

    def rows(output: str) -> Any:
        like = getattr(good, output)
        return np.concatenate([
            getattr(one, output) if not one.errors else np.full_like(like, np.nan) for one in found
        ])  # fmt: skip

    errors = {number: one.errors[0] for number, one in enumerate(found) if one.errors}
    return Embeddings(rows("embedding"), rows("projection"), good.fingerprints, errors)


def told(error: Exception) -> str:
    """The first sentence of what Ray says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

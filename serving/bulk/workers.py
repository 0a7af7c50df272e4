"""Who embeds: endpoints, or a bundle in this process. On a cluster: `over_ray`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from jepack.bundle import load as load_bundle
from jepack.client import Client, Embeddings, Endpoint, Item
from jepack.client.answers import Output
from jepack.errors import ArtifactError, ServerError
from jepack.inprocess import InProcess
from jepack.machine import threads
from jepack.sources import ImageFile


class Worker(Protocol):
    """One that embeds a batch at a time, on a thread of its own.

    `place` is told to people. `embed` raises ServerError where the worker is lost, and the batch is given to
    another; a bad image is an entry of `errors`.
    """

    @property
    def place(self) -> str: ...

    def embed(self, files: Sequence[ImageFile]) -> Embeddings: ...

    def diagnose(self) -> str | None:
        """Why it cannot be used, None when it can."""
        ...


def items_of(files: Sequence[ImageFile]) -> list[Item]:
    """A whole file by its path, so that it is read as a client's own."""
    return [file.path if file.part is None else file for file in files]


@dataclass(frozen=True)
class Remote:
    """A request at a time to an endpoint; several share its client."""

    place: str
    client: Client
    output: Output
    batch_size: int

    def embed(self, files: Sequence[ImageFile]) -> Embeddings:
        return self.client.embed(
            items_of(files),
            output=self.output,
            batch_size=self.batch_size,
            concurrency=1,
            skip_bad=True,
        )

    def diagnose(self) -> str | None:
        return self.client.diagnose()


def at_endpoints(
    urls: Sequence[str],
    stack: ExitStack,
    *,
    model: str,
    timeout_s: float,
    outputs: tuple[str, ...],
    batch_size: int,
    concurrency: int,
    notes: list[str],
) -> tuple[Endpoint, list[Worker]]:
    """What they serve, and `concurrency` workers for each.

    One that does not answer now may come later, as long as another does: told in `notes`. Raises ServerError
    where none answers, ArtifactError where they serve different encoders.
    """
    served: dict[str, Endpoint] = {}
    failures: dict[str, ServerError] = {}
    for url in urls:
        with Client(url, model=model, timeout_s=timeout_s) as client:
            try:
                served[url] = client.endpoint()
            except ServerError as error:
                failures[url] = error
    if not served:
        raise next(iter(failures.values()))
    notes += [f"{url} does not answer yet: {error}" for url, error in failures.items()]
    first, *others = served
    for url in others:
        if served[url].fingerprints != served[first].fingerprints:
            raise ArtifactError(
                f"{first} and {url} serve different encoders ({told(served[first])}; {told(served[url])}), "
                "whose rows cannot stand in one table. Serve one bundle at all of them"
            )
    expected = served[first].fingerprints[outputs[0]]
    output = cast(Output, outputs[0] if len(outputs) == 1 else "both")
    workers: list[Worker] = []
    for url in urls:
        client = Client(url, model=model, timeout_s=timeout_s, fingerprint=expected)
        stack.callback(client.close)
        workers += [Remote(url, client, output, batch_size) for _ in range(concurrency)]
    return served[first], workers


def told(endpoint: Endpoint) -> str:
    prints = ", ".join(f"{name} {text}" for name, text in endpoint.fingerprints.items())
    return f"{endpoint.bundle}: {prints}"


@dataclass(frozen=True)
class Here:
    """A caller of the encoder in this process."""

    place: str
    encoder: InProcess

    def embed(self, files: Sequence[ImageFile]) -> Embeddings:
        return self.encoder.embed(items_of(files), skip_bad=True)

    def diagnose(self) -> str | None:
        return self.encoder.diagnose()


def here(folder: Path, *, batch_size: int, concurrency: int) -> tuple[Endpoint, list[Worker]]:
    """A bundle's ONNX graph on all cores, and its callers: while one decodes, another computes.

    Raises ArtifactError, DependencyError, or ServerError when its golden images come back wrong.
    """
    encoder = InProcess(load_bundle(folder), max_batch_size=batch_size, threads=threads.cores())
    return encoder.endpoint(), [Here(str(folder), encoder) for _ in range(concurrency)]

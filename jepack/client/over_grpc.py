"""The endpoint by Triton's gRPC, and what its failures mean.

One channel serves threads and event loops alike: a call is begun as a future, on which the first wait and of
which the second are told. Not grpc.aio, whose objects belong to one event loop, and whose cancelled tasks
cancel the request: Triton 2.51 can crash when a cancellation meets its answer.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from jepack.client.address import Address
from jepack.client.answers import Endpoint, window_of
from jepack.client.failures import BusyError, ImageError, RequestError, UnreachableError
from jepack.client.wire import INPUT, MODEL, Answer, packed, unpacked
from jepack.errors import DataError, DependencyError, ServerError
from jepack.machine import is_loopback, shared_memory

CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default, two minutes, outlasts a restart
]
# On this machine: no proxy, and a server that starts again is found at once.
HERE = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),
]
LEAVING_S = 2.0  # for requests that nobody waits for any more, before they are cancelled


def channel(target: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to `target`; of those given twice the last one counts."""
    return [*CHANNEL, *HERE] if is_loopback(target) else CHANNEL


class Home:
    """The process that gRPC first ran in: its threads are not in a forked child, which would wait forever."""

    def __init__(self) -> None:
        self.process: int | None = None

    def check(self) -> None:
        """Called before gRPC is used. Raises ServerError in a child forked after that."""
        here = os.getpid()
        if self.process is None:
            self.process = here
        if self.process != here:
            raise ServerError(
                "this process was forked from one that uses the client, and gRPC does not survive a fork. "
                'Start it another way: multiprocessing.get_context("spawn"), DataLoader('
                'multiprocessing_context="spawn"), or make the first client after the fork'
            )


HOME = Home()


class GrpcDoor:
    """Triton's `model` at an address. Raises DependencyError without gRPC, ServerError in a forked child."""

    def __init__(self, address: Address, model: str = MODEL) -> None:
        try:
            import grpc
            from tritonclient.grpc import service_pb2, service_pb2_grpc
        except ModuleNotFoundError as error:
            raise DependencyError(
                f"the client needs {error.name}, which is not installed. "
                "Install it: pip install 'jepack[client]'"
            ) from error
        HOME.check()
        self.url, self.model = address.url, model
        self._failure: type[Exception] = grpc.RpcError
        self._gone = grpc.FutureCancelledError
        self._messages = service_pb2
        self._channel = grpc.insecure_channel(address.target, options=channel(address.target))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._flying: set[Any] = set()
        self._landed = threading.Condition()
        # Closed before the interpreter takes gRPC apart, also where nobody closes it.
        self._closing = weakref.finalize(self, shut, self._channel, os.getpid())

    def describe(self, limit_s: float) -> Endpoint:
        return endpoint_of(self._wait(self._described(limit_s), limit_s))

    async def adescribe(self, limit_s: float) -> Endpoint:
        return endpoint_of(await self._await(self._described(limit_s), limit_s))

    def send(
        self, images: Sequence[bytes], outputs: Sequence[str], limit_s: float, grace_s: float = 0.0
    ) -> Answer:
        return self._rows(self._wait(self._sent(images, outputs, limit_s, grace_s), limit_s))

    async def asend(
        self, images: Sequence[bytes], outputs: Sequence[str], limit_s: float, grace_s: float = 0.0
    ) -> Answer:
        call = self._sent(images, outputs, limit_s, grace_s)
        return self._rows(await self._await(call, limit_s))

    def close(self) -> None:
        """Waits a moment for requests that were left alone."""
        if os.getpid() == HOME.process:
            with self._landed:
                self._landed.wait_for(lambda: not self._flying, LEAVING_S)
        self._closing()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def _described(self, limit_s: float) -> Any:
        request = self._messages.ModelConfigRequest(name=self.model)
        return self._begun(self._stub.ModelConfig.future, request, limit_s)

    def _sent(
        self, images: Sequence[bytes], outputs: Sequence[str], limit_s: float, grace_s: float
    ) -> Any:
        request = self._messages.ModelInferRequest(model_name=self.model)
        request.inputs.add(name=INPUT, datatype="BYTES", shape=[len(images), 1])
        request.raw_input_contents.append(packed(images))
        for output in outputs:
            request.outputs.add(name=output)
        # What waits longer in the server's queue is not computed. Microseconds; 0 is for ever.
        request.parameters["timeout"].int64_param = max(int(limit_s * 1e6), 1)
        return self._begun(self._stub.ModelInfer.future, request, limit_s + grace_s)

    def _begun(self, begin: Callable[..., Any], request: Any, limit_s: float) -> Any:
        """A call on its way. Raises ServerError where there can be none."""
        HOME.check()
        if not self._closing.alive:
            raise ServerError("this client is closed. Make another: Client(...)")
        try:
            call = begin(request, timeout=limit_s)
        except ValueError as error:  # closed by another thread just now
            raise ServerError(f"{self.url}: {error}") from error
        with self._landed:
            self._flying.add(call)
        call.add_done_callback(self._ended)
        return call

    def _ended(self, call: Any) -> None:
        with self._landed:
            self._flying.discard(call)
            self._landed.notify_all()

    def _wait(self, call: Any, limit_s: float) -> Any:
        try:
            return call.result()
        except self._gone:
            raise ServerError(f"{self.url}: the client was closed while it waited") from None
        except self._failure as error:
            raise translate(error, self.url, limit_s) from error

    async def _await(self, call: Any, limit_s: float) -> Any:
        loop = asyncio.get_running_loop()
        landed = asyncio.Event()

        def tell(_: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(landed.set)

        call.add_done_callback(tell)
        await landed.wait()
        return self._wait(call, limit_s)

    def _rows(self, answer: Any) -> Answer:
        found = {
            told.name: unpacked(data, told.shape)
            for told, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        return Answer({name: np.asarray(rows) for name, rows in found.items()})


def shut(connection: Any, owner: int) -> None:
    """Close a channel; not in a forked child, whose copy of the connection nothing drives."""
    if os.getpid() == owner:
        connection.close()


def endpoint_of(answer: Any) -> Endpoint:
    """From the config of the model, which the repository was written with."""
    config = answer.config
    texts = {key: value.string_value for key, value in config.parameters.items()}
    crop_pct, crop_mode = texts.get("crop", "1 center").split()
    return Endpoint(
        bundle=texts["bundle"],
        fingerprints={
            key.removeprefix("fingerprint_"): text
            for key, text in texts.items()
            if key.startswith("fingerprint_")
        },
        dimensions={one.name: int(one.dims[0]) for one in config.output},
        max_batch_size=int(config.max_batch_size),
        default_output=texts.get("default_output", "embedding"),
        promises=tuple(name for name in texts.get("promises", "").split(",") if name),
        window=window_of(texts.get("window")),
        crop_pct=float(crop_pct),
        crop_mode=crop_mode,
        notes=tuple(texts.get("notes", "").splitlines()),
        version=int(texts.get("version") or 1),
    )


def translate(error: Any, url: str, limit_s: float) -> DataError | ServerError:
    """A gRPC failure as an error of ours: what happened at `url`, and what to do."""
    status = error.code().name
    text = re.sub(r"^in ensemble '\w+', ", "", str(error.details() or "")).strip()
    if status == "INVALID_ARGUMENT" and (refused := re.match(r"image( \d+)?: ", text)):
        return ImageError(text[refused.end() :], int(refused[1] or 0))
    if "maximum queue size" in text.lower():
        return BusyError(
            f"{url}: overloaded, its queue is full. Send less at once, or add servers.", again=True
        )
    if "timeout expired" in text.lower():
        return BusyError(f"{url}: not begun within {limit_s:g} s, so the server dropped it")
    if "shared memory pool" in text:
        return ServerError(
            f"{url}: the server's shared memory is full. Send smaller requests (--batch-size 4), or "
            f"give it more where it runs. {shared_memory.MEND}"
        )
    if "has no available versions" in text:
        return UnreachableError(f"{url}: the server is starting or stopping, ask again")
    if status == "UNAVAILABLE" and "failed parsing http/2" in text.lower():
        return ServerError(
            f"{url}: what answers there does not speak gRPC ({cause(text)}). A gateway is written "
            f"http://{url.removeprefix('grpc://')}"
        )
    if status == "UNAVAILABLE" and "restricted" not in text:
        return UnreachableError(
            f"{url}: nothing answers there ({cause(text)}). "
            "Start it: jepack serve BUNDLE, or name another address"
        )
    if status == "DEADLINE_EXCEEDED":
        return BusyError(
            f"{url}: no answer within {limit_s:g} s. Is the server busy? Allow more: timeout_s"
        )
    if status == "NOT_FOUND" or "unknown model" in text:
        return ServerError(
            f"{url}: this server has no such model ({last_line(text)}). Where bundles are served by name, "
            'name one: Client(url, model="photos"), or "photos@2" of several versions; `jepack embed --model`'
        )
    return RequestError(f"{url}: the server failed ({status.lower()}: {last_line(text)})")


def cause(text: str) -> str:
    """What the system said of a connection, without gRPC's chain of reports before it."""
    return last_line(text).rpartition(": ")[2].partition(" (")[0].lower()


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"

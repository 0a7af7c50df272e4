"""The real tritonserver on loopback, as a context manager that leaves nothing behind.

with TritonServer(bundle) as server:
    Client(server.url).embed([Path("a.jpg")])

with TritonServer(together([("A", one), ("A", other), ("B", third)])) as server:
    Client(server.url, model="A@2").embed([Path("a.jpg")])
"""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from jepack.bundle import Bundle, difference, golden_file
from jepack.client import BusyError, Client
from jepack.errors import DataError, ServerError
from jepack.machine import HOST, shared_memory
from serving import logs, models
from serving.command import SERVICES, PortTakenError, check_ports, choose_ports, server_command
from serving.environment import ServerEnvironment, ensure_server_environment
from serving.models import RepositoryConfig
from serving.processes import ended, of_group
from serving.repository import Plan, write_repository
from serving.served import ALONE, Served

# Between our look at a port and Triton's, another program can take it.
TAKEN = re.compile(r"failed to start \w+ service: .*already in use")
PORT_TRIES = 3  # of ports that we choose
LOOK_EVERY_S = 0.2  # whether the process lives


class TritonServer:
    """Serves a bundle, or several by name, from `start` to `stop`; a port of 0 picks a free one.

    `http_port` answers health and metadata, `grpc_port` inference, `metrics_port` Prometheus.
    Raises ConfigError for a port that cannot be, ServerError when one is taken or the server does not
    reproduce the golden embeddings.
    """

    def __init__(
        self,
        bundles: Bundle | Sequence[Served],
        *,
        http_port: int = SERVICES["http"],
        grpc_port: int = SERVICES["grpc"],
        metrics_port: int = SERVICES["metrics"],
        config: RepositoryConfig | None = None,
        environment: ServerEnvironment | None = None,
        log_file: Path | None = None,
        start_timeout_s: float = 90.0,
    ) -> None:
        self.served = [Served(bundles)] if isinstance(bundles, Bundle) else list(bundles)
        self.config = config or RepositoryConfig()
        self.log_file = log_file.absolute() if log_file else None
        self.start_timeout_s = start_timeout_s
        self.ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        check_ports(self.ports)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._models: list[int] = []  # processes of its models, once it is ready
        self._scratch: Path | None = None  # the repository; removed on stop
        self._clients: dict[str, Client] = {}  # by model
        self._earlier_log_is_kept = False

    @property
    def url(self) -> str:
        """gRPC address for `jepack.client.Client`."""
        return f"{HOST}:{self.ports['grpc']}"

    @property
    def pid(self) -> int | None:
        """Leader of the server's process group while it runs."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> TritonServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> TritonServer:
        """Start and wait until a golden image comes back right; on any failure nothing is left running."""
        if not self.running():
            self._begin()
        return self

    def _begin(self, *, wait_for_ports_s: float = 0.0) -> None:
        """Start, again when a port was taken: for so long, and with others where we choose them."""
        asked, tries, end = dict(self.ports), 1, time.monotonic() + wait_for_ports_s
        self._earlier_log_is_kept = False
        while True:
            try:
                self._begin_once()
                return
            except PortTakenError:
                ours = 0 in asked.values() and tries < PORT_TRIES
                if not ours and time.monotonic() > end:
                    raise
            self.ports, tries = dict(asked), tries + 1
            time.sleep(0.2)

    def _begin_once(self) -> None:
        for one in self.served:
            one.bundle.onnx()
        largest = max(math.prod(models.shape(one.bundle.preprocessing)) for one in self.served)
        processes = Plan(self.served).processes(self.config)
        if problem := shared_memory.too_small(self.config.max_batch_size * largest, processes):
            raise ServerError(f"the server cannot start: {problem}")
        self.ports = choose_ports(self.ports)  # kept over a restart, so clients find it again
        self.log_file = self.log_file or logs.default(self.ports["grpc"])
        environment = self._environment or ensure_server_environment()
        self._scratch = Path(tempfile.mkdtemp(prefix=f"jepack-{os.getpid()}-"))
        try:
            repository = write_repository(self.served, self._scratch / "repository", self.config)
            self._launch(environment, repository)
            self._wait_until_ready()
            assert self._process is not None
            self._models = of_group(self._process.pid)
        except BaseException:
            self.stop()
            raise

    def running(self) -> bool:
        """Whether the server's process lives; `check` tells whether it works."""
        return self._process is not None and self._process.poll() is None

    def lives_for(self, seconds: float) -> bool:
        """Wait so long, or until one of its processes has ended; whether it lives."""
        end = time.monotonic() + seconds
        while self.running() and not self._lost() and (left_s := end - time.monotonic()) > 0:
            time.sleep(min(left_s, LOOK_EVERY_S))
        return self.running()

    def check(
        self, *, images: int = 1, timeout_s: float = 5.0, busy_is_fine: bool = False
    ) -> str | None:
        """Send golden images and compare; what is wrong, None when all is well.

        `busy_is_fine` tells a server that works from one that keeps up.
        """
        if not self.running():
            return f"the server has stopped.\n{self.log_tail()}"
        if self._lost():  # the others answer, and golden images may go to them
            return f"a process of its models has ended.\n{self.log_tail()}"
        for one in self.served:
            if problem := self._check(one, images, timeout_s, busy_is_fine):
                return problem if one.model == ALONE else f"{one.model}: {problem}"
        return None

    def _lost(self) -> bool:
        return any(ended(one) for one in self._models)

    def _check(
        self, served: Served, images: int, timeout_s: float, busy_is_fine: bool
    ) -> str | None:
        bundle, model = served.bundle, served.model
        if model not in self._clients:
            self._clients[model] = Client(self.url, model=model)
        client, golden = self._clients[model], bundle.golden()
        files = [golden_file(image, bundle.preprocessing) for image in golden["images"][:images]]
        try:
            found = client.infer(files, timeout_s=timeout_s)
            fingerprints = client.fingerprints()
        except (ServerError, DataError) as error:
            return None if busy_is_fine and isinstance(error, BusyError) else str(error)
        if fingerprints != bundle.fingerprints:
            return f"{self.url}: another server answers there, serving {fingerprints}"
        wrong = difference(found, golden)
        return wrong and f"{self.url}: the golden images come back wrong: {wrong}"

    def stop(self) -> None:
        """Stop the server and every process of it; returns when they are gone."""
        self._models = []
        while self._clients:
            self._clients.popitem()[1].close()
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(OSError):  # a byte too: a forked child of ours may hold the pipe open
                self._process.stdin.write(b"stop")
                self._process.stdin.close()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def restart(self) -> Path:
        """Kill and start again on the same ports, for a server that `check` found broken; where its log is.

        Triton does not restart a model process that died, and stays "ready" without it. A port that
        another program took in between is waited for, as long as a start may take.
        """
        if self._process is not None:
            self._process.terminate()  # the guard ends its group at once: nothing worth waiting for
        self.stop()
        self._begin(wait_for_ports_s=self.start_timeout_s)
        assert self.log_file is not None
        return logs.earlier(self.log_file, 1)

    def log_tail(self, lines: int = 12) -> str:
        """What matters of the server's log: its errors, else its end; and its place."""
        return logs.tail(self.log_file, lines) if self.log_file else "It has no log yet."

    def _launch(self, environment: ServerEnvironment, repository: Path) -> None:
        shm_prefix = f"jepack-{os.getpid()}-{secrets.token_hex(4)}-"
        guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
        names = [one.model for one in self.served]
        command = server_command(environment, repository, names, self.ports, shm_prefix)
        assert self.log_file is not None
        try:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            if not self._earlier_log_is_kept:  # once for all tries to get its ports
                logs.set_aside(self.log_file)
                self._earlier_log_is_kept = True
            with self.log_file.open("wb") as log:
                self._process = subprocess.Popen(
                    [*guard, str(self._scratch), shm_prefix, *command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment.variables(),
                    start_new_session=True,  # its own process group; Ctrl-C reaches only us
                )
        except OSError as error:
            raise ServerError(
                f"{self.log_file}: the log cannot be written ({error.strerror}). "
                "Choose another place: --log-file"
            ) from error

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self.start_timeout_s
        golden_count = max(len(one.bundle.golden()["images"]) for one in self.served)
        problem: str | None = "it was not asked yet"
        while problem is not None:
            if not self.running():
                tail = self.log_tail()
                kind = PortTakenError if TAKEN.search(tail) else ServerError
                raise kind(f"tritonserver stopped while starting.\n{tail}")
            if time.monotonic() > end:
                raise ServerError(
                    f"tritonserver was not ready within {self.start_timeout_s:g} s: {problem}\n"
                    f"{self.log_tail()}"
                )
            problem = self.check(images=min(golden_count, self.config.max_batch_size))
            if problem is not None and (
                "come back wrong" in problem or "another server" in problem
            ):
                raise ServerError(f"{problem}\n{self.log_tail()}")
            if problem is not None:
                time.sleep(0.2)

"""How tritonserver is started: its ports, its doors, and which of them are shut."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from jepack.errors import ConfigError, ServerError
from jepack.machine import HOST, loopback
from serving.environment import ServerEnvironment

OPTIONS = {"grpc": "--port", "http": "--http-port", "metrics": "--metrics-port"}
MOST_IMAGES = 65_536  # of one request
SERVICES = {"http": 8000, "grpc": 8001, "metrics": 8002}
# Shut over HTTP: a deeply nested JSON body can kill this server build, and any web page may post to
# loopback; gRPC is the way in. Health and metadata stay open for probes.
HTTP_LOCKED = "inference,shared-memory,model-config,model-repository,statistics,trace,logging"
GRPC_LOCKED = "shared-memory,model-repository,trace,logging"
# Triton opens what is locked to a request with a header of this name and value, and takes both from its
# command line alone, which every user of the machine can read. So it is a header that no request can
# carry: names in HTTP/2 have no capital letters, values in HTTP/1.1 no line feed, and Triton closes the
# connection of a request that tries.
NO_KEY = "X-Jepack-Nobody=no\nkey"


class PortTakenError(ServerError):
    """Another program holds a port; it may be free a moment later."""


def server_command(
    environment: ServerEnvironment,
    repository: Path,
    names: Sequence[str],
    ports: dict[str, int],
    shm_prefix: str,
) -> list[str]:
    """tritonserver with its doors on loopback, and those that nobody needs shut.

    `names`: the models it serves.
    """
    addresses = [f"--{service}-address={HOST}" for service in ports]
    numbers = [f"--{service}-port={port}" for service, port in ports.items()]
    return [
        str(environment.binary),
        f"--model-repository={repository}",
        "--model-config-name=cpu",
        f"--backend-directory={environment.backends}",
        f"--cache-directory={environment.caches}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        # Those models and not the ones that production needs beside them. Loading others over the network
        # would run uploaded Python, so that door is locked below.
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in names),
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        "--exit-timeout-secs=5",
        *addresses,
        *numbers,
        f"--http-restricted-api={HTTP_LOCKED}:{NO_KEY}",
        f"--grpc-restricted-protocol={GRPC_LOCKED}:{NO_KEY}",
        "--allow-gpu-metrics=false",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
    ]


def check_ports(asked: dict[str, int]) -> None:
    """Raise ConfigError for a number that no port has, and for one port asked for twice."""
    for service, port in asked.items():
        loopback.check_port(port, OPTIONS[service])
    chosen = [port for port in asked.values() if port]
    if len(set(chosen)) < len(chosen):
        named = ", ".join(f"{OPTIONS[service]} {port}" for service, port in asked.items())
        raise ConfigError(f"each service needs a port of its own, found {named}; 0 picks one.")


def choose_ports(asked: dict[str, int]) -> dict[str, int]:
    """The asked ports, 0 replaced by free ones. Raises PortTakenError naming all that are taken."""
    check_ports(asked)
    held: dict[str, socket.socket] = {}
    taken: dict[str, str] = {}
    try:
        for service, port in asked.items():
            try:
                # Held until all are chosen, so that no two are the same.
                held[service] = loopback.hold(port)
            except OSError as error:
                taken[service] = (
                    f"port {port} on {HOST} cannot be used for {service} ({error.strerror})"
                )
        if taken:
            raise PortTakenError(
                f"{'; '.join(taken.values())}. Choose others, 0 picks a free one: "
                + " ".join(f"{OPTIONS[service]} 0" for service in taken)
            )
        return {service: holder.getsockname()[1] for service, holder in held.items()}
    finally:
        for holder in held.values():
            holder.close()

"""Options of `jepack serve` that would have no effect beside the others: refused, never passed over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jepack.errors import ConfigError

OF_TRITON = ("port", "http_port", "metrics_port", "log_file")
OF_PRODUCTION = ("tensorrt", "decoders")
OF_THE_ENCODER = ("max_batch_size", "threads")
OF_A_REPOSITORY = (*OF_THE_ENCODER, *OF_PRODUCTION, "repository_only", "as_json")
OF_THE_GATEWAY = (
    "http", "engine", "canary", "key_file", "tls_cert", "tls_key", "no_watch", "images_per_false_alarm",
    "probes", "http_log", "wait_s",
)  # fmt: skip
WRITTEN = {"probes": "probe"}  # options that are called otherwise than in the code


def changed(command: Callable[..., Any], given: Mapping[str, Any]) -> list[str]:
    """The options that were given another value than the command's own, in its order."""
    options = inspect.signature(command).parameters.values()
    return [one.name for one in options if one.default not in (one.empty, given[one.name])]


def check(given: list[str], engine: str) -> None:
    """`given`: names as in `changed`. Raises ConfigError naming what has no effect, and why."""
    if "repository_only" in given:
        rest = [one for one in given if one not in OF_A_REPOSITORY]
        refuse(rest, "--repository-only writes a model repository and stops")
        return
    why = "the production config, which --repository-only DIR writes for the container, does not run here"
    refuse(among(given, OF_PRODUCTION), why)
    if "wait_s" in given and engine in ("triton", "embedded"):
        refuse(["wait_s"], f"only a Triton at --engine host:port is waited for, not {engine}")
    if "no_http" in given:
        why = "--no-http leaves gRPC alone, which has no keys, no TLS and no watching"
        refuse(among(given, OF_THE_GATEWAY), why)
    elif engine == "embedded":
        why = "--engine embedded starts no Triton; the gateway is at --http and decodes by itself"
        refuse(among(given, OF_TRITON), why)
    elif engine != "triton":
        why = f"the Triton at {engine} was started with its own"
        refuse(among(given, (*OF_TRITON, *OF_THE_ENCODER)), why)


def among(given: Iterable[str], names: tuple[str, ...]) -> list[str]:
    return [one for one in given if one in names]


def refuse(names: list[str], why: str) -> None:
    if names:
        told = ", ".join(f"--{WRITTEN.get(one, one).replace('_', '-')}" for one in names)
        raise ConfigError(
            f"{why}: no effect of {told}; leave {'it' if len(names) == 1 else 'them'} out"
        )

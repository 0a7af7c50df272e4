"""Options of `jepack serve` that would have no effect beside the others: refused, never passed over."""

from __future__ import annotations

from jepack.terminal.idle import refuse

OF_TRITON = ("port", "http_port", "metrics_port", "log_file")
OF_PRODUCTION = ("tensorrt", "decoders")
OF_THE_ENCODER = ("max_batch_size", "threads")
OF_A_REPOSITORY = (*OF_THE_ENCODER, *OF_PRODUCTION, "repository_only", "as_json")
OF_THE_GATEWAY = (
    "http", "engine", "canary", "key_file", "tls_cert", "tls_key", "no_watch", "images_per_false_alarm",
    "probes", "http_log", "wait_s",
)  # fmt: skip


def check(given: list[str], engine: str) -> None:
    """`given`: names as in `idle.changed`. Raises ConfigError naming what has no effect, and why."""
    if "repository_only" in given:
        rest = [one for one in given if one not in OF_A_REPOSITORY]
        refuse(given, rest, "--repository-only writes a model repository and stops")
        return
    why = "the production config, which --repository-only DIR writes for the container, does not run here"
    refuse(given, OF_PRODUCTION, why)
    if "wait_s" in given and engine in ("triton", "embedded"):
        refuse(
            given, ["wait_s"], f"only a Triton at --engine host:port is waited for, not {engine}"
        )
    if "no_http" in given:
        why = "--no-http leaves gRPC alone, which has no keys, no TLS and no watching"
        refuse(given, OF_THE_GATEWAY, why)
    elif engine == "embedded":
        why = "--engine embedded starts no Triton; the gateway is at --http and decodes by itself"
        refuse(given, OF_TRITON, why)
    elif engine != "triton":
        why = f"the Triton at {engine} was started with its own"
        refuse(given, (*OF_TRITON, *OF_THE_ENCODER), why)

"""What Prometheus may read of a gateway: a registry of its own, so that two gateways can share a process."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from serving.gateway.fleet import Fleet
from serving.gateway.limits import Queue

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    def __init__(self, fleet: Fleet[Any], queue: Queue) -> None:
        self.fleet, self.registry = fleet, CollectorRegistry()
        self.requests = Counter(
            "jepack_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "jepack_request_seconds", "From the first byte of a request to the last of its answer.",
            ["route"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.images = Counter(
            "jepack_images", "Images, embedded and refused.", ["result"], registry=self.registry
        )
        for result in ("embedded", "refused"):
            self.images.labels(result)
        for name, told, value in (
            ("waiting", "Requests that wait for a worker.", lambda: queue.waiting),
            ("working", "Requests that the engine works on.", lambda: queue.working),
            ("body_bytes", "Bytes of request bodies held.", lambda: queue.held),
        ):
            Gauge(f"jepack_{name}", told, registry=self.registry).set_function(value)
        self.answers = Counter(
            "jepack_answers", "Requests answered by a model version.", ["model", "version"],
            registry=self.registry,
        )  # fmt: skip
        self.bundles = Info(
            "jepack_bundle", "What is served.", ["model", "version"], registry=self.registry
        )
        self.shares = Gauge(
            "jepack_share", "Share of the callers who name no version.", ["model", "version"],
            registry=self.registry,
        )  # fmt: skip

    def page(self) -> bytes:
        for name, number, place in self.fleet.all():
            labels, fingerprints = (name, str(number)), place.engine.endpoint.fingerprints
            self.answers.labels(*labels)
            self.shares.labels(*labels).set(self.fleet.share(name, number))
            self.bundles.labels(*labels).info(
                {f"fingerprint_{output}": text for output, text in fingerprints.items()}
            )
        return generate_latest(self.registry)

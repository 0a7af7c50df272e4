"""A gateway on loopback over the small bundle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from jepack.bundle import Bundle


@pytest.fixture(scope="session", autouse=True)
def patient_probes() -> Iterator[None]:
    """Whether a gateway is ready is known by a real answer, however long a busy machine takes for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.gateway.health.WAITED_S", 300)
        yield


@pytest.fixture(scope="session")
def embedded(exported_bundle: Bundle) -> Any:
    """The engine in this process."""
    from serving.gateway import EmbeddedEngine

    return EmbeddedEngine(exported_bundle, threads=1)


@pytest.fixture(scope="session")
def gateway(embedded: Any) -> Iterator[Any]:
    from serving.gateway import Gateway

    with Gateway(embedded, port=0) as one:
        yield one


@pytest.fixture
def http(gateway: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=300) as client:
        yield client

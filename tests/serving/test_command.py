"""Triton's ports, and what is shown to paste once it serves."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from jepack.bundle import Bundle
from serving.command import OPTIONS, PortTakenError, choose_ports
from serving.served import Served
from serving.welcome import pasted


def test_every_port_that_is_taken_is_told_at_once() -> None:
    with ExitStack() as stack:
        asked = {}
        for service in ("grpc", "metrics"):
            holder = stack.enter_context(socket.socket())
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            asked[service] = holder.getsockname()[1]
        with pytest.raises(PortTakenError) as told:
            choose_ports({**asked, "http": 0})
    for service, port in asked.items():
        assert f"port {port} on 127.0.0.1 cannot be used for {service}" in str(told.value)
    assert str(told.value).endswith("0 picks a free one: --port 0 --metrics-port 0")
    assert OPTIONS["http"] not in str(told.value)


def test_what_is_pasted_brings_the_key_and_the_name(small_bundle: Bundle) -> None:
    one = Served(small_bundle)
    shown = "\n".join(pasted([one], None, "https://127.0.0.1:1", keys=True))
    assert 'embeddings -H "authorization: Bearer $JEPACK_KEY" -F file=@photo.jpg' in shown
    assert "export JEPACK_KEY=" in shown
    assert "KEY" not in "\n".join(pasted([one], None, "http://127.0.0.1:1", keys=False))

"""This machine talking to itself: past every proxy, on ports that nobody else draws."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jepack.bundle import Bundle
from jepack.cli import app
from jepack.client.over_grpc import channel
from jepack.commands import checks
from jepack.errors import ConfigError, ServerError
from jepack.machine import loopback, shared_memory

VARIABLES = ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy")

ANY: dict[str, Any] = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every variable names a proxy that refuses, and none is exempt from it."""
    with socket.socket() as closed:
        closed.bind((loopback.HOST, 0))
        address = f"http://{loopback.HOST}:{closed.getsockname()[1]}"
        for name in VARIABLES:
            monkeypatch.setenv(name, address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "intranet.example")
        monkeypatch.setenv("no_grpc_proxy", "")
        yield address


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("127.1.2.3", True),
        ("http://127.0.0.1:7860/a.tar", True),
        ("dns:///localhost:8001", True),
        ("ipv4:127.0.0.1:8001", True),
        ("gpu.example:8001", False),
        ("127.0.0.1.example:8001", False),
        ("10.0.0.7:8001", False),
        ("[not an address", False),
    ],
)
def test_this_machine_is_told_from_others(address: str, here: bool) -> None:
    assert loopback.is_loopback(address) == here
    assert (("grpc.enable_http_proxy", 0) in channel(address)) == here


def test_a_server_on_this_machine_is_asked_past_the_proxy(dead_proxy: str) -> None:
    with HTTPServer((loopback.HOST, 0), checks.Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with loopback.open_url(f"http://{loopback.HOST}:{server.server_port}", 10) as answer:
            assert answer.status == 200


def test_a_command_exempts_this_machine_and_keeps_what_was_exempt(dead_proxy: str) -> None:
    loopback.spare()
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        assert os.environ[name] == "intranet.example,127.0.0.1,localhost,::1"
    assert urllib.request.proxy_bypass("127.0.0.1")
    assert not urllib.request.proxy_bypass("huggingface.example")
    loopback.spare()  # twice adds nothing
    assert os.environ["no_proxy"].count("localhost") == 1


def test_the_doctor_says_which_proxy_is_passed_by(dead_proxy: str) -> None:
    found = checks.check_loopback()
    assert found.state == "ok"
    assert "past the proxy of ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, grpc_proxy" in found.found


def test_the_doctor_says_when_this_machine_does_not_answer_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(url: str, timeout_s: float) -> Any:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(loopback, "open_url", fail)
    found = checks.check_loopback()
    assert (found.state, "Network is unreachable" in found.found) == ("fail", True)


def test_free_ports_lie_where_the_system_draws_none_for_clients() -> None:
    low, high = loopback.drawn_range()
    for _ in range(20):
        with loopback.hold(0) as holder:
            port = holder.getsockname()[1]
            assert not low <= port <= high
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind((loopback.HOST, port))


def test_a_server_of_asyncio_on_a_held_port_answers_without_nagles_wait() -> None:
    seen: list[int] = []

    async def serve() -> None:
        def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            near = writer.get_extra_info("socket")
            seen.append(near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with loopback.hold(0) as holder:
            holder.listen()
            async with await asyncio.start_server(met, sock=holder):
                reader, writer = await asyncio.open_connection(*holder.getsockname())
                await reader.read()
                writer.close()
                await writer.wait_closed()

    asyncio.run(serve())
    assert seen == [1]


def test_a_system_that_draws_from_all_ports_gives_one_of_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(loopback, "DRAWN_FILE", tmp_path / "range")
    with loopback.hold(0) as holder:
        assert holder.getsockname()[1] > 0


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "bundle", "--port"],
        ["serve", "bundle", "--http-port"],
        ["serve", "bundle", "--metrics-port"],
        ["app", "index", "--port"],
        ["quickstart", "--port"],
        ["quickstart", "--triton-port"],
    ],
)
@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_number_that_no_port_has_is_a_usage_error(words: list[str], port: str) -> None:
    done = CliRunner().invoke(app, [*words, port])
    assert done.exit_code == 2
    assert f"Invalid value for '{words[-1]}'" in done.output
    assert isinstance(done.exception, SystemExit)


def test_each_service_needs_a_port_of_its_own_that_can_be(small_bundle: Bundle) -> None:
    from serving.server import TritonServer

    with pytest.raises(ConfigError, match="--http-port must be between 1 and 65535, found 70000"):
        TritonServer(small_bundle, http_port=70_000)
    with pytest.raises(ConfigError, match="a port of its own, found --http-port 8001, --port 8001"):
        TritonServer(small_bundle, http_port=8001, grpc_port=8001)


def test_too_little_shared_memory_is_told_before_anything_starts(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.models import RepositoryConfig
    from serving.server import TritonServer

    monkeypatch.setattr(shared_memory, "room", lambda: 1_500_000)
    server = TritonServer(exported_bundle, **ANY)
    with pytest.raises(ServerError, match="1.5 MB are free in /dev/shm.*--shm-size=1g"):
        server.start()
    assert server.pid is None
    assert checks.check_shared_memory().state == "fail"
    assert "emptyDir of medium Memory" in checks.check_shared_memory().mend
    monkeypatch.setattr(shared_memory, "room", lambda: 9_000_000)
    many = RepositoryConfig(processes=32)  # each process takes its own
    with pytest.raises(ServerError, match=r"9\.0 MB are free.*3\d\.\d MB to start"):
        TritonServer(exported_bundle, **ANY, config=many).start()
    monkeypatch.setattr(shared_memory, "room", lambda: 64_000_000)  # a Docker container's own
    assert checks.check_shared_memory().state == "warn"
    assert "256 MB" in (shared_memory.tight() or "")
    monkeypatch.setattr(shared_memory, "room", lambda: 1_000_000_000)
    assert checks.check_shared_memory().state == "ok"

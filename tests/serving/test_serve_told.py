"""What `jepack serve` tells a person: lines to paste, notes in their place, and where the earlier log is."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console
from small_bundle import write_tiny_bundle
from typer.testing import CliRunner

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.cli import app
from jepack.errors import ServerError
from jepack.machine import loopback
from serving import logs
from serving.served import Served
from serving.welcome import welcome


def test_every_line_can_be_pasted_from_a_narrow_terminal(tmp_path: Path) -> None:
    bundle = bundles.load(write_tiny_bundle(tmp_path / "bundle"))
    paper = io.StringIO()
    console = Console(file=paper, width=40, force_terminal=False)
    welcome(console, [Served(bundle)], None, "http://127.0.0.1:8080", keys=True)
    lines = [line.strip() for line in paper.getvalue().splitlines()]
    key = '-H "authorization: Bearer $JEPACK_KEY"'
    assert f"curl http://127.0.0.1:8080/v1/embeddings {key} -F file=@photo.jpg" in lines
    assert 'found = Client("http://127.0.0.1:8080").embed("photo.jpg")' in lines


def test_no_note_stands_before_an_error(exported_bundle: Bundle) -> None:
    with loopback.hold(0) as taken:
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ["serve", str(exported_bundle.folder), "--engine", "embedded", "--http", place]
        done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ServerError)
    assert "note:" not in done.output


def test_the_logs_of_earlier_servers_are_kept_the_latest_first(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    logs.set_aside(log)  # nothing yet
    for server in range(6):
        log.write_text(f"server {server}")
        logs.set_aside(log)
        assert not log.exists()
    told = [logs.earlier(log, number) for number in range(1, logs.KEPT + 1)]
    assert sorted(tmp_path.iterdir()) == told
    assert [file.read_text() for file in told] == ["server 5", "server 4", "server 3"]


def test_a_log_that_is_no_plain_file_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("of somebody else")
    (tmp_path / "log").symlink_to(tmp_path / "other")
    logs.set_aside(tmp_path / "log")
    logs.set_aside(Path(os.devnull))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "other"]
    assert Path(os.devnull).exists()


@pytest.mark.slow
@pytest.mark.triton
def test_a_restarted_server_tells_where_the_log_of_the_one_before_is(
    exported_bundle: Bundle, tmp_path: Path
) -> None:
    from serving.server import TritonServer

    log = tmp_path / "log"
    server = TritonServer(exported_bundle, http_port=0, grpc_port=0, metrics_port=0, log_file=log)
    with server:
        before = log.read_bytes()
        assert before in server.restart().read_bytes()
        assert log.read_bytes() != before
        assert server.check() is None

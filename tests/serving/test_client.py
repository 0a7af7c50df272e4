"""The client's own behaviour; the answers of a real server are in test_triton.py."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jepack import client as clients
from jepack.client import Client, batches_of
from jepack.errors import ServerError


def test_when_nothing_listens_the_error_says_how_to_start_a_server() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        client = Client(f"127.0.0.1:{closed.getsockname()[1]}", timeout_s=5)
        with pytest.raises(ServerError, match="jepack serve BUNDLE"):
            client.embed([b"image"])
        assert client.health() is False
        assert "nothing answers" in (client.diagnose() or "")


def test_batches_keep_the_order_and_are_bounded_in_number_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "REQUEST_BYTES", 10)
    file = tmp_path / "a.png"
    file.write_bytes(b"123456")
    items = [b"1", b"2", b"3", file, b"12345", tmp_path / "missing.png", b"12345678901"]
    batches = list(batches_of(items, 3))
    assert [list(batch.images) for batch in batches] == [[0, 1, 2], [3], [4], [6]]
    assert [number for batch in batches for number in batch.unread] == [5]
    assert "No such file" in batches[2].unread[5]


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MAX_BYTES", 4)
    file = tmp_path / "big.png"
    file.write_bytes(b"12345")
    [batch] = batches_of([file], 4)
    assert "the limit is" in batch.unread[0]

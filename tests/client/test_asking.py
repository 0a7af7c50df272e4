"""What comes of a call when the server is slow, busy, gone or another one; by threads and by asyncio."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stub_gateway
from PIL import Image
from stub_gateway import FINGERPRINTS, REFUSED, Stub, held, reset, row_of, slow, status

from jepack.client import AsyncClient, BusyError, Client, UnreachableError
from jepack.client.items import bytes_of
from jepack.errors import ArtifactError, ConfigError, DataError, ServerError
from jepack.machine import HOST

IMAGES = [f"image {number}".encode() for number in range(11)]
Embed = Callable[..., Any]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_gateway.running() as one:
        yield one


def by_threads(
    url: str, items: Any, *, client: dict[str, Any] | None = None, **options: Any
) -> Any:
    with Client(url, **(client or {})) as one:
        return one.embed(items, **options)


def by_asyncio(
    url: str, items: Any, *, client: dict[str, Any] | None = None, **options: Any
) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, **(client or {})) as one:
            return await one.embed(items, **options)

    return asyncio.run(ask())


@pytest.fixture(params=[by_threads, by_asyncio], ids=["threads", "asyncio"])
def embed(request: pytest.FixtureRequest) -> Embed:
    return request.param  # type: ignore[no-any-return]


def rows(images: list[bytes]) -> Any:
    return np.array([row_of(image) for image in images], np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    names = [folder / "a.png", folder / "b.png"]
    for number, name in enumerate(names):
        Image.new("L", (8 + number, 9), 40 * number).save(name)
    return names


@pytest.mark.parametrize("concurrency", [1, 3, 20])
def test_rows_come_in_the_order_of_the_items(embed: Embed, stub: Stub, concurrency: int) -> None:
    seen: list[tuple[int, int]] = []
    found = embed(
        stub.url,
        IMAGES,
        batch_size=2,
        concurrency=concurrency,
        on_progress=lambda *n: seen.append(n),
    )
    assert np.array_equal(found.embedding, rows(IMAGES))
    assert np.array_equal(found.projection, rows(IMAGES)[:, :1])
    assert found.embedding.dtype == found.projection.dtype == np.float32
    assert found.fingerprints == FINGERPRINTS
    assert found.names == tuple(f"item {number}" for number in range(11))
    assert (len(stub.began), seen == sorted(seen), seen[-1]) == (6, True, (11, 11))


def test_every_kind_of_image_is_sent_as_it_is(embed: Embed, stub: Stub, files: list[Path]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    deep = np.arange(30, dtype=np.uint16).reshape(6, 5) * 999
    colours = np.stack([grey, grey + 1, grey], axis=2)
    with Image.open(files[0]) as picture, files[1].open("rb") as handle:
        items = [
            str(files[0]),
            files[1],
            IMAGES[0],
            bytearray(b"abc"),
            memoryview(b"abcd"),
            picture,
        ]
        items += [grey, deep, colours, grey[..., None], np.dstack([colours, grey]), handle]
        wanted = [
            bytes_of(one) for one in [files[0], files[1], IMAGES[0], b"abc", b"abcd", picture]
        ]
        wanted += [bytes_of(one) for one in [grey, deep, colours, grey, items[10]]]
        wanted.append(files[1].read_bytes())
        for given in (items[:11], tuple(items[:11]), iter(items[:11])):
            assert np.array_equal(embed(stub.url, given).embedding, rows(wanted[:11]))
        for number, one in enumerate(items):
            assert np.array_equal(embed(stub.url, one).embedding, rows(wanted[number : number + 1]))
    batch = np.stack([colours, colours + 9])
    wanted = [bytes_of(one) for one in batch]
    assert np.array_equal(embed(stub.url, batch).embedding, rows(wanted))


def test_a_folder_gives_a_row_for_each_of_its_images(
    embed: Embed, stub: Stub, files: list[Path]
) -> None:
    wanted = rows([file.read_bytes() for file in files])
    for folder in (files[0].parent, str(files[0].parent)):
        found = embed(stub.url, folder)
        assert np.array_equal(found.embedding, wanted)
        assert found.names == tuple(map(str, files))
    found = embed(stub.url, [files[0], files[0].parent], skip_bad=True)
    assert "a folder alone" in found.errors[1]


def test_a_folder_without_images_says_so(embed: Embed, stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        embed(stub.url, tmp_path)


def test_nothing_gives_no_rows_of_the_right_width(embed: Embed, stub: Stub) -> None:
    for nothing in ([], iter(()), np.zeros((0, 4, 4, 3), np.uint8)):
        found = embed(stub.url, nothing)
        assert (found.embedding.shape, found.projection.shape) == ((0, 2), (0, 1))
    assert stub.began == []


def test_anything_else_is_a_type_error_before_anything_is_sent(embed: Embed, stub: Stub) -> None:
    for wrong in (None, 7, {"a": b""}, [b"a", 3.5], np.zeros((4, 4), np.float32)):
        with pytest.raises(TypeError, match=r"item [01] is .*; an image is a path"):
            embed(stub.url, wrong)
    assert stub.began == []


def test_an_address_is_not_fetched_and_the_mend_is_told(embed: Embed, stub: Stub) -> None:
    for address in ("https://example.org/a.jpg", "s3://bucket/a.jpg"):
        for given in (address, [b"a", address]):
            with pytest.raises(
                TypeError, match=r"none is fetched.*embed\(httpx.get\(ADDRESS\).content"
            ):
                embed(stub.url, given)
    with pytest.raises(TypeError, match=r"a data URL; give the file's bytes: base64.b64decode"):
        embed(stub.url, "data:image/png;base64," + 9000 * "A")
    assert stub.began == []


def test_the_output_that_was_not_asked_for_has_no_columns(embed: Embed, stub: Stub) -> None:
    found = embed(stub.url, IMAGES, output="projection")
    assert np.array_equal(found.projection, rows(IMAGES)[:, :1])
    assert (found.embedding.shape, found.good.all()) == ((11, 0), True)
    with pytest.raises(ConfigError, match="the embedding, which was not asked for"):
        found.for_search  # noqa: B018
    with pytest.raises(ConfigError, match="embedding, projection or both, found 'all'"):
        embed(stub.url, IMAGES, output="all")


def test_a_bad_image_is_named_or_skipped(embed: Embed, stub: Stub) -> None:
    items = [*IMAGES[:5], REFUSED, Path("nowhere.png"), *IMAGES[5:]]
    with pytest.raises(DataError, match="item 5: no picture"):
        embed(stub.url, items, concurrency=1)
    found = embed(stub.url, items, skip_bad=True)
    assert (list(found.errors), found.errors[5]) == ([5, 6], "no picture")
    assert "No such file" in found.errors[6]
    assert np.isnan(found.embedding[~found.good]).all()
    assert np.array_equal(found.embedding[found.good], rows(IMAGES))


def test_a_busy_server_is_asked_again_when_it_said(embed: Embed, stub: Stub) -> None:
    stub.script = [status(429, "overloaded", retry_after="0.4")]
    assert np.array_equal(embed(stub.url, IMAGES[:3]).embedding, rows(IMAGES[:3]))
    first, second = stub.began
    assert second - first >= 0.4


def test_who_is_to_come_again_too_late_is_told_at_once(embed: Embed, stub: Stub) -> None:
    stub.script = [status(429, "overloaded", retry_after="600")]
    with pytest.raises(BusyError, match=r"come again in 600 s, and .* s are left"):
        embed(stub.url, IMAGES[:3], client={"timeout_s": 60})
    assert len(stub.began) == 1


def test_a_server_that_stays_busy_is_given_up(embed: Embed, stub: Stub) -> None:
    stub.script = [status(429, "overloaded")] * 10_000
    with pytest.raises(BusyError, match=r"overloaded .* asked again for 4 s"):
        embed(stub.url, IMAGES[:3], client={"timeout_s": 4})
    assert 2 <= len(stub.began) < 40  # pauses double
    assert stub.began[-1] - stub.began[0] < 4


@pytest.mark.parametrize(
    "fault", [reset, status(503, "not_ready"), status(502, "x", retry_after="0"), status(429, "x")]
)
def test_a_fault_that_passes_is_not_seen(embed: Embed, stub: Stub, fault: Any) -> None:
    stub.script = [fault, fault]
    assert np.array_equal(embed(stub.url, IMAGES[:3]).embedding, rows(IMAGES[:3]))
    assert len(stub.began) == 3


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (status(401, "invalid_api_key"), "JEPACK_KEY"),
        (status(404, "no_such_path"), "no gateway of a jepack bundle"),
        (status(302, "elsewhere", location="http://127.0.0.1:9/"), "failed"),
        (status(504, "deadline"), "no answer in time"),
    ],
)
def test_what_asking_again_cannot_mend_is_asked_once(
    embed: Embed, stub: Stub, fault: Any, told: str
) -> None:
    stub.script = [fault] * 9
    with pytest.raises(ServerError, match=told):
        embed(stub.url, IMAGES[:1])
    assert len(stub.began) <= 2  # the second to tell a bad image from a bad server


def test_an_image_that_the_server_fails_on_is_left_out(embed: Embed, stub: Stub) -> None:
    stub.script = [status(500, "internal"), status(500, "internal")]
    found = embed(stub.url, IMAGES[:3], skip_bad=True)
    assert (list(found.errors), found.good.tolist()) == ([0], [False, True, True])


def test_a_gateway_that_is_asked_as_grpc_is_told_apart(embed: Embed, stub: Stub) -> None:
    address = stub.url.removeprefix("http://")
    with pytest.raises(ServerError, match=f"does not speak gRPC.* is written {stub.url}"):
        embed(address, IMAGES[:1])


@pytest.mark.parametrize("scheme", ["", "grpc://", "http://"])
def test_who_forgot_to_start_a_server_is_told(embed: Embed, scheme: str) -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        url = f"{scheme}{HOST}:{closed.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="nothing answers there.*jepack serve BUNDLE"):
            embed(url, IMAGES)


def test_no_request_is_begun_that_cannot_end_in_time(embed: Embed, stub: Stub) -> None:
    """Each takes a second, so of 2.4 s no more than two are begun."""
    stub.script = [slow(1.0)] * 9
    with pytest.raises(BusyError, match=r"\d of 9 images were embedded within 2.4 s"):
        embed(stub.url, IMAGES[:9], batch_size=1, concurrency=1, deadline_s=2.4)
    assert len(stub.began) <= 2


def test_the_deadline_holds_while_a_request_is_on_its_way(embed: Embed, stub: Stub) -> None:
    stub.script = [held] * 3
    with pytest.raises(BusyError, match="0 of 2 images were embedded within 3 s"):
        embed(stub.url, IMAGES[:2], deadline_s=3)
    assert len(stub.began) <= 1


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_deadline_that_is_no_time_is_told(embed: Embed, stub: Stub, seconds: float) -> None:
    with pytest.raises(ConfigError, match="deadline_s is a number of seconds above 0"):
        embed(stub.url, IMAGES, deadline_s=seconds)


def test_another_space_than_expected_is_refused(embed: Embed, stub: Stub) -> None:
    for right in FINGERPRINTS.values():
        assert embed(stub.url, IMAGES, client={"fingerprint": right}).good.all()
    began = len(stub.began)
    with pytest.raises(ArtifactError, match=r"expected was 00000000000000aa"):
        embed(stub.url, IMAGES, client={"fingerprint": "00000000000000aa"})
    assert len(stub.began) == began


def test_a_server_that_becomes_another_is_refused(embed: Embed, stub: Stub) -> None:
    def swap(handler: Any) -> bool:
        stub.fingerprints = {**FINGERPRINTS, "embedding": "00000000000000aa"}
        return False

    stub.script = [slow(0), swap]
    with pytest.raises(ArtifactError, match="another encoder than before: embedding 0+aa, it was"):
        embed(stub.url, IMAGES, batch_size=4, concurrency=1)


def test_the_key_is_sent_and_never_told(
    embed: Embed, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(stub.url, IMAGES[:1], client={"key": "given-key"})
    monkeypatch.setenv("JEPACK_KEY", "key-of-the-environment")
    embed(stub.url, IMAGES[:1])
    assert stub.keys == ["Bearer given-key", "Bearer key-of-the-environment"]
    stub.script = [status(401, "invalid_api_key")]
    with pytest.raises(ServerError) as refused:
        embed(stub.url, IMAGES[:1])
    assert "key-of-the-environment" not in str(refused.value)
    for wrong in ({"key": "two words"}, {"ca_file": "ca.pem"}):
        with pytest.raises(ConfigError, match=r"visible ASCII|is for https") as refused:
            embed(stub.url, IMAGES[:1], client=wrong)
        assert "two words" not in str(refused.value)
    with pytest.raises(ConfigError, match="gRPC asks for no key"):
        embed("127.0.0.1:9", IMAGES[:1], client={"key": "given-key"})


def test_a_file_that_holds_no_certificates_is_told(embed: Embed, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for file in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=r"\.pem: no certificates in PEM"):
            embed("https://127.0.0.1:9", IMAGES[:1], client={"ca_file": file})


def test_this_machine_is_asked_past_every_proxy(
    embed: Embed, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")  # httpx alone would refuse to be made
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert embed(stub.url, IMAGES).good.all()


def test_what_speaks_another_protocol_is_told(embed: Embed) -> None:
    with socket.create_server((HOST, 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00")  # a frame of HTTP/2

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ServerError, match="does not speak HTTP"):
            embed(f"http://{HOST}:{server.getsockname()[1]}", IMAGES)
        thread.join()


def test_threads_share_a_client(stub: Stub) -> None:
    with Client(stub.url) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(client.embed, IMAGES * 5))
    assert np.array_equal(np.concatenate([one.embedding for one in found]), rows(IMAGES * 5))


def test_a_closed_client_says_so(stub: Stub) -> None:
    for url in (stub.url, "127.0.0.1:9"):
        client = Client(url)
        client.close()
        client.close()
        with pytest.raises(ServerError, match="this client is closed"):
            client.embed(IMAGES)


def test_many_calls_of_one_event_loop(stub: Stub) -> None:
    images = IMAGES * 20

    async def ask() -> Any:
        async with AsyncClient(stub.url) as client:
            return await asyncio.gather(*[client.embed(image) for image in images])

    found = asyncio.run(ask())
    assert np.array_equal(np.concatenate([one.embedding for one in found]), rows(images))


def test_a_client_goes_from_one_event_loop_to_the_next(stub: Stub) -> None:
    client = AsyncClient(stub.url)

    async def ask(last: bool) -> Any:
        found = await client.embed(IMAGES)
        if last:
            await client.close()
        return found

    for last in (False, True):
        assert np.array_equal(asyncio.run(ask(last)).embedding, rows(IMAGES))


def test_a_cancelled_call_begins_no_other_request_and_the_client_lives(stub: Stub) -> None:
    stub.script = [held] * 2

    async def ask() -> Any:
        async with AsyncClient(stub.url) as client:
            call = asyncio.create_task(client.embed(IMAGES, batch_size=1, concurrency=2))
            while len(stub.began) < 2:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(stub.began) == 2
            assert len(asyncio.all_tasks()) == 1
            return await client.embed(IMAGES[:3])

    assert np.array_equal(asyncio.run(ask()).embedding, rows(IMAGES[:3]))
    assert len(stub.began) == 3


WAITING = """
import sys
from jepack.client import Client

with Client(sys.argv[1], timeout_s=300) as client:
    client.embed([b"a", b"b", b"c"], batch_size=1)
"""


def test_ctrl_c_ends_a_call_that_waits(stub: Stub) -> None:
    stub.script = [held] * 2
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, stub.url], stderr=subprocess.PIPE, text=True
    ) as process:
        while len(stub.began) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=250)  # not the 300 s of its request
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert (process.returncode, len(stub.began)) == (-signal.SIGINT, 2)


FORKED = """
import asyncio, os, sys
from jepack.client import AsyncClient, Client

async def ask(client):
    return (await client.embed([b"ab"])).embedding.tolist()

http, grpc = Client(sys.argv[1]), AsyncClient(sys.argv[2])
print(http.embed([b"ab"]).embedding.tolist(), flush=True)
try:
    asyncio.run(ask(grpc))
except Exception as error:
    print(error, flush=True)
if os.fork() == 0:
    print(http.embed([b"ab"]).embedding.tolist(), flush=True)
    for url in sys.argv[1:]:
        try:
            print(asyncio.run(ask(AsyncClient(url))), flush=True)
        except Exception as error:
            print(error, flush=True)
    sys.exit()
os.wait()
print(http.embed([b"ab"]).embedding.tolist(), flush=True)
"""


def test_a_forked_child_asks_over_http_and_is_told_at_once_over_grpc(stub: Stub) -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        url = f"{HOST}:{closed.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORKED, stub.url, url],
            capture_output=True, text=True, timeout=300, env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = str([list(map(float, row_of(b"ab")))])
    lines = done.stdout.splitlines()
    assert [lines[0], *lines[2:4], lines[5]] == [row] * 4
    assert "nothing answers there" in lines[1]
    assert "was forked from one that uses the client" in lines[4]
    assert "Traceback" not in done.stderr

"""The real tritonserver, asked through the client as a user would."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import tritonclient.grpc as triton
from pictures import data_url
from PIL import Image
from slow_engine import wait_until

from jepack import bundle as bundles
from jepack.bundle import OUTPUTS, Bundle, cosine, golden_file
from jepack.client import BusyError, Client
from jepack.decoding import preprocess
from jepack.errors import ArtifactError, DataError, ServerError
from jepack.sources import find_images
from serving.command import choose_ports
from serving.gateway import Gateway, TritonEngine
from serving.repository import RepositoryConfig
from serving.server import TritonServer

pytestmark = pytest.mark.triton
FREE: dict[str, Any] = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}


@pytest.fixture
def client(triton_server: TritonServer) -> Iterator[Client]:
    with Client(triton_server.url) as one:
        yield one


@pytest.fixture(scope="module")
def files(digits_folder: Path) -> list[Path]:
    return [image.path for image in find_images(digits_folder)]


def png(size: int = 40, value: int = 7) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (value, 200, 30)).save(stream, "PNG")
    return stream.getvalue()


def family(server: TritonServer) -> list[psutil.Process]:
    leader = psutil.Process(server.pid)
    return [leader, *leader.children(recursive=True)]


def leftovers(pid: int) -> set[Path]:
    """Shared memory and scratch folders of the servers that a process started."""
    folders = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    return {path for folder in folders for path in folder.glob(f"jepack-{pid}-*")}


def test_triton_returns_the_golden_embeddings(client: Client, exported_bundle: Bundle) -> None:
    golden = exported_bundle.golden()
    images = [golden_file(image, exported_bundle.preprocessing) for image in golden["images"]]
    found = client.embed(images)
    for output in OUTPUTS:
        got, want = getattr(found, output), golden[output]
        assert got.dtype == np.float32
        assert np.abs(got - want).max() <= 1e-4
        assert cosine(got, want).min() >= 0.99999


def test_files_through_triton_equal_onnx_runtime_here(
    client: Client, exported_bundle: Bundle, files: list[Path]
) -> None:
    pixels = np.stack([preprocess.load(path, exported_bundle.preprocessing) for path in files])
    session = onnxruntime.InferenceSession(str(exported_bundle.onnx()))
    embedding, projection = session.run(None, {"pixel_values": pixels})
    seen: list[tuple[int, int]] = []
    found = client.embed(
        files, batch_size=7, concurrency=3, on_progress=lambda *told: seen.append(told)
    )
    np.testing.assert_allclose(found.embedding, embedding, atol=1e-4)
    np.testing.assert_allclose(found.projection, projection, atol=1e-4)
    assert seen == sorted(seen)
    assert seen[-1] == (len(files), len(files))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16, 1000])
def test_the_batch_size_does_not_change_the_answer(
    client: Client, files: list[Path], batch_size: int
) -> None:
    one = client.embed(files[:20], batch_size=batch_size)
    np.testing.assert_allclose(one.embedding, client.embed(files[:20]).embedding, atol=1e-5)


def test_no_items_give_no_rows_of_the_right_width(client: Client, exported_bundle: Bundle) -> None:
    found = client.embed([])
    assert found.embedding.shape == (0, exported_bundle.dimensions["embedding"])
    assert found.projection.shape == (0, exported_bundle.dimensions["projection"])


def test_the_endpoint_tells_which_space_it_serves(client: Client, exported_bundle: Bundle) -> None:
    assert client.fingerprints() == exported_bundle.fingerprints
    assert client.embed([png()]).fingerprints == exported_bundle.fingerprints
    endpoint = client.endpoint()
    assert endpoint.bundle == exported_bundle.name
    assert endpoint.dimensions == exported_bundle.dimensions
    assert endpoint.default_output == exported_bundle.default_output
    assert endpoint.promises == ()  # 48 held-out images are too few for any


def test_strings_pictures_and_arrays_give_what_their_files_give(
    client: Client, files: list[Path]
) -> None:
    wanted = client.embed(files[:2]).embedding
    with Image.open(files[0]) as one, Image.open(files[1]) as other:
        given = [
            [str(file) for file in files[:2]],
            [one, other],
            [np.asarray(one), np.asarray(other)],
        ]
        for items in given:
            np.testing.assert_allclose(client.embed(items).embedding, wanted, atol=1e-5)
        for alone in (str(files[0]), files[0], files[0].read_bytes(), one, np.asarray(one)):
            np.testing.assert_allclose(client.embed(alone).embedding, wanted[:1], atol=1e-5)


def test_a_client_that_nobody_closes_ends_quietly(triton_server: TritonServer) -> None:
    code = (
        "import sys; from jepack.client import Client; from jepack.client.items import grey_png\n"
        "client = Client(sys.argv[1]); print(client.embed([grey_png()] * 20).embedding.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, triton_server.url], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("(20, ")


def test_a_proxy_of_the_environment_is_passed_by(
    triton_server: TritonServer, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        with Client(triton_server.url, timeout_s=300) as client:
            assert client.embed(files[:2]).good.all()


def test_a_bad_image_raises_with_its_name_and_reason(client: Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(png()[:60])
    with pytest.raises(DataError, match=r"broken\.png: .*(truncated|broken)"):
        client.embed([png(), broken])
    with pytest.raises(DataError, match="item 1: not an image of a known format"):
        client.embed([png(), b"hello"])


def test_bad_images_are_skipped_and_the_good_rows_stay_in_place(
    client: Client, files: list[Path]
) -> None:
    items = [files[0], b"hello", files[1], b"", Path("nowhere.png"), files[2]]
    found = client.embed(items, skip_bad=True)
    assert {number: reason[:9] for number, reason in found.errors.items()} == {
        1: "not an im",
        3: "empty fil",
        4: "cannot be",
    }
    assert found.good.tolist() == [True, False, True, False, False, True]
    assert np.isnan(found.embedding[~found.good]).all()
    np.testing.assert_allclose(
        found.embedding[found.good], client.embed(files[:3]).embedding, atol=1e-5
    )


def test_a_bad_image_fails_alone_while_others_are_answered(triton_server: TritonServer) -> None:
    def ask(data: bytes) -> str:
        tensor = triton.InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[data]], dtype=np.object_))
        try:
            answer = raw.infer("embed", [tensor])
        except triton.InferenceServerException as error:
            return f"{error.status()} {error.message()}"
        return "ok" if np.isfinite(answer.as_numpy("embedding")).all() else "not finite"

    with triton.InferenceServerClient(triton_server.url) as raw, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [b"hello" if n % 4 == 0 else png(value=n) for n in range(40)]))
    assert all(answers[n] == "ok" for n in range(40) if n % 4)
    for bad in answers[::4]:
        assert bad.startswith("StatusCode.INVALID_ARGUMENT")
        assert "image: not an image of a known format" in bad


def test_a_decoder_keeps_to_one_thread(triton_server: TritonServer, client: Client) -> None:
    """AVIF's library would take one a core: two more of them on two cores."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "AVIF", speed=10, quality=30)
    client.embed([png()])
    stubs = [one for one in family(triton_server) if "stub" in one.name()]
    before = [one.num_threads() for one in stubs]
    most, over = list(before), threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            most[:] = [max(n, one.num_threads()) for n, one in zip(most, stubs, strict=True)]

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            assert client.embed([stream.getvalue()] * 4).good.all()
        finally:
            over.set()
        looking.result()
    assert most == before


def test_the_server_keeps_to_loopback(triton_server: TritonServer) -> None:
    for process in family(triton_server):
        for connection in process.net_connections():
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::ffff:127.0.0.1")


def test_doors_that_nobody_needs_are_shut(triton_server: TritonServer) -> None:
    http = f"http://127.0.0.1:{triton_server.ports['http']}/v2"
    assert urllib.request.urlopen(f"{http}/health/ready").status == 200
    nested = b"[" * 4_000_000  # this kills the server where HTTP inference is open
    for path, body in (("models/embed/infer", nested), ("repository/index", b"{}")):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{http}/{path}", data=body)
        assert refusal.value.code == 403
        refusal.value.close()
    with triton.InferenceServerClient(triton_server.url) as raw:
        for call in (
            lambda: raw.load_model("embed"),
            raw.get_model_repository_index,
            raw.get_system_shared_memory_status,
            raw.get_trace_settings,
            raw.get_log_settings,
        ):
            with pytest.raises(triton.InferenceServerException, match="restricted"):
                call()
    assert triton_server.check() is None


def raw_http(port: int, path: str, *headers: bytes) -> bytes:
    """The answer to a GET with these header lines as they are; empty where the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as door:
        lines = [
            f"GET {path} HTTP/1.1".encode(),
            b"Host: x",
            b"Connection: close",
            *headers,
            b"",
            b"",
        ]
        door.sendall(b"\r\n".join(lines))
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := door.recv(65536):
                answer += part
    return answer


def raw_grpc(port: int, method: str, *headers: tuple[bytes, bytes]) -> bytes:
    """The frames that answer an empty request with these headers as they are, up to its status."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        length = len(payload).to_bytes(3, "big")
        return length + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    usual = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b"te", b"trailers"),
        (b":path", f"/inference.GRPCInferenceService/{method}".encode()),
        (b"content-type", b"application/grpc"),
    ]  # fmt: skip
    usual.sort(key=lambda pair: not pair[0].startswith(b":"))
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in [*usual, *headers]
    )
    with socket.create_connection(("127.0.0.1", port), timeout=300) as door:
        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
        door.sendall(hello + frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5)))
        answer = b""
        with contextlib.suppress(ConnectionError):
            while b"grpc-status" not in answer and (part := door.recv(65536)):
                answer += part
    return answer


def test_the_lock_of_the_shut_doors_has_no_key(triton_server: TritonServer) -> None:
    """Triton takes the key from its command line, which every user of the machine can read."""
    [words] = [one.cmdline() for one in family(triton_server) if "tritonserver" in one.name()]
    [shown] = {word.rpartition(":")[2] for word in words if "-restricted-" in word}
    name, value = (part.encode() for part in shown.split("=", 1))
    http, grpc = triton_server.ports["http"], triton_server.ports["grpc"]
    spellings = [
        value, value.replace(b"\n", b"\r\n "), value.replace(b"\n", b"\r\n\t"),
        value.replace(b"\n", b"\n "), value.replace(b"\n", b" "), value.replace(b"\n", b"\r"),
        value.replace(b"\n", b"\\n"), b'"' + value + b'"',
    ]  # fmt: skip
    assert b" 200 " in raw_http(http, "/v2/health/ready", b"X-Other: 1")
    assert b"grpc-status" in raw_grpc(grpc, "ServerLive", (b"x-other", b"1"))
    assert b"restricted" not in raw_grpc(grpc, "ServerLive", (b"x-other", b"1"))
    for spelling in spellings:
        for line in (name + b": " + spelling, name.lower() + b":" + spelling):
            answer = raw_http(http, "/v2/logging", line)
            assert not answer or b" 403 " in answer, line
        for spelt in (name, name.lower()):
            header = b"triton-grpc-protocol-" + spelt
            answer = raw_grpc(grpc, "LogSettings", (header, spelling))
            # Refused, or no request at all: "Missing :method header".
            assert not answer or b"restricted" in answer or b"Missing :method" in answer, header
            assert b"log_verbose_level" not in answer
    assert triton_server.check() is None


def test_a_full_queue_is_waited_for_or_told(exported_bundle: Bundle, tmp_path: Path) -> None:
    """Patient clients keep it full until an impatient one has been told."""
    small = RepositoryConfig(max_queue_size=1, max_batch_size=1, threads=1)
    log = tmp_path / "log"
    with TritonServer(exported_bundle, **FREE, config=small, log_file=log) as server:
        slow, told = png(1500), ""
        with (
            Client(server.url, timeout_s=300) as patient,
            Client(server.url, timeout_s=0.2) as hasty,
            ThreadPoolExecutor(1) as thread,
        ):

            def keep_full() -> bool:
                good = True
                while good and "queue is full" not in told:
                    good = bool(patient.embed([slow] * 12, concurrency=12).good.all())
                return good

            waiting = thread.submit(keep_full)
            while "queue is full" not in told and not waiting.done():
                try:
                    hasty.infer([slow])
                except BusyError as error:
                    told = str(error)
            assert waiting.result()
        assert "queue is full" in told
        assert server.check(busy_is_fine=True) is None


def test_a_dead_model_process_is_noticed_and_mended_and_stopping_leaves_nothing(
    exported_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server, the client and a gateway in front. The restart waits for its ports, which any other
    program may take for a moment."""
    before = leftovers(os.getpid())
    server = TritonServer(exported_bundle, **FREE, log_file=tmp_path / "log")
    with server, Client(server.start().url) as client:
        engine = TritonEngine(server.url, exported_bundle)
        with (
            Gateway(engine, port=0) as gateway,
            httpx.Client(base_url=gateway.url, trust_env=False, timeout=300) as http,
        ):
            assert client.diagnose(timeout_s=300) is None
            assert client.health() is True
            assert http.get("/health/ready").status_code == 200
            assert leftovers(os.getpid()) > before
            ports, processes = dict(server.ports), family(server)
            assert len(processes) >= 4  # guard, server, two models
            stubs = [one for one in processes if "stub" in one.name()]
            stubs.pop().kill()
            wait_until(lambda: not server.lives_for(0.1) or server.check() is not None)
            assert "a process of its models has ended" in (
                server.check() or ""
            )  # the other answers
            for stub in stubs:
                stub.kill()  # Triton itself stays "ready" without its models
            assert client.health() is False
            assert "failed" in (client.diagnose(timeout_s=300) or "")
            assert server.running()  # which is why running is not health
            assert server.check() is not None
            until_ready_is(http, 503)
            assert http.get("/health/live").status_code == 200
            meet_taken_ports(monkeypatch, ports["grpc"])
            server.restart()
            assert server.ports == ports
            assert client.diagnose(timeout_s=300) is None
            until_ready_is(http, 200)
            processes += family(server)
            server.stop()
            answer = http.post("/v1/embeddings", json={"input": data_url(png())})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
            until_ready_is(http, 503)
        engine.close()
    assert not psutil.wait_procs(processes, timeout=300)[1]
    assert leftovers(os.getpid()) == before
    server.stop()  # twice does no harm


def until_ready_is(http: httpx.Client, status: int) -> None:
    """An answer about readiness serves everybody for a second."""
    wait_until(lambda: http.get("/health/ready").status_code == status)


def meet_taken_ports(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Another program holds `port` when a restart looks first, and takes it after it looked again."""
    others: list[socket.socket] = []

    def take() -> None:
        other = socket.socket()
        others.append(other)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: bound(other, port))  # the server that was stopped may still let go of it
        other.listen()

    def look(asked: dict[str, int]) -> dict[str, int]:
        if not others:
            take()
            return choose_ports(asked)
        others[-1].close()
        chosen = choose_ports(asked)
        if len(others) == 1:
            take()
        return chosen

    monkeypatch.setattr("serving.server.choose_ports", look)


def bound(other: socket.socket, port: int) -> bool:
    try:
        other.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_nothing_outlives_a_killed_parent(exported_bundle: Bundle, tmp_path: Path) -> None:
    parent = serve(exported_bundle, tmp_path)
    processes = psutil.Process(parent.pid).children(recursive=True)
    assert leftovers(parent.pid)
    assert len(processes) >= 4
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs(processes, timeout=300)
    assert not alive
    assert not leftovers(parent.pid)


def test_serve_stops_cleanly_on_ctrl_c(exported_bundle: Bundle, tmp_path: Path) -> None:
    """And on SIGTERM: test_serve_command.py."""
    parent = serve(exported_bundle, tmp_path)
    processes = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=300)
    assert parent.returncode == 0, errors
    assert not psutil.wait_procs(processes, timeout=300)[1]


def serve(bundle: Bundle, folder: Path) -> subprocess.Popen[str]:
    """`jepack serve` on free ports, ready."""
    command = [sys.executable, "-m", "jepack", "serve", str(bundle.folder), "--json", "--port", "0"]
    more = ["--http-port", "0", "--metrics-port", "0", "--log-file", str(folder / "log")]
    parent = subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    line = parent.stdout.readline()
    assert bundle.fingerprints["embedding"] in line, parent.communicate()
    return parent


@pytest.mark.parametrize(
    ("service", "option"),
    [("grpc", "--port"), ("http", "--http-port"), ("metrics", "--metrics-port")],
)
def test_a_taken_port_is_named_with_its_option(
    exported_bundle: Bundle, service: str, option: str
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = TritonServer(exported_bundle, **{**FREE, f"{service}_port": port})
        with pytest.raises(ServerError, match=rf"port {port} .*{option} 0"):
            server.start()
        assert server.pid is None


def test_a_server_with_wrong_weights_is_not_ready(exported_bundle: Bundle, tmp_path: Path) -> None:
    """Golden embeddings of another encoder: same shapes, other numbers."""
    from safetensors.numpy import save_file

    folder = tmp_path / "bundle"
    shutil.copytree(exported_bundle.folder, folder)
    other = bundles.load(folder)
    golden = other.golden()
    with bundles.editing(other) as stage:
        (stage / "golden.safetensors").unlink()
        save_file(
            {**golden, "embedding": golden["embedding"][::-1].copy()}, stage / "golden.safetensors"
        )
    server = TritonServer(bundles.load(folder), **FREE, log_file=tmp_path / "log")
    with pytest.raises(ServerError, match="golden images come back wrong: embedding"):
        server.start()
    assert server.pid is None


def test_a_server_that_cannot_start_shows_why(exported_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported_bundle.folder, folder)
    with bundles.editing(bundles.load(folder)) as stage:
        graph = onnx.load(stage / "onnx" / "model.onnx")
        graph.graph.node[0].op_type = "NoSuchOperator"
        (stage / "onnx" / "model.onnx").unlink()
        onnx.save(graph, stage / "onnx" / "model.onnx")
    server = TritonServer(bundles.load(folder), **FREE, log_file=tmp_path / "log")
    with pytest.raises(ServerError) as refusal:
        server.start()
    assert "NoSuchOperator" in str(refusal.value)
    assert str(tmp_path / "log") in str(refusal.value)


def test_a_bundle_without_an_export_is_told_before_anything_starts(small_bundle: Bundle) -> None:
    with pytest.raises(ArtifactError, match="jepack export"):
        TritonServer(small_bundle, **FREE).start()

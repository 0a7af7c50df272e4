"""Two versions of a name behind the gateway: who gets which, and moving callers without losing a request."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from pictures import data_url, png
from prometheus_client.parser import text_string_to_metric_families
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.cli import app
from jepack.client import Client
from jepack.errors import ServerError
from serving.gateway import EmbeddedEngine, Gateway, Shares
from serving.gateway.command import engines_of
from serving.served import Served, together
from serving.server import TritonServer

PHOTOS, CELLS = "photos", "cells"
USERS = [f"user-{number}" for number in range(20)]


@pytest.fixture(scope="module")
def newer(exported_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The exported bundle with another encoder: other weights, both outputs times -2."""
    folder = tmp_path_factory.mktemp("newer") / "bundle"
    shutil.copytree(exported_bundle.folder, folder)
    with bundles.editing(bundles.load(folder)) as stage:
        change(stage / "model.safetensors", lambda name, value: value * 0.5)
        change(
            stage / "golden.safetensors",
            lambda name, value: value if name == "images" else -2 * value,
        )
        graph = onnx.load(stage / "onnx" / "model.onnx")
        graph.graph.initializer.append(numpy_helper.from_array(np.float32(-2), "factor"))
        for output in ("pooler_output", "projection"):
            for node in graph.graph.node:
                for names in (node.input, node.output):
                    names[:] = [f"{one}_old" if one == output else one for one in names]
            made = helper.make_node("Mul", [f"{output}_old", "factor"], [output])
            graph.graph.node.append(made)
        (stage / "onnx" / "model.onnx").unlink()  # a link to the first bundle's
        onnx.save(graph, stage / "onnx" / "model.onnx")
    return bundles.load(folder)


def change(file: Path, made: Any) -> None:
    with safe_open(file, "np") as opened:
        notes, names = opened.metadata(), list(opened.keys())
        values = {name: opened.get_tensor(name) for name in names}
    file.unlink()
    changed = {name: np.asarray(made(name, one), one.dtype) for name, one in values.items()}
    save_file(changed, file, notes)


@pytest.fixture(scope="module")
def served(exported_bundle: Bundle, newer: Bundle) -> list[Served]:
    return together([(PHOTOS, exported_bundle), (CELLS, exported_bundle), (PHOTOS, newer)])


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("share") / "canary"
    file.write_text("0")
    return file


@pytest.fixture(scope="module")
def http(served: list[Served], share: Path) -> Iterator[httpx.Client]:
    """Whose file of shares is looked at for every request."""
    engines = [
        EmbeddedEngine(one.bundle, name=one.name, version=one.version, threads=1) for one in served
    ]
    with (
        pytest.MonkeyPatch.context() as patch,
        Gateway(engines, port=0, shares=Shares.told(str(share))) as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=300) as client,
    ):
        patch.setattr("serving.gateway.shares.OFTEN_S", 0)
        yield client


def ask(http: httpx.Client, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"input": data_url(png()), "model": PHOTOS, **fields}
    return http.post("/v1/embeddings", json=body, headers=headers)


def move(http: httpx.Client, share: Path, text: str) -> None:
    """As an operator would, and wait until the gateway says so."""
    share.write_text(text)
    want = float(text.rpartition("=")[2])
    while figure(http, "jepack_share", PHOTOS, 2) != want:
        time.sleep(0.05)


def figure(http: httpx.Client, name: str, model: str, version: int) -> float:
    page = http.get("/metrics").text
    labels = {"model": model, "version": str(version)}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    raise AssertionError((name, labels, page))


def test_every_name_and_version_is_listed_and_answers_as_itself(
    http: httpx.Client, share: Path, exported_bundle: Bundle, newer: Bundle
) -> None:
    move(http, share, "0")
    listed = {one["id"]: one for one in http.get("/v1/models").json()["data"]}
    names = [PHOTOS, f"{PHOTOS}@1", f"{PHOTOS}@2", CELLS]
    assert list(listed) == [
        f"{name}{output}" for name in names for output in ("", ":embedding", ":projection")
    ]
    old, new = (ask(http, model=f"{PHOTOS}@{number}").json() for number in (1, 2))
    assert (old["version"], new["version"]) == (1, 2)
    assert old["fingerprint"] == exported_bundle.fingerprints["embedding"]
    assert new["fingerprint"] == newer.fingerprints["embedding"] != old["fingerprint"]
    rows = [np.array(one["data"][0]["embedding"]) for one in (old, new)]
    np.testing.assert_allclose(rows[1], -2 * rows[0], rtol=1e-5)
    assert listed[f"{PHOTOS}@2"]["fingerprint"] == new["fingerprint"]
    assert listed[f"{PHOTOS}@2"]["share"] == 0
    projection = ask(http, model=f"{PHOTOS}@2:projection").json()
    assert projection["fingerprint"] == newer.fingerprints["projection"]
    assert ask(http, model=CELLS).json()["version"] == 1
    assert http.get("/health/ready").status_code == 200


@pytest.mark.parametrize("model", ["nobody", f"{PHOTOS}@3", f"{PHOTOS}@", f"{CELLS}@x", "", "@1"])
def test_a_name_that_is_not_served_is_a_404_with_the_names_there(
    http: httpx.Client, model: str
) -> None:
    answer = ask(http, model=model)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    for name in (f"{PHOTOS}@1", f"{PHOTOS}@2", CELLS):
        assert name in error["message"]
    assert http.get(f"/v1/models/{model or 'x'}").status_code == 404


def on_the_new_one(http: httpx.Client) -> set[str]:
    """Users that the second version answers."""
    return {user for user in USERS if ask(http, user=user).json()["version"] == 2}


def test_the_share_is_of_callers_who_keep_their_version_and_only_move_forward(
    http: httpx.Client, share: Path
) -> None:
    seen = []
    for text in ("0", "0.3", f"{PHOTOS}=0.7", "1"):
        move(http, share, text)
        seen.append(on_the_new_one(http))
    assert seen[0] == set()
    assert seen[0] < seen[1] < seen[2] < seen[3] == set(USERS)
    assert 2 <= len(seen[1]) <= 10  # the users never change, so neither do these
    assert ask(http, model=CELLS).json()["version"] == 1
    move(http, share, "0.3")
    by_header = [ask(http, {"x-user-id": user}).json()["version"] for user in USERS[:8]]
    assert by_header == [2 if user in seen[1] else 1 for user in USERS[:8]]
    # Whoever names no user is known by the key or the address, and never gets two versions in turn.
    move(http, share, "0.5")
    assert len({ask(http).json()["version"] for _ in range(8)}) == 1


def test_a_share_that_makes_no_sense_changes_nothing(http: httpx.Client, share: Path) -> None:
    move(http, share, "0.25")
    for text in ("", "2", "half", f"{PHOTOS}=-1", "nan"):
        share.write_text(text)
        assert figure(http, "jepack_share", PHOTOS, 2) == 0.25
    share.unlink()
    assert figure(http, "jepack_share", PHOTOS, 2) == 0.25
    move(http, share, "0")


def test_whoever_asks_for_a_fingerprint_gets_it_or_an_error(
    http: httpx.Client, share: Path, exported_bundle: Bundle, newer: Bundle
) -> None:
    old, new = exported_bundle.fingerprints, newer.fingerprints
    for text in ("0", "1"):
        move(http, share, text)
        for version, of in ((1, old), (2, new)):
            assert ask(http, fingerprint=of["embedding"]).json()["version"] == version
            headers = {"x-jepack-fingerprint": of["projection"]}
            answer = ask(http, headers, output="projection").json()
            assert (answer["version"], answer["fingerprint"]) == (version, of["projection"])
    move(http, share, "0")
    for fields in (
        {"fingerprint": "0123456789abcdef"},
        {"fingerprint": new["projection"]},  # while the output asked for is the embedding
        {"fingerprint": new["embedding"], "model": f"{PHOTOS}@1"},
        {"fingerprint": new["embedding"], "model": CELLS},
    ):
        answer = ask(http, **fields)
        assert answer.status_code == 409
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("fingerprint_not_served", "fingerprint")
        assert "embed them again" in error["message"]


def test_the_open_inference_protocol_names_versions(http: httpx.Client, newer: Bundle) -> None:
    assert http.get(f"/v2/models/{PHOTOS}").json()["versions"] == ["1", "2"]
    assert http.get(f"/v2/models/{PHOTOS}/versions/2/ready").status_code == 200
    assert http.get(f"/v2/models/{PHOTOS}/versions/3").status_code == 404
    body = {"inputs": [{
        "name": "image", "datatype": "BYTES", "shape": [1], "data": [data_url(png())],
    }]}  # fmt: skip
    answer = http.post(f"/v2/models/{PHOTOS}/versions/2/infer", json=body).json()
    assert answer["model_version"] == "2"
    assert answer["parameters"]["fingerprint_embedding"] == newer.fingerprints["embedding"]


@pytest.mark.triton
def test_a_promotion_and_a_rollback_drop_no_request(
    served: list[Served], newer: Bundle, tmp_path: Path, digits_folder: Path
) -> None:
    """Real Triton under load; every answer is that of the version it names."""
    share = tmp_path / "canary"
    share.write_text("0.3")
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with (
        TritonServer(served, **ports, log_file=tmp_path / "log") as server,
        ExitStack() as stack,
    ):
        engines = engines_of("triton", served, server.url, stack, max_batch_size=16, threads=1)
        gateway = stack.enter_context(Gateway(engines, port=0, shares=Shares.told(str(share))))
        with Client(server.url, model=f"{PHOTOS}@2") as client:
            assert client.fingerprints() == newer.fingerprints
            want = client.embed(png()).embedding[0] / -2
        with Client(server.url) as client, pytest.raises(ServerError, match='model="photos"'):
            client.endpoint()
        for url in (server.url, gateway.url):
            words = [
                str(digits_folder),
                "--url",
                url,
                "--model",
                f"{PHOTOS}@2",
                "--out",
                str(tmp_path / "out.npz"),
                "--json",
            ]
            done = CliRunner().invoke(app, ["embed", *words], catch_exceptions=False)
            assert newer.fingerprints["embedding"] in done.output
        load = Load(gateway.url)
        before = sum(figure(load.http, "jepack_answers_total", PHOTOS, v) for v in (1, 2))
        with load:
            load.wait(60)
            for text in ("1", "0", "0.5", "1"):
                move(load.http, share, text)
                load.wait(40)
        counted = sum(figure(load.http, "jepack_answers_total", PHOTOS, v) for v in (1, 2))
        assert server.check() is None
        load.http.close()
    assert load.failed == []
    assert counted - before == len(load.answers) >= 220
    assert Counter(version for version, _ in load.answers).keys() == {1, 2}
    for version, row in load.answers:
        np.testing.assert_allclose(row, want * (1 if version == 1 else -2), rtol=1e-3, atol=1e-4)


class Load:
    """Four callers at once, each request of another user, until the block ends."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=300)
        self.answers: list[tuple[int, Any]] = []
        self.failed: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait(self, count: int) -> None:
        """Until so many more requests have ended."""
        end = len(self.answers) + count
        while len(self.answers) < end and not self.failed:
            time.sleep(0.02)

    def _run(self, number: int) -> None:
        turn = 0
        while not self._over.is_set() and not self.failed:
            turn += 1
            try:
                answer = ask(self.http, user=f"{number}-{turn}")
                answer.raise_for_status()
                told = answer.json()
                self.answers.append((told["version"], np.array(told["data"][0]["embedding"])))
            except (httpx.HTTPError, LookupError) as error:
                self.failed.append(f"{error}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cells=0.9", "names cells"),
        ("often", "not a share"),
        ("", "empty"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_makes_no_sense_moves_nobody(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    told: str,
) -> None:
    monkeypatch.setattr("serving.gateway.shares.OFTEN_S", 0)
    file = tmp_path / "canary"
    file.write_text("0.5")
    shares = Shares.told(str(file))
    shares.check({PHOTOS})
    file.unlink() if text is None else file.write_text(text)
    assert [shares.of(PHOTOS) for _ in range(3)] == [0.5] * 3
    (line,) = [one.getMessage() for one in caplog.records]
    assert told in line
    assert line.endswith("the share stays as it was, 0.5")
    file.write_text(f"{PHOTOS}=1")
    assert shares.of(PHOTOS) == 1


def test_a_canary_needs_two_versions_and_a_share(exported_bundle: Bundle) -> None:
    one, name = str(exported_bundle.folder), f"{PHOTOS}={exported_bundle.folder}"
    for words, told in (
        ([one, "--canary", "0.1"], "needs two versions"),
        ([name, name, "--canary", "1.5"], "not a share from 0 to 1"),
        ([name, name, "--canary", "cells=0.5"], "--canary names cells"),
        ([name, name, "--canary", "nowhere.txt"], "nor a file that is there"),
        ([name, name, "--no-http", "--canary", "0.1"], "no effect of --canary"),
        ([one, "--no-http", "--key-file", one], "no effect of --key-file"),
        ([one, one], "each needs a name"),
    ):
        done = CliRunner().invoke(app, ["serve", *words])
        assert getattr(done.exception, "exit_code", None) == 2, (words, done.output)
        assert told in str(done.exception)

"""Probes that are served: what they say stands beside the rows of every dialect, and is what they learnt."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pictures import data_url, png
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from jepack.bundle import Bundle, Probe
from jepack.cli import app
from jepack.client import Client
from jepack.errors import ConfigError
from serving.gateway import EmbeddedEngine, Gateway, TritonEngine
from serving.served import served_of
from serving.welcome import welcome

DARK, LIGHT = [png(value) for value in range(0, 60, 6)], [png(v) for v in range(120, 180, 6)]
IMAGES = [DARK[3], LIGHT[4], png(90)]


@pytest.fixture(scope="module")
def learnt(embedded: Any) -> LogisticRegression:
    rows = embedded.embed(DARK + LIGHT, limit_s=60).rows["embedding"].astype(np.float64)
    return LogisticRegression(C=0.01).fit(rows, ["dark"] * len(DARK) + ["light"] * len(LIGHT))


@pytest.fixture(scope="module")
def tone(embedded: Any, learnt: LogisticRegression) -> Probe:
    width = embedded.endpoint.dimensions["embedding"]
    weight = learnt.coef_[0].astype(np.float32)
    return Probe(
        name="tone", output="embedding", fingerprint=embedded.endpoint.fingerprints["embedding"],
        classes=("dark", "light"), mean_D=np.zeros(width, np.float32),
        scale_D=np.ones(width, np.float32), weight_CD=np.stack([0 * weight, weight]),
        bias_C=np.array([0, learnt.intercept_[0]], np.float32), error_rate=0.1, threshold=0.45,
        figures={"accuracy": 0.9},
    )  # fmt: skip


@pytest.fixture(scope="module")
def edges(embedded: Any) -> Probe:
    """Of the other output, without a threshold."""
    generator, width = np.random.default_rng(0), embedded.endpoint.dimensions["projection"]
    return Probe(
        name="edges", output="projection", fingerprint=embedded.endpoint.fingerprints["projection"],
        classes=("a", "b “c”", "d"), mean_D=generator.normal(size=width).astype(np.float32),
        scale_D=np.ones(width, np.float32), bias_C=np.zeros(3, np.float32),
        weight_CD=generator.normal(size=(3, width)).astype(np.float32),
    )  # fmt: skip


@contextmanager
def door(engine: Any, *probes: Probe) -> Iterator[httpx.Client]:
    heads = [{one.name: one for one in probes}]
    with (
        Gateway(engine, port=0, probes=heads) as one,
        httpx.Client(base_url=one.url, trust_env=False, timeout=60) as http,
    ):
        yield http


@pytest.fixture(scope="module")
def served(embedded: Any, tone: Probe, edges: Probe) -> Iterator[httpx.Client]:
    with door(embedded, tone, edges) as http:
        yield http


def told(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def send(http: httpx.Client, images: list[bytes] = IMAGES, **more: Any) -> dict[str, Any]:
    body = {"input": [data_url(one) for one in images], **more}
    return told(http.post("/v1/embeddings", json=body))


def check_as_learnt(http: httpx.Client, engine: Any, learnt: LogisticRegression) -> None:
    said = send(http)["probes"]["tone"]
    rows = engine.embed(IMAGES, limit_s=60).rows["embedding"].astype(np.float64)
    np.testing.assert_allclose(said["probabilities"], learnt.predict_proba(rows), atol=1e-6)
    np.testing.assert_allclose(np.sum(said["probabilities"], axis=1), 1, atol=1e-9)
    assert said["named"][:2] == ["dark", "light"]


def test_the_probabilities_are_those_of_what_was_learnt(
    served: httpx.Client, embedded: Any, learnt: LogisticRegression
) -> None:
    check_as_learnt(served, embedded, learnt)


@pytest.mark.triton
def test_triton_s_rows_are_judged_alike(
    triton_server: Any, exported_bundle: Bundle, tone: Probe, learnt: LogisticRegression
) -> None:
    engine = TritonEngine(triton_server.url, exported_bundle)
    with door(engine, tone) as http:
        check_as_learnt(http, engine, learnt)
    engine.close()


def test_sets_hold_every_class_that_an_image_may_be_and_unsure_is_null(
    embedded: Any, tone: Probe
) -> None:
    for most, sets, named in (
        (1.0, [["dark", "light"]] * 3, [None] * 3),
        (0.0, [[]] * 3, [None] * 3),
    ):
        with door(embedded, replace(tone, threshold=most)) as http:
            said = send(http)["probes"]["tone"]
            assert (said["sets"], said["named"], said["error_rate"]) == (sets, named, 0.1)


def test_what_a_probe_says_does_not_depend_on_how_the_rows_are_written(
    served: httpx.Client,
) -> None:
    want = send(served)["probes"]
    assert "sets" not in want["edges"]
    for options in (
        {"output": "projection"}, {"normalize": True}, {"encoding_format": "base64"},
    ):  # fmt: skip
        assert send(served, **options)["probes"] == want


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("tone", ["tone"]), ("edges, tone", ["edges", "tone"]), (["edges"], ["edges"]), (False, None),
        ("false", None), (True, ["tone", "edges"]), (None, ["tone", "edges"]), ([], None),
    ],
)  # fmt: skip
def test_a_request_chooses_among_them(served: httpx.Client, asked: Any, names: Any) -> None:
    answer = send(served, probe=asked)
    assert list(answer["probes"]) == names if names else "probes" not in answer


@pytest.mark.parametrize("asked", ["cracks", ["tone", "cracks"], 3, {"name": "tone"}, [["tone"]]])
def test_one_that_is_not_served_is_told_with_those_that_are(
    served: httpx.Client, asked: Any
) -> None:
    body = {"input": data_url(IMAGES[0]), "probe": asked}
    answer = served.post("/v1/embeddings", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_probe", "probe")
    assert "there are tone, edges" in error["message"]


def test_without_probes_answers_are_as_ever_and_asking_says_what_to_do(http: httpx.Client) -> None:
    assert "probes" not in send(http)
    assert "probes" not in send(http, probe=False)
    answer = http.post("/v1/embeddings", json={"input": data_url(IMAGES[0]), "probe": "tone"})
    assert answer.status_code == 400
    assert "jepack serve BUNDLE --probe NAME" in answer.json()["error"]["message"]


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


ONE = IMAGES[0]
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "Cohere": ("/v2/embed", {"json": {"images": [data_url(ONE)], "probe": "tone"}}),
    "Voyage": ("/v1/multimodalembeddings",
               {"json": {"inputs": [{"content": [{"type": "image_base64", "image_base64": data_url(ONE)}]}],
                         "probe": "tone"}}),
    "Weaviate": ("/vectors", {"json": {"id": "1", "image": b64(ONE), "probe": "tone"}}),
    "a form": ("/v1/embeddings", {"files": {"file": ONE}, "data": {"probe": "tone"}}),
    "the address": ("/v1/embeddings?probe=tone",
                    {"content": ONE, "headers": {"content-type": "image/png"}}),
    "a header": ("/v1/embeddings", {"content": ONE, "headers": {
        "content-type": "image/png", "x-jepack-probe": "tone"}}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_dialect_has_them(served: httpx.Client, way: str) -> None:
    want = send(served, [ONE], probe="tone")["probes"]
    path, request = WAYS[way]
    assert told(served.post(path, **request))["probes"] == want


OIP = {
    "inputs": [
        {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(ONE)],
         "parameters": {"content_type": "base64"}}
    ]
}  # fmt: skip


def test_the_open_inference_protocol_has_an_output_for_each(served: httpx.Client) -> None:
    want = send(served, [ONE])["probes"]
    path = "/v2/models/embed"
    listed = {one["name"]: one for one in told(served.get(path))["outputs"]}
    assert listed["probe:edges"]["shape"] == [-1, 3]

    def names(body: dict[str, Any], **headers: str) -> list[str]:
        answer = told(served.post(f"{path}/infer", json={**OIP, **body}, headers=headers))
        return [one["name"] for one in answer["outputs"]]

    rows, both = ["embedding", "projection"], ["probe:tone", "probe:edges"]
    assert names({}) == rows + both
    assert names({"parameters": {"probe": "edges"}}) == [*rows, "probe:edges"]
    assert names({"parameters": {"probe": False}}) == rows
    assert names({"outputs": [{"name": "embedding"}]}) == ["embedding"]
    asked = {"outputs": [{"name": "embedding"}], "parameters": {"probe": "tone"}}
    assert names(asked) == ["embedding", "probe:tone"]
    [_, last] = names({"outputs": [{"name": "embedding"}]}, **{"x-jepack-probe": "edges"})
    assert last == "probe:edges"
    answer = told(served.post(f"{path}/infer", json={**OIP, "outputs": [{"name": "probe:tone"}]}))
    [found] = answer["outputs"]
    np.testing.assert_allclose(found["data"], want["tone"]["probabilities"][0], atol=1e-6)
    assert json.loads(found["parameters"]["classes"]) == ["dark", "light"]
    assert found["parameters"]["error_rate"] == 0.1
    refused = served.post(f"{path}/infer", json={**OIP, "outputs": [{"name": "probe:cracks"}]})
    assert refused.json()["error"]["code"] == "unknown_probe"


def test_a_skipped_image_is_in_none_of_the_lists(served: httpx.Client) -> None:
    said = send(served, [ONE, b"GARBAGE", ONE], on_error="skip")["probes"]["tone"]
    assert len(said["probabilities"]) == len(said["named"]) == len(said["sets"]) == 2


def test_models_tell_their_classes_and_figures(served: httpx.Client) -> None:
    for one in told(served.get("/v1/models"))["data"]:
        [tone, edges] = one["probes"]
        assert tone == {
            "name": "tone", "output": "embedding", "classes": ["dark", "light"], "error_rate": 0.1,
            "figures": {"accuracy": 0.9},
        }  # fmt: skip
        assert (edges["classes"], edges["error_rate"]) == (["a", "b “c”", "d"], None)


def test_the_client_brings_them_beside_the_rows(served: httpx.Client) -> None:
    want = send(served)["probes"]
    with Client(str(served.base_url).rstrip("/")) as client:
        assert client.endpoint().probes["edges"] == ("a", "b “c”", "d")
        found = client.embed([*IMAGES, b"GARBAGE"], probes=["edges", "tone"], skip_bad=True)
        for name in ("edges", "tone"):
            shares = found.probabilities[name]
            np.testing.assert_allclose(shares[:3], want[name]["probabilities"], atol=1e-6)
            assert np.isnan(shares[3]).all()
        assert client.embed(ONE).probabilities == {}
        with pytest.raises(
            ConfigError, match="no probe 'cracks' answers there; there are tone, edges"
        ):
            client.embed(ONE, probes="cracks")


def test_a_probe_of_another_encoder_is_refused(embedded: Any, tone: Probe) -> None:
    other = replace(tone, fingerprint="0" * 16)
    with pytest.raises(ConfigError, match="another encoder. Keep it again"):
        Gateway(embedded, port=0, probes=[{"tone": other}])


def test_of_several_bundles_each_answers_with_those_that_it_keeps(
    exported_bundle: Bundle, tone: Probe
) -> None:
    engines = [EmbeddedEngine(exported_bundle, name=name, threads=1) for name in ("a", "b")]
    with (
        Gateway(engines, port=0, probes=[{"tone": tone}, {}]) as one,
        httpx.Client(base_url=one.url, trust_env=False, timeout=60) as http,
    ):
        assert set(send(http, [ONE], model="a")["probes"]) == {"tone"}
        assert "probes" not in send(http, [ONE], model="b")
        listed = {one["id"]: one["probes"] for one in told(http.get("/v1/models"))["data"]}
        assert (len(listed["a"]), listed["b"]) == (1, [])
        body = {"input": data_url(ONE), "model": "b", "probe": "tone"}
        assert http.post("/v1/embeddings", json=body).json()["error"]["code"] == "unknown_probe"


def test_what_serve_says_once_ready_names_the_probes(exported_bundle: Bundle, tone: Probe) -> None:
    console = Console(width=200)
    with console.capture() as shown:
        served = served_of([str(exported_bundle.folder)])
        welcome(console, served, None, "http://x", probes=[{"tone": tone}])
    assert "tone        of embedding: dark, light" in shown.get()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--probe", "nope"), "no bundle that is served keeps any. Keep one: the tab Probe"),
        (("--probe", "nope", "--no-http"), "no effect of --probe; leave it out"),
        (("--probe", "nope", "--repository-only", "{}"), "no effect of --probe; leave it out"),
    ],
)
def test_a_probe_that_cannot_be_served_is_told_before_any_work(
    exported_bundle: Bundle, tmp_path: Path, options: tuple[str, ...], word: str
) -> None:
    words = [one.format(tmp_path / "repository") for one in options]
    done = CliRunner().invoke(app, ["serve", str(exported_bundle.folder), *words])
    assert getattr(done.exception, "exit_code", None) == 2
    assert word in str(done.exception)

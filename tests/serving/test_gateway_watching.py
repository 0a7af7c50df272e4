"""The gateway tells how ordinary each image is, and whether images still look like the bundle's own."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from pictures import data_url, png
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from jepack.bundle import Bundle
from jepack.client import Endpoint
from jepack.errors import ConfigError
from jepack.measures import Null, fit_null
from serving.gateway import Gateway, TritonEngine, Watch
from serving.gateway.verdicts import POINTS
from serving.gateway.watching import HELD, Watches

FITTED, ASKED = 320, 160  # digits that make the null, digits that come after it


def file_of(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def digits() -> list[bytes]:
    """In no order: the data set's own is that of its writers."""
    pixels = load_digits().images[np.random.default_rng(0).permutation(1797)[: FITTED + ASKED]]
    pictures = [Image.fromarray((one / 16 * 255).astype(np.uint8)) for one in pixels]
    return [file_of(one.resize((32, 32), Image.Resampling.BICUBIC)) for one in pictures]


@pytest.fixture(scope="module")
def null(embedded: Any, digits: list[bytes]) -> Null:
    rows = embedded.embed(digits[:FITTED], limit_s=300).rows["projection"]
    return fit_null(rows, runs=24)


@pytest.fixture(scope="module")
def ordinary(digits: list[bytes]) -> list[bytes]:
    return digits[FITTED:]


@pytest.fixture(scope="module")
def inverted(ordinary: list[bytes]) -> list[bytes]:
    return [file_of(ImageOps.invert(Image.open(io.BytesIO(one)))) for one in ordinary]


@contextmanager
def door(engine: Any, null: Null | None, **options: Any) -> Iterator[httpx.Client]:
    watch = Watch(engine.endpoint, null, **options)
    with (
        Gateway(engine, port=0, watches=[watch]) as one,
        httpx.Client(base_url=one.url, trust_env=False, timeout=300) as http,
    ):
        yield http


@pytest.fixture
def http(embedded: Any, null: Null) -> Iterator[httpx.Client]:
    with door(embedded, null) as client:
        yield client


def send(http: httpx.Client, images: list[bytes], **options: Any) -> dict[str, Any]:
    body = {"input": [data_url(one) for one in images], **options}
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def drift(http: httpx.Client, query: str = "") -> dict[str, Any]:
    [told] = http.get(f"/v1/drift{query}").json()["data"]
    return dict(told)


def events(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if "event" in line]


def test_the_null_s_p_values_come_beside_the_rows_when_asked_for(
    http: httpx.Client, embedded: Any, null: Null, ordinary: list[bytes]
) -> None:
    want = null.p_values(embedded.embed(ordinary[:3], limit_s=300).rows["projection"])
    for output in ("embedding", "projection"):
        told = send(http, ordinary[:3], atypicality=True, output=output)
        np.testing.assert_allclose(told["atypicality"], want, atol=2 / len(null.scores))
        assert len(told["data"]) == 3
    assert "atypicality" not in send(http, ordinary[:1])
    assert "atypicality" not in send(http, ordinary[:1], atypicality=False)


def test_ordinary_images_have_every_p_value_and_strange_ones_small_ones(
    http: httpx.Client, ordinary: list[bytes]
) -> None:
    p = np.sort(send(http, ordinary[:128], atypicality=True)["atypicality"])
    uniform = (np.arange(128) + 0.5) / 128
    assert np.abs(p - uniform).max() < 0.2  # Kolmogorov-Smirnov at .0001 for both samples
    noise = np.random.default_rng(1).integers(0, 256, (16, 32, 32), np.uint8)
    strange = send(http, [file_of(Image.fromarray(one)) for one in noise], atypicality=True)
    assert np.median(strange["atypicality"]) < 0.05


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


IMAGE = png(7)
RAW = {"content": IMAGE, "headers": {"content-type": "image/png"}}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "Cohere": ("/v2/embed", {"json": {"images": [data_url(IMAGE)], "atypicality": True}}),
    "Voyage": ("/v1/multimodalembeddings",
               {"json": {"inputs": [{"content": [{"type": "image_base64", "image_base64": data_url(IMAGE)}]}],
                         "atypicality": True}}),
    "Weaviate": ("/vectors", {"json": {"id": "1", "image": b64(IMAGE), "atypicality": True}}),
    "another root": ("/openai/v1/embeddings", {"json": {"input": data_url(IMAGE), "atypicality": "true"}}),
    "a form": ("/v1/embeddings", {"files": {"file": IMAGE}, "data": {"atypicality": "1"}}),
    "the address": ("/v1/embeddings?atypicality=true", RAW),
    "a header": ("/v1/embeddings", {"content": IMAGE, "headers": {
        "content-type": "image/png", "x-jepack-atypicality": "true"}}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_dialect_may_ask_for_it(http: httpx.Client, way: str) -> None:
    [want] = send(http, [IMAGE], atypicality=True)["atypicality"]
    path, request = WAYS[way]
    answer = http.post(path, **request)
    assert answer.status_code == 200, answer.text
    assert answer.json()["atypicality"] == pytest.approx([want])


OIP_INPUT = {"name": "image", "datatype": "BYTES", "shape": [1]}


def test_the_open_inference_protocol_tells_it_in_a_header_and_as_an_output(
    http: httpx.Client,
) -> None:
    [want] = send(http, [IMAGE], atypicality=True)["atypicality"]
    body: dict[str, Any] = {
        "inputs": [{**OIP_INPUT, "data": [b64(IMAGE)], "parameters": {"content_type": "base64"}}]
    }
    path = "/v2/models/embed/infer"
    plain = http.post(path, json=body)
    assert "x-jepack-atypicality" not in plain.headers
    for asked, headers in (
        ({"parameters": {"atypicality": True}}, {}),
        ({}, {"x-jepack-atypicality": "true"}),
    ):
        answer = http.post(path, json={**body, **asked}, headers=headers)
        assert float(answer.headers["x-jepack-atypicality"]) == pytest.approx(want, rel=1e-4)
        assert [one["name"] for one in answer.json()["outputs"]] == ["embedding", "projection"]
    answer = http.post(path, json={**body, "outputs": [{"name": "atypicality"}]})
    [told] = answer.json()["outputs"]
    assert (told["shape"], told["datatype"]) == ([1, 1], "FP32")
    assert told["data"] == pytest.approx([want], rel=1e-4)
    binary = {"outputs": [{"name": "atypicality", "parameters": {"binary_data": True}}]}
    answer = http.post(path, json={**body, **binary})
    size = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[size:], "<f4") == pytest.approx([want], rel=1e-4)


def test_a_skipped_image_has_no_p_value(http: httpx.Client) -> None:
    told = send(http, [IMAGE, b"GARBAGE", IMAGE], atypicality=True, on_error="skip")
    assert len(told["atypicality"]) == len(told["data"]) == 2
    assert drift(http)["images"] == 2


def test_a_bundle_without_a_null_says_how_to_get_one(embedded: Any) -> None:
    with door(embedded, None) as http:
        body = {"input": data_url(IMAGE), "atypicality": True}
        answer = http.post("/v1/embeddings", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (
            400,
            "no_null",
            "atypicality",
        )
        assert "jepack export BUNDLE --data IMAGES" in error["message"]
        told = drift(http)
        assert (told["watching"], told["state"]) == (False, "unknown")
        assert "jepack export BUNDLE --data IMAGES" in told["verdict"]
        assert send(http, [IMAGE])["data"]
        assert "jepack_drift_watching" in http.get("/metrics").text


@pytest.mark.parametrize("value", ["perhaps", 2, [True]])
def test_what_is_no_yes_or_no_is_told(http: httpx.Client, value: Any) -> None:
    answer = http.post("/v1/embeddings", json={"input": data_url(IMAGE), "atypicality": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "atypicality")
    answer = http.get("/v1/drift?history=perhaps")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "history")


def test_it_turns_from_unknown_to_calm_to_alarm(
    http: httpx.Client, ordinary: list[bytes], inverted: list[bytes], caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "jepack.gateway")
    send(http, ordinary[:40])
    told = drift(http)
    assert (told["state"], told["images"], told["windows"][0]["z"]) == ("unknown", 40, None)
    assert "40 of the first 64" in told["verdict"]
    send(http, ordinary[40:128])
    told = drift(http)
    assert (told["state"], told["alarm"], told["images"]) == ("calm", False, 128)
    assert told["verdict"].startswith("calm: the latest 128 images look like")
    assert [one["length"] for one in told["windows"] if one["full"]] == [64, 128]
    assert "once in 1,000,000 at most" in told["promise"]
    send(http, inverted[:96])
    told = drift(http)
    assert (told["state"], told["alarm"], told["alarms"]) == ("alarm", True, 1)
    assert told["verdict"].startswith(f"alarm since {told['since']}: the latest ")
    assert max(one["z"] for one in told["windows"] if one["full"]) > told["threshold"]
    [rose] = events("\n".join(caplog.messages))
    assert (rose["event"], rose["level"], rose["model"]) == (
        "drift_alarm",
        "warning",
        "small-resnet10t",
    )
    assert rose["z"] > rose["threshold"]


def forgetful(null: Null) -> Null:
    """With its two shortest windows alone, 64 and 128 images."""
    assert null.changes is not None
    kept = {"moments": null.moments[:, :2], "changes": null.changes[:, :1]}
    return replace(null, windows=null.windows[:2], **kept)


def test_the_alarm_clears_when_the_windows_have_been_quiet_for_as_long_as_the_shortest(
    embedded: Any, null: Null, ordinary: list[bytes], inverted: list[bytes], caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "jepack.gateway")
    with door(embedded, forgetful(null)) as http:
        send(http, inverted[:64])
        assert drift(http)["state"] == "alarm"
        send(http, ordinary[:128])  # none of the strange is in a window any more, just now
        told = drift(http)
        assert (told["state"], told["windows"][1]["z"] < told["threshold"]) == ("alarm", True)
        assert "no window is above the threshold now" in told["verdict"]
        send(http, ordinary[:64])
        told = drift(http)
        assert (told["state"], told["alarms"], told["alarm_at"]) == ("calm", 1, 64)
    names = [one["event"] for one in events("\n".join(caplog.messages))]
    assert names == ["drift_alarm", "drift_cleared"]


def test_prometheus_reads_the_same(
    http: httpx.Client, embedded: Any, ordinary: list[bytes], inverted: list[bytes]
) -> None:
    send(http, ordinary[:32])
    send(http, inverted[:96])
    told = drift(http)
    labels = f'fingerprint="{embedded.endpoint.fingerprints["projection"]}",model="small-resnet10t"'
    lines = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines())
    found = {name: lines[f"jepack_drift_{name}{{{labels}}}"] for name in (
        "watching", "images_total", "alarms_total", "alarm", "threshold", "missed_total",
    )}  # fmt: skip
    want = (1, 128, 1, 1, told["threshold"], 0)
    assert [float(one) for one in found.values()] == pytest.approx(want)
    shift = lines[f'jepack_drift_mean_shift{{{labels},window="64"}}']
    assert float(shift) == pytest.approx(told["windows"][0]["mean_shift"])
    assert float(lines[f"jepack_drift_cpu_seconds_total{{{labels}}}"]) > 0


def test_the_models_say_what_is_watched_and_promised(embedded: Any, null: Null) -> None:
    for given, rate, want in (
        (null, 5000.0, (True, True, 5000.0)),
        (null, None, (True, False, None)),
        (None, 5000.0, (False, False, None)),
    ):
        with door(embedded, given, images_per_false_alarm=rate) as http:
            for one in http.get("/v1/models").json()["data"]:
                told = (one["atypicality"], one["watching"], one["images_per_false_alarm"])
                assert told == want
                assert http.get(f"/v1/models/{one['id']}").json() == one


def test_watching_can_be_off_and_atypicality_on(embedded: Any, null: Null) -> None:
    with door(embedded, null, images_per_false_alarm=None) as http:
        assert len(send(http, [IMAGE], atypicality=True)["atypicality"]) == 1
        told = drift(http)
        assert (told["watching"], told["state"]) == (False, "unknown")
        assert "--no-watch" in told["verdict"]


def test_probes_of_health_are_not_watched(http: httpx.Client) -> None:
    assert http.get("/health/ready").status_code == 200
    assert drift(http)["images"] == 0


# The watcher itself, on numbers.


def endpoint(dims: int = 2) -> Endpoint:
    prints = {"embedding": "0" * 16, "projection": "1" * 16}
    return Endpoint("numbers", prints, {"embedding": 4, "projection": dims}, 16)


@pytest.fixture(scope="module")
def plain() -> Null:
    """Of normal numbers."""
    return fit_null(np.random.default_rng(0).standard_normal((400, 2)), runs=24)


def normal(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)


def test_images_of_many_threads_are_counted_once(plain: Null) -> None:
    watch = Watch(endpoint(), plain)
    watch.start()

    def work(seed: int) -> None:
        for row in normal(300, seed):
            watch.see(row[None])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    told = watch.told()
    assert told["images"] + told["missed"] == 2400
    watch.close()


def test_what_waits_is_bounded_and_what_passes_by_is_told(plain: Null) -> None:
    watch = Watch(endpoint(), plain)  # nobody takes from the line
    for _ in range(50):
        watch.see(normal(128))
    told = watch.told()
    assert (told["images"], told["missed"]) == (HELD, 50 * 128 - HELD)
    watch.see(normal(128))
    assert watch.told()["images"] == HELD + 128


def test_a_watcher_that_fails_fails_no_request_and_is_told(plain: Null, caplog: Any) -> None:
    watch = Watch(endpoint(), plain)
    watch.see(np.full((3, 2), np.nan, np.float32))
    assert watch.told()["missed"] == 3
    assert "3 images could not be watched" in caplog.text
    watch.see(normal(64))
    assert watch.told()["state"] == "calm"


def test_all_that_waits_is_watched_before_it_closes(plain: Null, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "jepack.gateway")
    watch = Watch(endpoint(), plain)
    watch.start()
    watch.see(normal(64) + 3)
    watch.close()
    assert [one["event"] for one in events("\n".join(caplog.messages))] == ["drift_alarm"]


def test_the_history_keeps_the_peaks_in_a_bounded_number_of_points(plain: Null) -> None:
    watch = Watch(endpoint(), plain)
    watch.see(normal(64) + 3)
    peak = max(one["z"] for one in watch.told()["windows"][:1])
    for seed in range(100):
        watch.see(normal(128, seed))
        watch.told()
    history = watch.told(history=True)["history"]
    assert len(history["images"]) == len(history["z"]) < POINTS
    assert history["images"] == sorted(history["images"])
    assert history["images"][-1] >= 0.98 * (64 + 12800)
    first = next(z for z in history["z"] if z[0] is not None)
    assert first[0] >= round(peak, 3)
    assert first[-1] is None  # 4,096 images were not there yet
    json.dumps(history, allow_nan=False)


def test_every_model_version_has_its_own_watch(plain: Null) -> None:
    one, two = (replace(endpoint(), fingerprints={"projection": name}) for name in "ab")
    watches = Watches([Watch(one, plain)])
    assert watches.of(one) is watches.every[0]
    assert watches.of(two).null is None  # nothing is known of it
    watches.of(one).see(normal(64))
    assert [told["state"] for told in watches.told()] == ["calm", "unknown"]
    [family] = [found for found in watches.collect() if found.name == "jepack_drift_watching"]
    assert [(s.labels["fingerprint"], s.value) for s in family.samples] == [("a", 1), ("b", 0)]


def test_a_null_of_another_projection_is_refused(plain: Null) -> None:
    with pytest.raises(ConfigError, match="the null is of 2 dimensions, numbers projects to 64"):
        Watch(endpoint(64), plain)


@pytest.mark.triton
def test_in_front_of_triton_too(
    triton_server: Any, exported_bundle: Bundle, null: Null, inverted: list[bytes]
) -> None:
    engine = TritonEngine(triton_server.url, exported_bundle)
    with door(engine, null) as http:
        p = send(http, inverted[:96], atypicality=True)["atypicality"]
        assert (len(p), drift(http)["state"]) == (96, "alarm")
    engine.close()

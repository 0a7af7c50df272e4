"""The same gateway over Triton and over ONNX Runtime in its process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pictures import data_url

from jepack.bundle import OUTPUTS, Bundle
from jepack.client import Client, ImageError
from jepack.errors import ArtifactError
from jepack.sources import find_images
from serving.gateway import EmbeddedEngine, Gateway, TritonEngine

GARBAGE = b"GARBAGE"


@pytest.fixture(scope="module")
def files(digits_folder: Path) -> list[bytes]:
    """More than one batch of the engine, one bad image not among them."""
    return [image.path.read_bytes() for image in find_images(digits_folder)][:20]


@pytest.fixture(params=["embedded", pytest.param("triton", marks=pytest.mark.triton)])
def engine(request: pytest.FixtureRequest, exported_bundle: Bundle) -> Iterator[Any]:
    if request.param == "embedded":
        yield request.getfixturevalue("embedded")
        return
    one = TritonEngine(request.getfixturevalue("triton_server").url, exported_bundle)
    yield one
    one.close()


def rows(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


def ask(engine: Any, **body: Any) -> httpx.Response:
    with Gateway(engine, port=0) as one:
        return httpx.post(f"{one.url}/v1/embeddings", json=body, trust_env=False, timeout=300)


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_golden_images_come_back(engine: Any, exported_bundle: Bundle, output: str) -> None:
    from jepack.bundle import golden_file

    golden = exported_bundle.golden()
    urls = [
        data_url(golden_file(image, exported_bundle.preprocessing)) for image in golden["images"]
    ]
    found = rows(ask(engine, input=urls, output=output))
    np.testing.assert_allclose(found, golden[output], atol=1e-4)


@pytest.mark.triton
def test_the_gateway_says_what_grpc_says_and_the_embedded_engine_too(
    triton_server: Any, embedded: Any, exported_bundle: Bundle, files: list[bytes]
) -> None:
    with Client(triton_server.url) as client:
        want = client.embed(files)
    engine = TritonEngine(triton_server.url, exported_bundle)
    assert engine.endpoint == embedded.endpoint
    for output in OUTPUTS:
        for one in (engine, embedded):
            found = rows(ask(one, input=[data_url(file) for file in files], output=output))
            np.testing.assert_allclose(found, getattr(want, output), rtol=1e-6, atol=1e-6)
    engine.close()


@pytest.mark.parametrize("number", [0, 15, 16, 19])
def test_a_bad_image_is_named_by_its_place_in_the_whole_request(
    engine: Any, files: list[bytes], number: int
) -> None:
    images = [*files[:number], GARBAGE, *files[number + 1 :]]
    with pytest.raises(ImageError, match="not an image") as caught:
        engine.embed(images, limit_s=300)
    assert caught.value.number == number
    found = engine.embed(images, limit_s=300, skip_bad=True)
    assert list(found.bad) == [number]
    want = engine.embed(files, limit_s=300).rows
    for output in OUTPUTS:
        np.testing.assert_allclose(
            found.rows[output], np.delete(want[output], number, 0), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("threads", [1, 3])
def test_images_of_several_requests_share_the_cores_of_one_engine(
    exported_bundle: Bundle, files: list[bytes], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are those of one image at a time, and no more are decoded or run at once than it has threads."""
    from jepack import inprocess

    at_work, most, guard = [0], [0], threading.Lock()

    def counted(function: Any) -> Any:
        def work(*given: Any) -> Any:
            with guard:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
            try:
                return function(*given)
            finally:
                with guard:
                    at_work[0] -= 1

        return work

    engine = EmbeddedEngine(exported_bundle, threads=threads)
    want = [engine.embed([file], limit_s=60).rows for file in files]
    monkeypatch.setattr(inprocess, "load", counted(inprocess.load))
    monkeypatch.setattr(inprocess, "run", counted(inprocess.run))
    with ThreadPoolExecutor(6) as callers:
        asked = [callers.submit(engine.embed, files[:n], limit_s=60) for n in (1, 2, 5, 16, 20, 20)]
        for one in asked:
            for output in OUTPUTS:
                found = one.result().rows[output]
                rows_ND = np.concatenate([row[output] for row in want[: len(found)]])
                np.testing.assert_allclose(found, rows_ND, rtol=1e-4, atol=1e-4)
    assert most[0] <= threads


def test_only_bad_images_give_no_rows(engine: Any) -> None:
    found = engine.embed([GARBAGE, b""], limit_s=300, skip_bad=True)
    assert list(found.bad) == [0, 1]
    assert found.rows["embedding"].shape == (0, 512)


def test_an_engine_that_works_has_no_problem(engine: Any) -> None:
    assert engine.problem() is None


def test_a_bundle_without_a_graph_is_told_how_to_make_one(small_bundle: Bundle) -> None:
    with pytest.raises(ArtifactError, match="jepack export"):
        EmbeddedEngine(small_bundle)


def test_an_engine_that_embeds_otherwise_than_the_bundle_says_does_not_start(
    exported_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepack.errors import ServerError

    golden = exported_bundle.golden()
    golden["embedding"] = golden["embedding"] + 1
    monkeypatch.setattr(Bundle, "golden", lambda bundle: golden)
    with pytest.raises(ServerError, match="golden image comes back wrong"):
        EmbeddedEngine(exported_bundle)

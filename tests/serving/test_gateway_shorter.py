"""Rows that are cut or coarser, where the bundle measured that they find the same neighbours."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from pictures import data_url, png

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.files import write_json
from jepack.measures import codes

MEASURED = {
    "floor": 0.9, "images": 60, "neighbours": 10,
    "embedding": {"dimensions": {"256": 0.97, "128": 0.92, "64": 0.71}, "int8": 0.99, "binary": 0.31},
    "projection": {"dimensions": {"32": 0.6}, "int8": 0.99, "binary": 0.93},
}  # fmt: skip
IMAGES = [data_url(png(7)), data_url(png(90))]


@pytest.fixture(scope="module")
def http(
    exported_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A gateway over a bundle in which these figures stand."""
    from serving.gateway import EmbeddedEngine, Gateway

    folder = tmp_path_factory.mktemp("measured") / "bundle"
    shutil.copytree(exported_bundle.folder, folder)
    with bundles.editing(bundles.load(folder), {}) as stage:
        told = json.loads((stage / "isotropy.json").read_text())
        (stage / "isotropy.json").unlink()
        write_json(stage / "isotropy.json", {**told, "shorter": MEASURED})
    with (
        Gateway(EmbeddedEngine(bundles.load(folder), threads=1), port=0) as one,
        httpx.Client(base_url=one.url, trust_env=False, timeout=300) as client,
    ):
        yield client


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/embeddings", json={"input": IMAGES, **fields})


def rows(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]])


@pytest.mark.parametrize("name", ["dimensions", "output_dimension", "truncate_dim"])
def test_rows_are_cut_to_what_was_measured(http: httpx.Client, name: str) -> None:
    whole = ask(http)
    for size in (128, 200, 256):
        short = ask(http, **{name: size})
        np.testing.assert_allclose(rows(short), rows(whole)[:, :size], rtol=1e-5, atol=1e-5)
        assert short.json()["fingerprint"] == f"{whole.json()['fingerprint']}/{size}"
    unit = rows(ask(http, **{name: 128}, normalize=True))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


REFUSED = {
    "too short": ({"dimensions": 64}, "64 of embedding keeps 71% of the 10 nearest"),
    "between": ({"dimensions": 127}, "128 are the fewest"),
    "no length of it": ({"dimensions": 16, "output": "projection"}, "was measured"),
    "no length keeps it": ({"dimensions": 32, "output": "projection"}, "no shorter row does"),
    "longer than it is": ({"dimensions": 513}, "from 1 to 512"),
    "less than nothing": ({"dimensions": -1}, "from 1 to 512"),
    "half a number": ({"dimensions": 1.5}, "from 1 to 512"),
    "a word": ({"dimensions": "many"}, "from 1 to 512"),
    "yes": ({"dimensions": True}, "from 1 to 512"),
    "bits": ({"embedding_type": "binary"}, "binary of embedding keeps 31% of the 10 nearest"),
    "bytes without a sign": ({"embedding_type": "uint8"}, "int8"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_loses_neighbours_is_refused_with_the_figure(http: httpx.Client, what: str) -> None:
    fields, word = REFUSED[what]
    answer = ask(http, **fields)
    error = answer.json()["error"]
    kind = "dimensions" if "dimensions" in fields else "embedding_type"
    assert (answer.status_code, error["code"], error["param"]) == (400, f"unsupported_{kind}", kind)
    assert word in error["message"]


def test_numbers_come_as_int8_and_as_bits(http: httpx.Client) -> None:
    floats = rows(ask(http, output="projection")).astype(np.float32)
    given = {
        name: rows(ask(http, output="projection", embedding_type=name))
        for name in ("int8", "binary", "ubinary")
    }
    assert np.abs(given["int8"] - codes.int8(floats)).max() <= 1  # of a last bit that may differ
    assert (given["ubinary"] == codes.packed(floats)).all()
    assert (given["binary"] == given["ubinary"] - 128).all()
    text = ask(http, output="projection", embedding_type="int8", encoding_format="base64").json()
    held = np.frombuffer(base64.b64decode(text["data"][0]["embedding"]), np.int8)
    assert np.abs(held - given["int8"][0]).max() <= 1


def test_openais_client_never_reads_bytes_as_floats(http: httpx.Client) -> None:
    body = {"input": IMAGES, "embedding_type": "int8", "encoding_format": "base64"}
    python = {"x-stainless-lang": "python"}
    refused = http.post("/v1/embeddings", json=body, headers=python)
    assert refused.status_code == 400
    assert 'encoding_format="float"' in refused.json()["error"]["message"]
    good = http.post("/v1/embeddings", json={**body, "encoding_format": "float"}, headers=python)
    np.testing.assert_array_equal(rows(good), rows(ask(http, embedding_type="int8")))
    assert http.post("/v1/embeddings", json=body).status_code == 200


def test_cohere_gets_every_type_it_names(http: httpx.Client) -> None:
    asked = {"images": IMAGES, "embedding_types": ["float", "int8"], "output_dimension": 256}
    found = http.post("/v2/embed", json=asked).json()["embeddings"]
    assert sorted(found) == ["float", "int8"]
    want = codes.int8(np.array(found["float"], np.float32))
    assert np.abs(np.array(found["int8"]) - want).max() <= 1
    assert want.shape == (2, 256)


def test_the_list_of_models_tells_what_may_be_asked_for(http: httpx.Client) -> None:
    told = {one["output"]: one for one in http.get("/v1/models").json()["data"]}
    assert (told["embedding"]["shortest"], told["embedding"]["embedding_types"]) == (
        128, ["float", "int8"],
    )  # fmt: skip
    assert told["projection"]["embedding_types"] == ["float", "int8", "binary"]
    assert told["embedding"]["kept"]["64"] == 0.71


def test_a_bundle_that_measured_nothing_gives_whole_rows(small_gateway: httpx.Client) -> None:
    for fields in ({"dimensions": 256}, {"embedding_type": "int8"}):
        answer = ask(small_gateway, **fields)
        assert answer.status_code == 400
        assert "jepack export measures it" in answer.json()["error"]["message"]


@pytest.fixture
def small_gateway(exported_bundle: Bundle) -> Iterator[httpx.Client]:
    """Over an engine whose bundle is not at hand."""
    from serving.gateway import EmbeddedEngine, Gateway

    class Elsewhere:
        def __init__(self) -> None:
            inner = EmbeddedEngine(exported_bundle, threads=1)
            self.endpoint, self.embed = inner.endpoint, inner.embed
            self.problem, self.close = inner.problem, inner.close

    with (
        Gateway(Elsewhere(), port=0) as one,
        httpx.Client(base_url=one.url, trust_env=False, timeout=300) as client,
    ):
        yield client


def test_export_measures_what_shorter_rows_keep(exported_bundle: Bundle) -> None:
    table = exported_bundle.isotropy()["shorter"]
    assert (table["floor"], table["neighbours"]) == (codes.FLOOR, 10)
    for output, width in exported_bundle.dimensions.items():
        assert {int(size) for size in table[output]["dimensions"]} == set(codes.sizes(width))
        assert table[output]["int8"] > 0.95
        assert 0 <= table[output]["binary"] <= 1

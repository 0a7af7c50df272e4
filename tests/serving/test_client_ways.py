"""The client over gRPC and over the gateway, by threads and by asyncio: the same numbers, the same words."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import self_signed
from PIL import Image
from typer.testing import CliRunner

from jepack.bundle import OUTPUTS, Bundle
from jepack.cli import app
from jepack.client import AsyncClient, Client, Embeddings
from jepack.errors import DataError, ServerError
from jepack.sources import find_images
from serving.gateway import Gateway, TritonEngine
from serving.gateway.keys import Keys

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(digits_folder: Path) -> list[Path]:
    return [image.path for image in find_images(digits_folder)]


def embed(url: str, *given: Any, **options: Any) -> Embeddings:
    with Client(url, timeout_s=300) as client:
        return client.embed(*given, **options)


def embed_later(url: str, *given: Any, **options: Any) -> Embeddings:
    async def ask() -> Embeddings:
        async with AsyncClient(url, timeout_s=300) as client:
            return await client.embed(*given, **options)

    return asyncio.run(ask())


def assert_same(found: Embeddings, wanted: Embeddings) -> None:
    for output in OUTPUTS:
        got, want = getattr(found, output), getattr(wanted, output)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert replace(found, embedding=0, projection=0) == replace(wanted, embedding=0, projection=0)


def test_the_gateway_gives_what_its_engine_gives(
    gateway: Gateway, embedded: Any, files: list[Path]
) -> None:
    wanted = embedded.embed([file.read_bytes() for file in files], limit_s=300).rows
    for ask in (embed, embed_later):
        found = ask(gateway.url, files)
        for output in OUTPUTS:
            np.testing.assert_allclose(getattr(found, output), wanted[output], rtol=1e-6, atol=1e-6)
            assert getattr(found, output).dtype == np.float32
        assert found.fingerprints == embedded.endpoint.fingerprints
        one = ask(f"{gateway.url}/v1/", str(files[0]), output="projection")
        np.testing.assert_allclose(one.projection, wanted["projection"][:1], rtol=1e-6, atol=1e-6)
        assert one.embedding.shape == (1, 0)


def test_the_gateway_describes_its_engine(gateway: Gateway, embedded: Any) -> None:
    with Client(gateway.url) as client:
        told = client.endpoint()
        assert replace(told, max_bytes=embedded.endpoint.max_bytes) == embedded.endpoint
        assert told.max_bytes < gateway.limits.body
        assert client.diagnose() is None


def test_bad_images_are_told_by_name_over_http(gateway: Gateway, files: list[Path]) -> None:
    items = [files[0], b"hello", b"", files[1], np.zeros((5000, 6000), np.uint8)]
    for ask in (embed, embed_later):
        with pytest.raises(DataError, match=r"^item [124]: "):
            ask(gateway.url, items)
        found = ask(gateway.url, items, skip_bad=True)
        assert {n: text[:22] for n, text in found.errors.items()} == {
            1: "not an image of a know",
            2: "zero bytes; an image i",
            4: "6000 x 5000 pixels, th",
        }
        np.testing.assert_allclose(
            found.embedding[[0, 3]], ask(gateway.url, files[:2]).embedding, rtol=1e-4, atol=1e-4
        )


def test_keys_and_certificates(embedded: Any, files: list[Path], tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    (tmp_path / "keys").write_text("a-key-of-sixteen-characters\n")
    keys = Keys.chosen(tmp_path / "keys")
    with Gateway(embedded, port=0, certificate=certificate, keys=keys) as one:
        assert one.url.startswith("https://")
        good: dict[str, Any] = {"key": "a-key-of-sixteen-characters", "ca_file": certificate[0]}
        with Client(one.url, **good) as client:
            assert client.embed(files[:2]).good.all()
        refused = [
            ({**good, "key": "another-key-of-sixteen"}, "this key opens nothing.*JEPACK_KEY"),
            ({"key": good["key"]}, "certificate is not to be trusted.*ca_file"),
        ]
        for given, told in refused:
            with Client(one.url, **given) as client, pytest.raises(ServerError, match=told):
                client.embed(files[:2])


def test_more_callers_than_the_gateway_holds_are_all_answered(
    gateway: Gateway, files: list[Path]
) -> None:
    """It holds 8 and 32; each caller has a client of its own, so that none waits here."""

    async def one(file: Path) -> Any:
        async with AsyncClient(gateway.url, timeout_s=300) as client:
            return await client.embed(file)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*[one(file) for file in files])

    found = asyncio.run(all_at_once())
    wanted = embed(gateway.url, files).embedding
    np.testing.assert_allclose(
        np.concatenate([one.embedding for one in found]), wanted, rtol=1e-4, atol=1e-4
    )


@pytest.mark.triton
def test_grpc_and_http_give_the_same_numbers(
    triton_server: Any, exported_bundle: Bundle, files: list[Path]
) -> None:
    engine = TritonEngine(triton_server.url, exported_bundle)
    wanted = embed(triton_server.url, files)
    assert_same(embed_later(f"grpc://{triton_server.url}", files), wanted)
    with Gateway(engine, port=0) as one:
        assert_same(embed(one.url, files), wanted)
        assert_same(embed_later(one.url, files), wanted)
        with Client(triton_server.url) as grpc, Client(one.url) as http:
            told = http.endpoint()
            assert replace(told, max_bytes=grpc.endpoint().max_bytes) == grpc.endpoint()
        pixels = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
        deep = [pixels, Image.fromarray(pixels)]
        assert_same(embed(one.url, deep), embed(triton_server.url, deep))
    engine.close()
    with pytest.raises(ServerError, match="does not speak HTTP|hung up|nothing answers"):
        embed(f"http://{triton_server.url}", files[:1])


@pytest.mark.triton
def test_cancelled_calls_leave_triton_well(triton_server: Any, files: list[Path]) -> None:
    async def ask() -> Any:
        async with AsyncClient(triton_server.url, timeout_s=300) as client:
            for _ in range(10):
                call = asyncio.create_task(client.embed(files, batch_size=4, concurrency=8))
                await asyncio.sleep(0.05)
                call.cancel()
            return await asyncio.gather(*[client.embed(file) for file in files])

    found = np.concatenate([one.embedding for one in asyncio.run(ask())])
    wanted = embed(triton_server.url, files).embedding
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert triton_server.check(busy_is_fine=True) is None


def examples(page: str, heading: str) -> list[str]:
    """The Python blocks below a heading."""
    text = (ROOT / page).read_text().split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_examples_of_the_page_run(
    gateway: Gateway, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").symlink_to(digits_folder)
    monkeypatch.chdir(tmp_path)
    found = examples("docs/serving.md", "From Python") + examples("README.md", "The four ways")
    found = [code for code in found if "jepack.client" in code]
    assert len(found) == 3
    for code in found:
        for address in ('"127.0.0.1:8001"', '"http://127.0.0.1:8080"'):
            code = code.replace(address, repr(gateway.url))
        names: dict[str, Any] = {}
        exec(code, names)
        assert names["found"].embedding.shape[0] == 60, code


def test_commands_take_the_gateways_address(
    gateway: Gateway, digits_folder: Path, files: list[Path], tmp_path: Path
) -> None:
    def told(*words: str) -> Any:
        done = CliRunner().invoke(app, [*words, "--url", gateway.url, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    index = str(tmp_path / "index")
    assert told("embed", str(digits_folder), "--out", str(tmp_path / "x.npz"))["images"] == 60
    assert told("index", str(digits_folder), "--out", index)["count"] == 60
    [first] = told("search", index, str(files[7]), "--k", "1")["neighbours"]
    assert (first["path"], first["distance"] < 1e-5) == (str(files[7]), True)

"""`jepack drift URL`: what a gateway tells, its exit codes and its key; and the report page."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_bundle import write_tiny_bundle
from typer.testing import CliRunner

from jepack import bundle as bundles
from jepack.cli import app
from jepack.commands import drift_sides
from jepack.errors import ConfigError, DataError, ServerError
from jepack.measures import fit_null
from serving.gateway import Gateway, Keys, Watch
from serving.gateway.engines import Embedded

RUNNER = CliRunner()
KEY = "a-key-of-sixteen-characters"


def normal(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)


class Numbers:
    """An engine of which only the name is asked here."""

    def __init__(self) -> None:
        from jepack.client import Endpoint

        prints = {"embedding": "0" * 16, "projection": "1" * 16}
        self.endpoint = Endpoint("<numbers>", prints, {"embedding": 4, "projection": 2}, 16)

    def embed(self, images: Any, *, limit_s: float, skip_bad: bool = False) -> Embedded:
        raise AssertionError

    def problem(self) -> str | None:
        return None

    def close(self) -> None: ...


NULL = fit_null(normal(400, 0), runs=24)


@contextmanager
def gateway(*seen: np.ndarray, null: Any = NULL, keys: Keys | None = None) -> Iterator[str]:
    """The address of a real gateway that has embedded these."""
    watch = Watch(Numbers().endpoint, null)
    with Gateway(Numbers(), port=0, watches=[watch], keys=keys) as one:
        for rows in seen:
            watch.see(rows)
        yield one.url


def run(*words: object, **environment: str) -> tuple[int, str]:
    done = RUNNER.invoke(
        app, ["drift", *map(str, words)], catch_exceptions=False,
        env={"COLUMNS": "200", "JEPACK_KEY": "", **environment},
    )  # fmt: skip
    return done.exit_code, done.stdout


def test_calm_ends_with_0_alarm_with_9_and_what_cannot_be_told_with_10() -> None:
    for seen, null, code, word in (
        ([normal(200)], NULL, 0, "calm: the latest 128 images"),
        ([normal(200), normal(64) + 3], NULL, 9, "alarm since"),
        ([normal(63)], NULL, 10, "63 of the first 64"),
        ([normal(200)], None, 10, "jepack export BUNDLE --data IMAGES"),
    ):
        with gateway(*seen, null=null) as url:
            assert run(url)[0] == code
            assert word in run(url)[1]
            found, text = run(f"{url}/v1/", "--json")
            [told] = json.loads(text)["data"]
            assert (found, told["model"]) == (code, "<numbers>")
            assert word in told["verdict"]


def test_one_model_can_be_asked_for_and_an_unknown_one_is_told() -> None:
    with gateway(normal(200), normal(64) + 3) as url:
        for name in ("<numbers>", "<numbers>@1"):
            assert run(url, "--model", name)[0] == 9
        with pytest.raises(
            ConfigError, match="--model photos: not served there; there are <numbers>"
        ):
            run(url, "--model", "photos")


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{KEY}\n")
    with gateway(normal(128), keys=Keys(text=KEY)) as url:
        assert run(url, "--key-file", file)[0] == 0
        assert run(url, JEPACK_KEY=KEY)[0] == 0
        for environment in ({}, {"JEPACK_KEY": "another-key-of-sixteen"}):
            with pytest.raises(
                ServerError, match=r"refused \(401\).*--key-file FILE, or \$JEPACK_KEY"
            ):
                run(url, **environment)
    file.write_text("# none\n")
    with pytest.raises(ConfigError, match="holds no key"):
        run(url, "--key-file", file)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["http://me:secret@127.0.0.1:1"], "Keys come from --key-file"),
        (["http://127.0.0.1:1", "photos"], "belong to a bundle"),
        (["http://127.0.0.1:1", "--html", "a.html", "--thumbnails"], "belong to a bundle"),
        (["bundle"], "beside what"),
        (["bundle", "photos", "--thumbnails"], "--html FILE"),
        (["bundle", "june.npz", "--thumbnails", "--html", "a.html"], "BUNDLE FOLDER"),
        (["bundle", "photos", "--key-file", "keys"], "--key-file is for a gateway"),
    ],
)
def test_what_does_not_go_together_is_told(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        run(*words)
    assert "secret" not in str(caught.value)


ANSWERS: dict[str, tuple[int, bytes, str]] = {
    "no JSON": (200, b"<html>", "not the answer of a jepack gateway"),
    "nothing": (200, b"", "not the answer of a jepack gateway"),
    "another shape": (200, b'{"data": [{"state": "calm", "watching": true}]}', "not the answer"),
    "numbers that are none": (200, b'{"data": [{"state": "fine"}]}', "not the answer"),
    "no entries": (200, b'{"data": []}', "not the answer"),
    "an older gateway": (404, b"{}", "no gateway of jepack that watches"),
    "a failure": (500, b"{}", "the gateway failed (500)"),
    "a redirect": (302, b"", "sends elsewhere (302)"),
}


@pytest.fixture
def stranger() -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """A server that answers as told, and the paths that it was asked for."""
    answer: dict[str, Any] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(answer["status"])
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", str(len(answer["body"])))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *words: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answer, asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("case", ANSWERS)
def test_whatever_answers_there_is_told_in_a_sentence(stranger: Any, case: str) -> None:
    url, answer, asked = stranger
    status, body, told = ANSWERS[case]
    answer.update(status=status, body=body)
    with pytest.raises(ServerError, match=re.escape(told)):
        run(url, JEPACK_KEY=KEY)
    assert asked == ["/v1/drift?history=true"]  # a key goes to this address alone


def test_nobody_there_is_told() -> None:
    with pytest.raises(ServerError, match="jepack serve BUNDLE"):
        run("http://127.0.0.1:9")


class Reader(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def addresses(page: Reader) -> set[str]:
    """What a browser would fetch."""
    found = [attrs.get(name) for _, attrs in page.tags for name in ("src", "href", "xlink:href")]
    return {str(one)[:11] for one in found if one and not one.startswith("#")}


def test_the_page_tells_the_verdict_first_and_fetches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "drift.html"
    with gateway(normal(200), normal(64) + 3) as url:
        assert run(url, "--html", path)[0] == 9
    page = Reader(path.read_text())
    assert (
        page.text.index("Drift")
        < page.text.index("Alarm since")
        < page.text.index("window, images")
    )
    assert "<numbers>" in page.text
    assert "largest z of each window" in page.text  # text of the plot stays text
    assert "numbers" not in {tag for tag, _ in page.tags}
    assert addresses(page) == set()
    assert [tag for tag, _ in page.tags].count("svg") == 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("drift") / "bundle")
    with bundles.editing(bundles.load(folder)) as stage:
        bundles.write_null(stage, NULL)
    return folder


def saved(path: Path, x: np.ndarray, fingerprint: str) -> Path:
    names = np.array([f"row-{number}.png" for number in range(len(x))])
    np.savez(path, path=names, projection=x, fingerprint_projection=fingerprint)
    return path


def test_two_saved_sets_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_sides, "fit_null", partial(fit_null, runs=24))  # of the default 128
    may = saved(tmp_path / "may.npz", normal(400, 5), "a" * 16)
    page = tmp_path / "drift.html"
    for name, x, code, word in (
        ("june.npz", normal(300, 6), 0, "No drift"),
        ("july.npz", normal(300, 7) + 1, 9, "Drift"),
    ):
        other = saved(tmp_path / name, x, "a" * 16)
        found, text = run(may, other, "--json", "--html", page)
        told = json.loads(text)
        assert (found, told["drift"], told["ordinary_from"]) == (code, code == 9, str(may))
        assert f'">{word}</p>' in page.read_text()
    few = saved(tmp_path / "few.npz", normal(63), "a" * 16)
    with pytest.raises(DataError, match=r"few\.npz: a null needs 64"):
        run(few, may)


@pytest.mark.parametrize("asked", [True, False])
def test_thumbnails_are_on_the_page_only_when_asked_for(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """The client is the seam."""
    from jepack.client import Embeddings

    class Answering:
        def __init__(self, url: str, *, model: str) -> None: ...

        def endpoint(self) -> None: ...

        def __enter__(self) -> Answering:
            return self

        def __exit__(self, *error: object) -> None: ...

        def embed(self, items: list[Path], **options: Any) -> Embeddings:
            x = normal(len(items))
            prints = bundles.load(bundle).fingerprints
            return Embeddings(np.zeros((len(items), 4)), x, prints)

    monkeypatch.setattr(drift_sides, "Client", Answering)
    data = tmp_path / "photos"
    data.mkdir()
    for number in range(70):
        Image.new("L", (400, 300), number).save(data / f"{number}.png")
    path = tmp_path / "drift.html"
    run(bundle, data, "--html", path, *(["--thumbnails"] if asked else []))
    page = Reader(path.read_text())
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == (12 if asked else 0)
    assert addresses(page) == ({"data:image/"} if asked else set())
    assert len(path.read_text()) < 100_000  # crops of 8 px, not the images

"""Options that make no sense are refused where they are given: exit code 2, a sentence, nothing done."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from jepack import disk, files
from jepack.cli import COMMANDS, app
from jepack.client import address_of, check_address
from jepack.errors import ArtifactError, ConfigError

# The numbers of these go into the settings of a run, which know their ranges (training/settings/limits.py).
SETTINGS = ("train", "sweep")
NUMBERS = dict.fromkeys(COMMANDS, 0) | {
    "quickstart": 3, "inspect": 4, "views": 5, "probe": 5, "import": 4, "isotropy": 1, "export": 1,
    "serve": 8, "embed": 7, "index": 3, "search": 1, "app": 1, "cache": 1, "drift": 1,
}  # fmt: skip
WRITTEN = ("out", "sheet", "picture", "log_file", "http_log", "repository_only", "html")
FILES = {
    ("embed", "out"): ".npz", ("views", "out"): ".png", ("inspect", "sheet"): ".png",
    ("isotropy", "picture"): ".png", ("probe", "picture"): ".png",
    ("drift", "picture"): ".png", ("drift", "html"): ".html",
    ("check", "html"): ".html",
    ("serve", "log_file"): "", ("serve", "http_log"): "",
}  # fmt: skip
FOLDERS = {
    ("train", "out"), ("sweep", "out"), ("import", "out"), ("pull", "out"), ("index", "out"),
    ("quickstart", "out"), ("serve", "repository_only"),
}  # fmt: skip


def options(command: str) -> dict[str, tuple[Any, Any]]:
    """name: (annotation, default) of every option of a command."""
    module, function, _ = COMMANDS[command]
    made = getattr(importlib.import_module(module), function)
    defaults = {name: one.default for name, one in inspect.signature(made).parameters.items()}
    return {
        name: (annotation, defaults[name])
        for name, annotation in typing.get_type_hints(made, include_extras=True).items()
        if name != "return" and isinstance(annotation.__metadata__[0], typer.models.OptionInfo)
    }


def is_number(annotation: Any) -> bool:
    bare = annotation.__origin__
    return bool({bare, *typing.get_args(bare)} & {int, float})


def refused(annotation: Any, text: str) -> bool:
    """Whether a command with this option alone ends when the option has this value."""

    def alone(value: Any) -> None: ...

    alone.__annotations__ = {"value": annotation}
    command = typer.Typer()
    command.command()(alone)
    (word, *_) = annotation.__metadata__[0].param_decls or ("--value",)
    done = CliRunner().invoke(command, [f"{word}={text}"])
    assert done.exit_code in (0, 2) or isinstance(done.exception, ConfigError), done.output
    return done.exit_code != 0


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in SETTINGS])
def test_every_number_has_a_range(command: str) -> None:
    found = {n: one for n, one in options(command).items() if is_number(one[0])}
    assert len(found) == NUMBERS[command]
    for name, (annotation, default) in found.items():
        for text in ("-5", "1" + 30 * "0", "nan", "inf", "-inf"):
            assert refused(annotation, text), (name, text)
        assert default is None or not refused(annotation, str(default)), name


@pytest.mark.parametrize("command", SETTINGS)
def test_every_number_of_a_run_has_a_range(command: str) -> None:
    from training.settings import TrainConfig

    found = [name for name, one in options(command).items() if is_number(one[0])]
    assert "epochs" in found
    for name in found:
        for value in (-5, 1e30, math.nan, math.inf):
            with pytest.raises(ConfigError, match=name):
                replace(TrainConfig(), **{name: value})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("import", "timm:resnet18", "--projection-dims", "0"), "--projection-dims"),
        (("import", "timm:resnet18", "--size", "7"), "must be 8 px or more, or 0"),
        (("probe", "timm:resnet18", "--test-fraction", "1"), "must be in (0, 1), found 1.0"),
        (("probe", "timm:resnet18", "--test-fraction", "0"), "must be in (0, 1), found 0.0"),
        (("embed", "photos", "--timeout-s", "0"), "must be in (0, 1e+06], found 0.0"),
        (("serve", "bundle", "--threads", "0"), "--threads"),
        (("views", "photos", "--fit", "stretch"), "must be crop or pad or squash, found stretch"),
        (("import", "timm:resnet18", "--fit", "stretch"), "must be crop or pad or squash"),
        (("quickstart", "--fit", "stretch"), "must be crop or pad or squash, found stretch"),
        (("views", "photos", "--out", "views.foo"), "views.foo must end in .png"),
        (("app", "--make-hash", "an na"), "a user is up to 64 letters, digits and .@+-_"),
    ],
)
def test_the_sentence_names_the_option_and_what_it_takes(words: Any, told: str) -> None:
    done = CliRunner().invoke(app, words, env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    assert done.exit_code == 2
    assert told in done.output


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_begins_that_could_not_write_its_outcome(command: str, tmp_path: Path) -> None:
    found = {name: one for name, (one, _) in options(command).items() if name in WRITTEN}
    assert {(command, name) for name in found} == {
        key for key in (*FILES, *FOLDERS) if key[0] == command
    }
    for name, annotation in found.items():
        ending, is_folder = FILES.get((command, name), ""), (command, name) in FOLDERS
        place = tmp_path / name
        (place / f"folder{ending}").mkdir(parents=True)
        for file in {"file", f"file{ending}"}:
            (place / file).write_text("mine")

        def bad(text: str, place: Path = place, annotation: Any = annotation) -> bool:
            return refused(annotation, str(place / text))

        assert bad(f"file/x{ending}")
        assert bad(f"file/deep/x{ending}")
        assert bad(f"{'x' * 300}{ending}")
        assert bad(f"folder{ending}") != is_folder
        assert bad(f"file{ending}") == is_folder
        assert not bad(f"new/deep/x{ending}")
        assert not (place / "new").exists()


def test_a_folder_of_somebody_else_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    told = f"{tmp_path} may not be written into"
    assert disk.obstacle(tmp_path / "new" / "x.npz", folder=False) == told
    assert disk.obstacle(tmp_path / "x", folder=True) == told


@pytest.mark.parametrize("name", ["file/x.npz", "folder", f"{'x' * 300}"])
def test_a_file_that_cannot_be_written_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=r"cannot be written .*Choose another place"):
        files.write_bytes(tmp_path / name, b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("name", ["file/x", "file", "link", f"{'x' * 300}"])
def test_a_folder_that_cannot_be_made_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ArtifactError, match="cannot be written"), files.new_folder(tmp_path / name):
        raise AssertionError
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_may_have_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / ("x" * 251 + ".npz"), b"x")
    with files.new_folder(tmp_path / ("y" * 255)) as stage:
        (stage / "a").write_text("a")
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8001", "localhost:1", "gpu.example:65535", "[::1]:8001", "[fe80::1%eth0]:8001",
        "dns:gpu.example:8001", "dns:///gpu.example:8001", "ipv4:127.0.0.1:8001", "ipv6:[::1]:8001",
        "unix:/run/jepack.sock", "dns:8001", "grpc://127.0.0.1:8001", "grpc://[::1]:8001",
        "http://127.0.0.1:8080", "http://127.0.0.1", "https://photos.example/jepack/", "HTTP://[::1]:8080/v1",
    ],
)  # fmt: skip
def test_what_is_an_address_is_taken(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize(
    ("url", "kind", "target"),
    [
        ("127.0.0.1:8001", "grpc", "127.0.0.1:8001"),
        ("grpc://[::1]:8001", "grpc", "[::1]:8001"),
        ("http://127.0.0.1:8080/", "http", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/v1", "http", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/v1/embeddings/", "http", "http://127.0.0.1:8080"),
        ("https://photos.example/a/b/v1/", "http", "https://photos.example/a/b"),
        ("https://photos.example/v1x", "http", "https://photos.example/v1x"),
    ],
)
def test_an_address_says_how_it_is_asked(url: str, kind: str, target: str) -> None:
    found = address_of(url)
    assert (found.kind, found.target) == (kind, target)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:-1", "ports go from 1 to 65535"),
        ("127.0.0.1:0", "ports go from 1 to 65535"),
        ("127.0.0.1:65536", "ports go from 1 to 65535"),
        ("127.0.0.1:" + 5000 * "9", "ports go from 1 to 65535"),
        ("127.0.0.1", "host:port"),
        ("localhost", "host:port"),
        ("", "host:port"),
        (":8001", "host:port"),
        ("127.0.0.1:", "host:port"),
        ("127.0.0.1:80 01", "host:port"),
        ("127.0.0.1:8001\n", "host:port"),
        ("127.0.0.1:８００１", "host:port"),
        ("127.0.0.1:8001/v2", "host:port"),
        ("::1:8001", "host:port"),
        ("[::1]", "host:port"),
        ("http://127.0.0.1:0", "ports go from 1 to 65535"),
        ("http://127.0.0.1:99999/v1", "ports go from 1 to 65535"),
        ("http://", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080?key=1", "http://127.0.0.1:8080"),
        ("https://me:secret@photos.example", "^https://...@photos.example: no address"),
        ("ftp://127.0.0.1:8001", "host:port"),
        ("grpc://127.0.0.1", "host:port"),
        (8001, "host:port"),
        (None, "host:port"),
    ],
)
def test_what_is_no_address_is_told_and_nobody_is_asked(url: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_address(url)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_asks_an_endpoint_looks_at_its_address(command: str) -> None:
    found = options(command).get("url")
    assert (found is not None) == (command in ("embed", "index", "search", "app", "drift"))
    if found is not None:
        assert refused(found[0], "127.0.0.1:-1")
        assert refused(found[0], "127.0.0.1")
        assert not refused(found[0], "127.0.0.1:8001")

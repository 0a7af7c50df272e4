"""The front door: what it lists and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jepack.cli import COMMANDS


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jepack", *words], capture_output=True, text=True, timeout=300
    )


def test_help_lists_every_command_in_the_order_of_the_work() -> None:
    shown = run("--help").stdout
    places = [shown.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


def test_an_unknown_command_is_a_usage_error() -> None:
    done = run("trian")
    assert done.returncode == 2
    assert "No such command" in done.stderr


@pytest.mark.parametrize(
    ("library", "words"), [("typer", ["--version"]), ("numpy", ["drift", "a", "b"])]
)
def test_an_interrupt_while_libraries_are_imported_is_a_word(
    library: str, words: list[str], tmp_path: Path
) -> None:
    """The library is one that interrupts the process when it is imported, as Ctrl-C would just then."""
    (tmp_path / f"{library}.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "jepack", *words], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "Stopped.\n")


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["cache", "--json"]])
def test_a_reader_who_has_gone_away_ends_a_command_without_a_word(
    words: list[str], buffered: str, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered, "JEPACK_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "jepack", *words]
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, timeout=300
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_full_disk_under_what_is_printed_is_one_sentence(buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jepack", "--version"], stdout=full, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONUNBUFFERED": buffered}, timeout=300,
        )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith("error: No space left on device. Free some space")
    assert done.stderr.count("\n") == 1


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("no folder")
    nowhere = str(taken / "run")
    data = str(tmp_path / "no-data")  # not even looked at
    for words in (
        ["train", data, "--out", nowhere, "--encoder", "test_resnet", "--size", "32"],
        ["import", "timm:test_resnet", "--data", data, "--out", nowhere],
        ["embed", data, "--out", f"{nowhere}.npz"],
        ["index", data, "--out", nowhere],
    ):
        done = run(*words)
        assert done.returncode == 2, done.stderr
        told = "".join(done.stderr.replace("│", "").split())  # a narrow box breaks lines anywhere
        assert f"{taken}isnofolder.Chooseanotherplace" in told, done.stderr


def test_a_cache_folder_that_cannot_be_written_names_the_variable(
    digits_folder: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("no folder")
    words = ["train", str(digits_folder), "--out", str(tmp_path / "run"), "--encoder", "test_vit"]
    words += ["--size", "32", "--images-per-step", "16", "--set", "local_views=0"]
    done = subprocess.run(
        [sys.executable, "-m", "jepack", *words], capture_output=True, text=True, timeout=300,
        env={**os.environ, "JEPACK_CACHE": str(taken)},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "cannot be written" in done.stderr
    assert "JEPACK_CACHE=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_commands_options_are_told_without_loading_what_it_computes_with() -> None:
    """`jepack train --help` took six seconds of imports."""
    asked = """
import sys
import typer
from jepack.cli import COMMANDS, app
group = typer.main.get_command(app)
for name in COMMANDS:
    group.get_command(None, name)
    heavy = {"torch", "timm", "onnx", "onnxruntime", "sklearn", "gradio", "lancedb"} & set(sys.modules)
    assert not heavy, (name, heavy)
"""
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_command_that_is_misspelt_is_told_the_one_that_is_near() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jepack", "inspekt"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Did you mean `jepack inspect`?" in done.stderr

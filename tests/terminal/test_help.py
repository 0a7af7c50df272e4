"""What `--help` shows can be pasted: no example is broken in the middle of its command."""

from __future__ import annotations

import importlib
import inspect

import pytest
from typer.testing import CliRunner

from jepack.cli import COMMANDS, app


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_stands_on_one_line_of_an_ordinary_terminal(command: str) -> None:
    module, function, _ = COMMANDS[command]
    told = inspect.getdoc(getattr(importlib.import_module(module), function)) or ""
    examples = [line.strip() for line in told.splitlines() if f"jepack {command}" in line]
    env = {"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    shown = CliRunner().invoke(app, [command, "--help"], env=env).stdout
    lines = [line.strip() for line in shown.splitlines()]
    assert examples
    assert "goes on where it was. An .npz is written" in " ".join(lines) or command != "embed"
    for example in examples:
        assert any(line.endswith(example) for line in lines), (example, shown)

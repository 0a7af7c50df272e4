"""What the code imports, an install for users brings; `dev` is for people who change the code."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("jepack", "training", "export", "serving", "app")
BROUGHT = ("triton", "starlette", "gradio_client")  # by torch and gradio
PICTURES = "app/screenshot.py"  # draws pictures for the documentation; needs `dev`


def imported() -> Iterator[tuple[str, Path]]:
    """(top-level name, file) of every import of a stage."""
    for stage in STAGES:
        for path in sorted((ROOT / stage).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from ((alias.name.split(".")[0], path) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module.split(".")[0], path


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_of_a_stage_is_declared_outside_dev() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "dev"}
    lines = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    declared = {key(re.split(r"[\[<>=;~! ]", line)[0]) for line in lines}
    known = packages_distributions()
    missing = {
        f"{name} in {path.relative_to(ROOT)}"
        for name, path in imported()
        if name not in (*sys.stdlib_module_names, *STAGES, *BROUGHT)
        and path != ROOT / PICTURES
        and not declared & {key(found) for found in [name, *known.get(name, [])]}
    }
    assert missing == set()

"""The house: who may import whom. The order itself stands in pyproject.toml, under importlinter."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("jepack", "training", "export", "serving", "app")
# A command imports its stage when it runs, so that --help is quick and needs no extra.
COMMANDS = (
    "app/cli.py",
    "app/index_cli.py",
    "app/move_cli.py",
    "app/search_cli.py",
    "export/cli.py",
    "export/isotropy.py",
    "jepack/__main__.py",  # while it imports, Ctrl-C is told too
    "serving/cli.py",  # --no-http and --repository-only need no gateway
    "training/commands/importing.py",
    "training/commands/inspect.py",
    "training/commands/scores.py",
    "training/commands/sweep.py",
    "training/commands/train.py",
    "training/commands/views.py",
)
# These need a library that may be missing: OpenAI Triton, torch, onnxruntime's quantiser.
OPTIONAL = ("jepack.sigreg.kernels", "jepack.network", "export.reduced")


def test_a_package_imports_only_those_below_it() -> None:
    # As a command: called here, it would configure logging anew and silence every logger of this process.
    lint = Path(sys.executable).with_name("lint-imports")
    told = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


def imports_inside_functions(path: Path) -> list[str]:
    """Modules of ours that are imported when a function runs."""
    found = []
    tree = ast.parse(path.read_text())
    outside = set(map(id, tree.body))
    for node in ast.walk(tree):
        if id(node) in outside:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            found += [f"{node.module}.{name.name}" for name in node.names]
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in OURS]
    return found


@pytest.mark.parametrize("stage", OURS)
def test_modules_are_imported_at_the_top_of_a_file(stage: str) -> None:
    late = {
        str(path.relative_to(ROOT)): names
        for path in sorted((ROOT / stage).rglob("*.py"))
        if (names := imports_inside_functions(path))
    }
    for command in COMMANDS:
        late.pop(command, None)
    assert [
        (path, name)
        for path, names in late.items()
        for name in names
        if not name.startswith(OPTIONAL)
    ] == []

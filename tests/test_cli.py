"""The front door: what it lists, what it imports, how it fails."""

from __future__ import annotations

import subprocess
import sys

from jepack.cli import COMMANDS


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jepack", *words], capture_output=True, text=True, timeout=120
    )


def test_help_lists_every_command_in_the_order_of_the_work() -> None:
    shown = run("--help").stdout
    places = [shown.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from jepack.cli import main; sys.argv = ['jepack', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'gradio', 'lancedb', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    done = run("trian")
    assert done.returncode == 2
    assert "No such command" in done.stderr

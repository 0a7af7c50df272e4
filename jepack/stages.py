"""Where the four stages are: at the root of a checkout, or inside the installed package.

Everything that looks for a stage, or for a file that travels with one, asks here. The wheel holds the
stages, `model_repository/` and the pages of `docs/` below `jepack/_stages/` (pyproject.toml puts them there):
names like `app` and `export` are too common for a place of their own in site-packages.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import jepack
from jepack.errors import DependencyError
from jepack.files import cache_root

STAGES = ("training", "export", "serving", "app")
PACKAGE = Path(jepack.__file__).resolve().parent
CARRIED = PACKAGE / "_stages"  # only in what a wheel installed
SERVER_ENVIRONMENT = "JEPACK_TRITON_VENV"
# The extra that brings a stage's libraries, where it has another name than the stage.
EXTRAS = {"training": "train", "serving": "serve"}


def checkout() -> Path | None:
    """The root of the checkout that runs; None when jepack was installed from a wheel."""
    return None if CARRIED.is_dir() else PACKAGE.parent


def home() -> Path:
    """The folder that holds the stages and `model_repository/`."""
    return checkout() or CARRIED


def put_on_path() -> None:
    """Let this process import the stages. Processes that it starts by `python -m jepack` do it themselves;
    those of multiprocessing get its path.

    In front: the folder that a person works in may hold an `app` or an `export` of its own.
    """
    place = str(home())
    if sys.path[:1] != [place]:
        sys.path.insert(0, place)


def page(name: str) -> str:
    """Where a page of the documentation can be read: `docs/serving.md`, or its place in the package."""
    return f"docs/{name}" if checkout() else str(CARRIED / "docs" / name)


def server_environment() -> Path:
    """The folder of the Triton server's own environment: $JEPACK_TRITON_VENV, `.venv-triton` of the
    checkout, or one for each Python environment in the user's cache folder."""
    if chosen := os.environ.get(SERVER_ENVIRONMENT):
        return Path(chosen).expanduser()
    if root := checkout():
        return root / ".venv-triton"
    # The server's libraries follow those installed here, so two environments must not share it.
    key = hashlib.sha256(os.fsencode(sys.prefix)).hexdigest()[:8]
    return cache_root() / f"triton-{key}"


def lacking(error: ModuleNotFoundError, command: str, module: str) -> DependencyError | None:
    """What to say when `jepack COMMAND`, which lives in `module`, met a library that is not installed.

    None when the module is one of jepack's own: that is a fault of the code.
    """
    missing = (error.name or "").partition(".")[0]
    if missing in STAGES and not (home() / missing).is_dir():
        return DependencyError(
            f"`jepack {command}` is not in {home()}: this installation is not whole. "
            "Install it again: pip install --force-reinstall --no-deps jepack"
        )
    if missing in ("", "jepack", *STAGES):
        return None
    stage = module.partition(".")[0]
    extra = "hub" if "hub" in module.split(".") else EXTRAS.get(stage, stage)
    extra = "all" if extra == "jepack" else extra
    return DependencyError(
        f"`jepack {command}` needs {missing}, which is not installed. "
        f"Install it: pip install 'jepack[{extra}]' ('jepack[all]' brings everything)"
    )

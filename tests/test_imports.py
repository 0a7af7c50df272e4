"""What each stage may import, as allow-lists: in its files, and in what is loaded with it.

What a stage imports, an install for users brings; `dev` is for people who change the code.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
BROUGHT = (
    "triton",
    "starlette",
    "gradio_client",
    "triton_python_backend_utils",
)  # by torch, gradio, Triton
PICTURES = ROOT / "app" / "screenshot.py"  # draws pictures for the documentation; needs `dev`

# Top-level names that the files of a stage may import anywhere, beside Python's own and the stage itself.
COMMAND = {"jepack", "typer", "rich", "numpy", "PIL"}
FORMATS = {
    "astropy", "datasets", "h5py", "imagecodecs", "pillow_heif", "pyarrow", "pydicom", "rasterio",
    "tifffile", "zarr",
}  # fmt: skip
MAY_IMPORT = {
    "jepack": COMMAND | FORMATS | {
        "packaging",
        "grpc", "httpx", "huggingface_hub", "matplotlib", "model_signing", "onnxruntime", "pydantic",
        "safetensors", "sklearn", "timm", "torch", "triton", "tritonclient",
    },
    "training": COMMAND | {
        "cv2", "matplotlib", "safetensors", "scipy", "sklearn", "timm", "torch", "trackio", "wandb",
    },
    "export": COMMAND - {"PIL"} | {"matplotlib", "onnx", "onnxruntime", "torch"},
    "serving": COMMAND | {
        "pyarrow",
        "fastapi", "fastapi_offline", "h11", "prometheus_client", "python_multipart", "starlette",
        "ray", "uvicorn",
    },
    "model_repository": {
        "PIL", "jepack", "numpy", "onnxruntime", "pillow_heif", "triton_python_backend_utils",
    },
    "app": COMMAND | {
        "cleanlab", "gradio", "gradio_client", "grpc", "lancedb", "milvus_lite", "numkong", "pyarrow",
        "pymilvus", "selenium", "sklearn", "starlette", "umap",
    },
}  # fmt: skip
# The modules of `jepack` that are about the network itself; `checks` asks torch what it finds.
OF_TORCH = {"encoder", "network", "sharing", "statistic", "tiles", "kernels", "tracing", "checks"}


def files(stage: str) -> list[Path]:
    return sorted((ROOT / stage).rglob("*.py"))


@cache
def imported(path: Path) -> frozenset[str]:
    """Top-level names that a file imports: at its head, in a function, or named in a call."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__", "need", "find_spec"):
                found |= set(re.findall(r"^f?'([\w.]+)", ast.unparse(node.args[0])))
    return frozenset(name.split(".")[0] for name in found) - sys.stdlib_module_names


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_the_files_of_a_stage_import_what_it_may_and_no_other_stage(stage: str) -> None:
    assert files(stage)
    allowed = MAY_IMPORT[stage] | {stage}
    strange = {str(path.relative_to(ROOT)): imported(path) - allowed for path in files(stage)}
    assert {path: names for path, names in strange.items() if names} == {}


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_a_list_names_nothing_that_its_stage_does_not_import(stage: str) -> None:
    assert MAY_IMPORT[stage] - {stage} <= set().union(*map(imported, files(stage)))


def test_of_what_the_stages_share_only_modules_about_the_network_import_torch() -> None:
    found = {path.stem for path in files("jepack") if imported(path) & {"torch", "timm", "triton"}}
    assert found == OF_TORCH


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_of_a_stage_is_declared_outside_dev() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "dev"}
    lines = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    declared = {key(Requirement(line).name) for line in lines}
    known = packages_distributions()
    missing = {
        f"{name} in {path.relative_to(ROOT)}"
        for stage in MAY_IMPORT
        for path in files(stage)
        for name in imported(path) - {*MAY_IMPORT, *BROUGHT}
        if path != PICTURES
        and not declared & {key(found) for found in [name, *known.get(name, [])]}
    }
    assert missing == set()


def loaded(code: str) -> set[str]:
    """Top-level names that a fresh interpreter holds after `code`, Python's own left out."""
    told = f"{code}\nprint('loaded', *{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{told}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.rsplit("loaded ", 1)[1].split())
    return {name for name in names - sys.stdlib_module_names if not name.startswith("_")}


def brought_by(distributions: set[str]) -> set[str]:
    """The distributions and all that they require, optional extras left out."""
    found: set[str] = set()
    waiting = {key(name) for name in distributions}
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            needed = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        waiting |= {key(r.name) for r in needed if not r.marker or r.marker.evaluate({"extra": ""})}
        waiting -= found
    return found


def modules(stage: str, but: set[str] | None = None) -> str:
    """`import` of every module of a stage; `but`: names of modules and folders."""
    found = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files(stage)
    ]
    kept = [name for name in found if not {"__main__", *(but or ())} & set(name.split("."))]
    return "import " + ", ".join(kept)


HELP = """
from jepack.cli import main
sys.argv = ["jepack", "--help"]
try:
    main()
except SystemExit:
    pass
"""
# What the light places load: these distributions and what they require, nothing else. (code, distributions)
LIGHT = {
    "`jepack --help`": (HELP, {"typer", "rich"}),
    "the client": (
        "import jepack.client, tritonclient.grpc, httpx",
        {
            "tritonclient", "grpcio", "numpy", "packaging", "pillow", "protobuf", "rich",
            "httpx", "click", "brotli", "zstandard", "h2", "socksio",  # the last by httpx, where installed
        },
    ),
    "serving": (
        modules("serving", {"gateway"}), {"typer", "rich", "numpy", "pillow", "safetensors"},
    ),
    "the gateway": (
        f"{modules('serving')}\nimport onnxruntime, tritonclient.grpc",
        {
            "typer", "rich", "numpy", "pillow", "safetensors",
            "fastapi", "fastapi-offline", "onnxruntime", "prometheus-client", "python-multipart",
            "tritonclient", "grpcio",
            "packaging", "protobuf", "uvicorn",
            "email-validator", "orjson", "sniffio",  # taken by FastAPI's where the page has brought them
        },
    ),
    "measuring a file": ("import export.isotropy", {"typer", "rich", "numpy", "pillow", "safetensors"}),
}  # fmt: skip


@pytest.mark.parametrize("place", LIGHT)
def test_light_places_load_their_few_libraries_alone(place: str) -> None:
    code, distributions = LIGHT[place]
    allowed, known = brought_by(distributions), packages_distributions()
    names = loaded(code) - {
        "jepack",
        "serving",
        "export",
        "cython_runtime",
    }  # the last: of compiled modules
    assert {n for n in names if not allowed & {key(d) for d in [n, *known.get(n, [])]}} == set()


# Of everything that some stage may import, what is in memory with all modules of a stage. Their libraries
# bring others, and more where more is installed.
HUB = {"huggingface_hub", "h11"}  # its client of HTTP stands on the second
PAGE = {"fastapi", "h11", "httpx", "python_multipart", "starlette", "uvicorn"}  # Gradio's
TORCH = {"torch", "timm", "triton", "safetensors"} | HUB
MAY_LOAD = {
    "jepack": (
        modules("jepack", OF_TORCH - {"checks"} | {"sigreg", "probing"}),  # with scikit-learn
        COMMAND | {"safetensors", "pydantic"} | HUB,
    ),
    "training": (
        modules("training"),
        COMMAND | TORCH | {"training", "cv2", "sklearn", "scipy", "pyarrow"},
    ),
    "export": (modules("export", {"picture"}), COMMAND | TORCH | {"export", "onnx", "onnxruntime"}),
    "app": (
        f"{modules('app')}\nimport lancedb",
        MAY_IMPORT["app"] - {"cleanlab", "selenium", "umap"}
        | {"app", "pydantic", "safetensors", "scipy"}
        | HUB
        | PAGE,
    ),
}
HEAVY = {"transformers", "sentence_transformers", "tensorflow", "jax", "sklearn", "scipy"}


@pytest.mark.parametrize("stage", MAY_LOAD)
def test_a_stage_loads_no_library_of_another(stage: str) -> None:
    code, allowed = MAY_LOAD[stage]
    watched = {*MAY_IMPORT, *HEAVY}.union(*MAY_IMPORT.values()) - {"packaging"}  # many bring it
    assert loaded(code) & watched - allowed == set()

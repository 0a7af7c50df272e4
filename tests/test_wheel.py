"""What pip installs: the whole tool, in an environment and a folder that know nothing of the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from jepack.cli import COMMANDS
from jepack.stages import EXTRAS, STAGES

ROOT = Path(__file__).parents[1]
CARRIED = (*STAGES, "model_repository", "docs")
pytest.importorskip("build", reason="needs the dev extra: make install")
pytest.importorskip("hatchling", reason="needs the dev extra: make install")

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def done(*words: str | Path, **options: object) -> str:
    found = subprocess.run(
        [*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )  # type: ignore[call-overload]
    assert found.returncode == 0, found.stdout[-4000:]
    return str(found.stdout)


def build(folder: Path, *words: str) -> Path:
    done(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, *words, ROOT)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `pip install .` does, straight from the tree."""
    return build(tmp_path_factory.mktemp("wheel"), "--wheel")


def held(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_tool_and_no_other(wheel: Path, tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing says which files there are")
    asked = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "jepack", *CARRIED)
    wanted = {
        name if name.startswith("jepack/") else f"jepack/_stages/{name}"
        for name in done(*asked, cwd=ROOT).splitlines()
        if (ROOT / name).is_file() and not name.startswith("docs/img/")
    }
    assert "jepack/_stages/model_repository/embed/1/model.py" in wanted
    assert held(wheel) == wanted
    assert held(build(tmp_path)) == wanted  # from the sdist, as `python -m build` does


def install(wheel: Path, folder: Path) -> Path:
    """An empty environment with the wheel alone; gives its site-packages."""
    done(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    done(*pip, "--disable-pip-version-check", wheel)
    [site] = (folder / "lib").glob("python*/site-packages")
    return site


def command(environment: Path, work: Path) -> Command:
    """Runs a program of the environment in a folder that is not the checkout."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    known |= {"JEPACK_CACHE": str(work / "cache"), "COLUMNS": "80"}
    known.pop("JEPACK_TRITON_VENV", None)

    def run(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [environment / "bin" / program, *words], cwd=work, env=known, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    return run


def link_libraries(site: Path, extra: str = "") -> None:
    """What an installation brings, with one extra or with none, and no other library, as links."""
    [wheel] = metadata.distributions(path=[str(site)])
    left, seen = [(line, extra) for line in wheel.requires or ()], set()
    while left:
        line, chosen = left.pop()
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": chosen}):
            continue
        found = wheel if wanted.name == "jepack" else metadata.distribution(wanted.name)
        for chosen in ("", *wanted.extras):
            if (wanted.name, chosen) not in seen:
                seen.add((wanted.name, chosen))
                left += [(line, chosen) for line in found.requires or ()]
        for name in {path.parts[0] for path in found.files or () if path.parts[0] != ".."}:
            if name != "__pycache__" and not (site / name).exists():
                (site / name).symlink_to(Path(str(found.locate_file(name))).resolve())


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The wheel without any extra, in a folder that has an `app` and a `training` of its own."""
    folder = tmp_path_factory.mktemp("bare")
    link_libraries(install(wheel, folder / "environment"))
    work = folder / "work"
    for name in ("app", "training"):
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text("raise RuntimeError('a file of the user')\n")
    (work / "photos").mkdir()
    Image.new("L", (32, 32), 9).save(work / "photos" / "a.png")
    return command(folder / "environment", work)


def test_help_needs_no_extra(bare: Command) -> None:
    for program, *words in (["jepack"], ["python", "-m", "jepack"]):
        shown = bare(program, *words, "--help")
        assert shown.returncode == 0, shown.stdout
        assert all(f"\n  {name} " in shown.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("train photos", "train"),
        ("probe random:resnet18 --data photos", "train"),
        ("export bundle", "export"),
        ("app index", "app"),
        ("push bundle me/bundle", "hub"),
    ],
)
def test_what_a_stage_lacks_is_said_with_its_extra(bare: Command, words: str, extra: str) -> None:
    found = bare("python", "-m", "jepack", *words.split())
    assert found.returncode == 7, found.stdout
    assert re.search(
        rf"which is not installed\. Install it: pip install 'jepack\[{extra}\]'", found.stdout
    )
    assert "Traceback" not in found.stdout


def test_the_doctor_says_where_the_installed_package_keeps_its_server(bare: Command) -> None:
    report = json.loads(bare("jepack", "doctor", "--json").stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert "installed: " in checks["jepack"]["found"]
    assert str(ROOT) not in json.dumps(checks)
    assert checks["torch"]["mend"] == "pip install 'jepack[train]'"
    if checks["triton"]["mend"] != "serve in the NGC container":
        assert re.search(r"/cache/jepack/triton-[0-9a-f]{8}$", checks["triton"]["found"])
    assert "…" not in bare("jepack", "doctor").stdout  # in a narrow window, too


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_an_extra_brings_all_that_its_stage_imports(
    wheel: Path, tmp_path: Path, stage: str
) -> None:
    link_libraries(install(wheel, tmp_path / "environment"), EXTRAS.get(stage, stage))
    code = (
        "import importlib, pkgutil, sys\n"
        "from jepack import stages; stages.put_on_path()\n"
        f"package = importlib.import_module({stage!r})\n"
        "for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    if not found.name.endswith('__main__'): importlib.import_module(found.name)\n"
        "print(package.__file__)"
    )
    found = command(tmp_path / "environment", tmp_path)("python", "-c", code)
    assert found.returncode == 0, found.stdout
    assert found.stdout.strip().endswith(f"/jepack/_stages/{stage}/__init__.py")


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(1800)
def test_the_whole_way_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Real solar cells through every stage; the server's environment is made on the way.

    The libraries are those of this environment, whose own jepack stays out of reach.
    """
    pytest.importorskip("elpv_dataset", reason="needs the demo extra")
    # The user's own repository around it all, whose commit is not jepack's.
    done("git", "init", "-q", tmp_path)
    nobody = ("-c", "user.name=a", "-c", "user.email=a", "-c", "core.hooksPath=/dev/null")
    done("git", "-C", tmp_path, *nobody, "commit", "-q", "--allow-empty", "-m", "mine")
    site = install(wheel, tmp_path / "environment")
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    (tmp_path / "work").mkdir()
    run = command(tmp_path / "environment", tmp_path / "work")

    def said(*words: str) -> str:
        found = run(*words)
        assert found.returncode == 0, found.stdout[-4000:]
        print(f"$ {' '.join(words)}\n{found.stdout}")  # pytest -s shows it
        return found.stdout

    assert said("python", "-c", "import jepack; print(jepack.__file__)").startswith(str(site))
    told = said("jepack", "quickstart", "--no-app", "--minutes", "1", "--triton-port", "0")
    assert "first, at distance 0.00000" in told
    [server] = (tmp_path / "work" / "cache" / "jepack").glob("triton-*")
    assert (server / "jepack-environment.json").is_file()
    manifest = json.loads((tmp_path / "work/runs/solar/bundle/manifest.json").read_text())
    assert manifest["provenance"]["commit"] is None
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "jepack")
    dry = ("train", "runs/data/solar", "--recipe", "quickstart", "--device", "cpu", "--dry-run")
    assert "needed per rank" in said("python", *ranks, *dry)
    code = (
        "from jepack import stages; stages.put_on_path()\n"
        "from app.lance import open_index; print(open_index('runs/solar/index').info.count)"
    )
    assert said("python", "-c", code).strip() == "2624"

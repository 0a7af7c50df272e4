"""What a machine needs for jepack: a function for each line of `jepack doctor`'s report."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from packaging.requirements import Requirement

from jepack import __version__, stages
from jepack.machine import loopback, shared_memory, threads

# The libraries that a stage stands on; their floors and extras are the package's own metadata.
PACKAGES = (
    "numpy", "pillow", "torch", "timm", "onnx", "onnxruntime", "tritonclient", "huggingface-hub",
    "gradio", "lancedb",
)  # fmt: skip
EXTRA = re.compile(r"extra == ['\"]([\w-]+)")
# What reads each extra's images, here and in the server.
DECODERS = {
    "tiff": ("tifffile", "imagecodecs"),
    "dicom": ("pydicom", "imagecodecs"),
    "fits": ("astropy",),
    "heic": ("pillow_heif",),
}
BY_CHOICE = ("heic",)  # an extra of its own, in neither `formats` nor `all`: not missed
PORTS = {
    8000: "Triton HTTP",
    8001: "Triton gRPC",
    8002: "Triton metrics",
    8080: "the gateway",
    7860: "the page",
}
DISK_GB = 10.0


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: str  # ok, warn or fail
    found: str
    mend: str = ""


def examine() -> Iterator[Check]:
    """Every line, from Python to the disk."""
    yield check_python()
    yield check_jepack()
    for requirement, extra in requirements():
        yield check_package(requirement, extra)
    yield check_gpu()
    yield check_compiler()
    yield check_triton()
    yield check_formats()
    yield check_browser()
    yield check_loopback()
    yield check_shared_memory()
    for port, use in PORTS.items():
        yield check_port(port, use)
    yield check_disk(Path.cwd())


def check_python() -> Check:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info >= (3, 13):
        return Check("python", "warn", python, "tested on 3.10 to 3.12")
    return Check("python", "ok", python)


def check_jepack() -> Check:
    kind = "checkout" if stages.checkout() else "installed"
    return Check("jepack", "ok", f"{__version__}, {kind}: {stages.checkout() or stages.PACKAGE}")


def requirements() -> Iterator[tuple[Requirement, str]]:
    """What jepack's metadata asks of PACKAGES, with the smallest extra that asks it ("" for none)."""
    lines = importlib.metadata.requires("jepack") or []
    asking = [(Requirement(line), EXTRA.search(line)) for line in lines]
    pairs = [(one, extra.group(1) if extra else "") for one, extra in asking]
    sizes = Counter(extra for _, extra in pairs)
    for package in PACKAGES:
        yield min((pair for pair in pairs if pair[0].name == package), key=lambda p: sizes[p[1]])


def check_package(requirement: Requirement, extra: str) -> Check:
    package = requirement.name
    install = f"pip install 'jepack[{extra}]'" if extra else f"pip install -U {package}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "onnxruntime" and installed("onnxruntime-gpu"):
            return Check(package, "ok", "onnxruntime-gpu")
        return Check(package, "fail", "not installed", install)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(package, "fail", f"{version}, needs {requirement.specifier}", install)
    return Check(package, "ok", version)


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_gpu() -> Check:
    try:
        import torch
    except ImportError:
        return Check(
            "gpu", "warn", "unknown, torch is not installed", "pip install 'jepack[train]'"
        )
    if torch.cuda.is_available():
        return Check(
            "gpu", "ok", f"{torch.cuda.get_device_name(0)}, torch CUDA {torch.version.cuda}"
        )
    if shutil.which("nvidia-smi"):
        return Check(
            "gpu", "warn", "a driver, but torch cannot use it", "install a CUDA build of torch"
        )
    return Check("gpu", "ok", f"none; {threads.cores()} CPU cores are used")


def check_compiler() -> Check:
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        if name and shutil.which(name):
            return Check("compiler", "ok", str(shutil.which(name)))
    return Check(
        "compiler", "warn", "no C++ compiler", "runs uncompiled; apt-get install g++ is faster"
    )


def check_triton() -> Check:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return Check(
            "triton", "warn", "no local binary for this machine", "serve in the NGC container"
        )
    folder = stages.server_environment()
    binary = next(
        folder.glob("lib/python*/site-packages/pytriton/tritonserver/bin/tritonserver"), None
    )
    if binary is None:
        return Check(
            "triton",
            "warn",
            f"not in {folder}",
            "the first jepack serve makes it (150 MB to download)",
        )
    return Check("triton", "ok", str(binary))


def check_formats() -> Check:
    """Which images beyond Pillow's are read here, and by the local server, whose libraries are its own."""
    missing = [
        extra
        for extra, names in DECODERS.items()
        if extra not in BY_CHOICE and not all(map(installed, names))
    ]
    readable = "all" if not missing else f"all but {', '.join(missing)}"
    mends = [f"pip install 'jepack[{','.join(missing)}]'"] if missing else []
    lacks = lacking_in_server()
    if lacks:
        readable += f"; the server lacks {', '.join(lacks)}"
        mends.append("the next jepack serve adds them")
    return Check("formats", "warn" if lacks else "ok", readable, "; ".join(mends))


def lacking_in_server() -> list[str]:
    """Decoders installed here that the local server's environment was made without."""
    try:
        pins = json.loads((stages.server_environment() / "jepack-environment.json").read_text())[
            "pins"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # not made yet: it will have them
    held = {re.split(r"[<=>~!]", pin)[0].replace("-", "_") for pin in pins}
    names = dict.fromkeys(name for names in DECODERS.values() for name in names)
    return [name for name in names if installed(name) and name not in held]


def check_browser() -> Check:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium and shutil.which("chromedriver"):
        return Check("browser", "ok", chromium)
    return Check(
        "browser",
        "warn",
        "no Chromium with its driver",
        "tests: apt-get install chromium chromium-driver",
    )


class Answer(BaseHTTPRequestHandler):
    """A word for whoever asks."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def check_loopback() -> Check:
    """Ask a server of our own on this machine, as the client and the page do."""
    proxies = loopback.proxy_variables()
    told = f", past the proxy of {', '.join(proxies)}" if proxies else ""
    try:
        with HTTPServer((loopback.HOST, 0), Answer) as server:
            threading.Thread(target=server.handle_request, daemon=True).start()
            loopback.open_url(f"http://{loopback.HOST}:{server.server_port}", 10).close()
    except OSError as error:
        return Check(
            "loopback",
            "fail",
            f"{loopback.HOST} does not answer: {error}",
            "server, client and page talk over it; bring the interface lo up",
        )
    return Check("loopback", "ok", f"{loopback.HOST} answers{told}")


def check_shared_memory() -> Check:
    """What Triton's model processes exchange images through."""
    room = shared_memory.room()
    if room is None:
        return Check("shared memory", "ok", "none here; a local Triton would need it")
    free = f"{room / 1e6:,.0f} MB free in {shared_memory.PLACE}"
    if shared_memory.too_small():
        return Check("shared memory", "fail", f"{free}, Triton cannot start", shared_memory.MEND)
    if shared_memory.tight():
        return Check(
            "shared memory", "warn", f"{free}, too little for large files", shared_memory.MEND
        )
    return Check("shared memory", "ok", free)


def check_port(port: int, use: str) -> Check:
    try:
        loopback.hold(port).close()
    except OSError as error:
        reason = "taken" if error.errno == errno.EADDRINUSE else f"{error.strerror}"
        return Check(f"port {port}", "warn", f"{reason} ({use})", "choose another, or 0 for any")
    return Check(f"port {port}", "ok", f"free ({use})")


def check_disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB:
        return Check(
            "disk", "warn", f"{free:.1f} GB free", f"an installation takes {DISK_GB:.0f} GB"
        )
    return Check("disk", "ok", f"{free:.0f} GB free")

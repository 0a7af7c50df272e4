"""Shared pieces: a small real encoder and its bundle, made once per session."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jepack.machine import locks, loopback, threads

# One thread each, also for what the tests start: bits are promised for a fixed number, and the suite runs in
# a process per core. Tests of the choice of threads set their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
threads.calm()  # as a command does, before numpy and torch are loaded: a busy machine is no slow one

from small_bundle import write_digits, write_small_bundle  # noqa: E402

from app import screenshot  # noqa: E402
from jepack import bundle as bundles  # noqa: E402
from jepack.bundle import Bundle  # noqa: E402

screenshot.WAIT_S = 300  # a browser beside twenty other processes

OURS = ("jepack", "training", "export", "serving", "app")

# A script's background job ignores Ctrl-C, and so would every command that the tests start and stop by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the tests themselves ask on this machine, a browser's driver included, passes a proxy by.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join([*filter(None, [os.environ.get(name)]), *loopback.NAMES])


# Files that take minutes with few tests: begun last, one of them would be waited for alone.
LONG_FILES = (
    "test_quickstart.py",
    "test_triton.py",
    "test_ranks.py",
    "test_deploy.py",
    "test_page.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which `make test` gives files to its processes: long ones, then those of many tests."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONG_FILES, -tests[item.path]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """A failure whose text holds a name that is not UTF-8 is told; sent as it is, it ends the whole run."""
    report = yield
    text = str(report.longrepr or "")
    sound = text.encode(errors="backslashreplace").decode()
    if report.failed and sound != text:
        report.longrepr = sound
    return report


@pytest.fixture(autouse=True)
def loggers_still_speak() -> Iterator[None]:
    """A test that silences loggers fails itself, not one that comes later in the same process."""
    yield
    made = logging.root.manager.loggerDict.items()
    silent = [name for name, one in made if isinstance(one, logging.Logger) and one.disabled]
    for name in silent:
        logging.getLogger(name).disabled = False
    assert not [name for name in silent if name.split(".")[0] in OURS], (
        "a test silenced our loggers"
    )


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A new folder that `make` has filled, for all processes of this run of the tests."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / f"shared-{name}", root / f".{name}.made"
    with locks.alone(root / f".{name}.lock", "elsewhere"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy the folder before changing it."""
    return made_once(tmp_path_factory, "digits", write_digits)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Bundle:
    """A verified bundle without exports. Shared: copy the folder before changing it."""

    def make(folder: Path) -> None:
        write_small_bundle(folder / "bundle", digits_folder)

    return bundles.load(made_once(tmp_path_factory, "small", make) / "bundle")


@pytest.fixture(scope="session")
def exported_bundle(
    tmp_path_factory: pytest.TempPathFactory, small_bundle: Bundle, digits_folder: Path
) -> Bundle:
    """The small bundle with onnx/model.onnx and torchscript/model.pt. Shared: copy before changing."""

    def make(folder: Path) -> None:
        from export.run import export_bundle

        shutil.copytree(small_bundle.folder, folder / "bundle")
        bundle = Bundle(folder / "bundle", small_bundle.manifest)
        export_bundle(bundle, data=digits_folder, timing=False)

    return bundles.load(made_once(tmp_path_factory, "exported", make) / "bundle")


@pytest.fixture(scope="session")
def triton_server(
    tmp_path_factory: pytest.TempPathFactory, exported_bundle: Bundle
) -> Iterator[Any]:
    """The real tritonserver with the small bundle, on free ports. Mark the test `triton`."""
    from serving.server import TritonServer

    log = tmp_path_factory.mktemp("triton") / "tritonserver.log"
    with TritonServer(
        exported_bundle, http_port=0, grpc_port=0, metrics_port=0, log_file=log
    ) as server:
        yield server


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's limits as if they were 10,000 pixels."""
    from jepack.decoding import deep, pictures, tiff
    from jepack.sources import oversize

    served = deep.Limits(20_000, 10_000, 60_000)
    for module in (deep, oversize):
        monkeypatch.setattr(module, "SERVED", served)
    for function in (pictures.open_picture, tiff.open_tiff):
        monkeypatch.setattr(
            function, "__kwdefaults__", {**function.__kwdefaults__, "limits": served}
        )
    monkeypatch.setattr(oversize, "FIT_PIXELS", 6_000)
    monkeypatch.setattr(oversize, "FIT_BYTES", 18_000)

"""The server's environment: made once, never half, and refusing with a mend."""

from __future__ import annotations

import platform
import socket
from pathlib import Path

import PIL
import pytest

from jepack.commands import checks
from jepack.errors import ConfigError, DependencyError
from serving import environment
from serving.environment import MARKER, ensure_server_environment, pins, wanted


def test_pixels_agree_because_pillow_is_the_same_and_numpy_is_below_2() -> None:
    assert f"pillow=={PIL.__version__}" in pins()
    assert any(pin.startswith("numpy==1.") for pin in pins())


def test_the_server_gets_the_decoders_that_training_has() -> None:
    pytest.importorskip("pydicom")
    pytest.importorskip("imagecodecs")
    assert [pin for pin in pins() if pin.startswith("pydicom==3")]
    assert "imagecodecs" in pins()  # the newest that still goes with NumPy 1
    named = {name for names in checks.DECODERS.values() for name in names}
    assert named == set(environment.FORMATS)


def test_doctor_tells_what_the_server_cannot_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPACK_TRITON_VENV", str(tmp_path))
    monkeypatch.setattr(checks, "installed", lambda name: name not in ("astropy", "pillow_heif"))
    assert checks.check_formats().found == "all but fits"
    old = ["numpy==1.26.4", "tifffile==2026.3.3", "imagecodecs"]
    environment.write_json(tmp_path / MARKER, {"pins": old})
    check = checks.check_formats()
    assert (check.state, check.found) == ("warn", "all but fits; the server lacks pydicom")
    assert check.mend == "pip install 'jepack[fits]'; the next jepack serve adds them"


@pytest.mark.triton
def test_a_complete_environment_is_used_as_it_is() -> None:
    made = ensure_server_environment()
    marker = made.folder / MARKER
    before = marker.stat().st_mtime_ns
    again = ensure_server_environment()
    assert again == made
    assert marker.stat().st_mtime_ns == before
    stub = made.backends / "python" / "triton_python_backend_stub"
    assert stub.is_file()
    assert (made.backends / "python" / "libtriton_python.so").is_file()


def test_without_a_network_the_error_says_what_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        with pytest.raises(DependencyError, match="PIP_INDEX_URL"):
            ensure_server_environment(tmp_path / "venv")
    assert not (tmp_path / "venv" / MARKER).exists()


def test_an_interrupted_environment_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "venv"
    (folder / "lib").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("")
    built = []
    monkeypatch.setattr(
        environment, "build_environment", lambda folder, console: built.append(folder)
    )
    ensure_server_environment(folder)
    assert built == [folder]
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_changed_pins_make_it_again_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyvenv.cfg").write_text("")
    environment.write_json(tmp_path / MARKER, {**wanted(), "pins": ["pillow==1.0"]})
    built = []
    monkeypatch.setattr(
        environment, "build_environment", lambda folder, console: built.append(folder)
    )
    ensure_server_environment(tmp_path)
    assert built == [tmp_path]
    assert f"+ pillow=={PIL.__version__}" in capsys.readouterr().err.replace("\n", " ")


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="left alone"):
        ensure_server_environment(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("found", "name", "text"),
    [
        ("aarch64", "machine", "x86-64"),
        (("glibc", "2.31"), "libc_ver", "glibc 2.31"),
        (("", ""), "libc_ver", "another C library"),
    ],
)
def test_a_platform_that_cannot_run_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: object, name: str, text: str
) -> None:
    monkeypatch.setattr(platform, name, lambda: found)
    with pytest.raises(DependencyError, match=text) as refusal:
        ensure_server_environment(tmp_path / "venv")
    assert "docs/serving.md" in str(refusal.value)
    assert not (tmp_path / "venv").exists()

"""Whatever is wrong with one image, it is left out by name; a command ends only when all of them fail."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_bundle import write_digits

from export.evaluation import find_evaluation
from jepack.bundle import Bundle
from jepack.client import Client, Endpoint, address_of, synchronous
from jepack.client.failures import RequestError
from jepack.client.over_grpc import GrpcDoor
from jepack.client.wire import Answer
from jepack.decoding import preprocess
from jepack.errors import DataError, DecoderError, DependencyError, ServerError, listed
from jepack.sources import find_images
from training.commands.inspect import inspect
from training.commands.probe import read_labelled
from training.commands.scores import probe
from training.commands.views import views
from training.commands.wrapping import readable
from training.data import open_cache

FAULTS = [
    MemoryError(),
    RuntimeError("a codec's own error"),
    DependencyError("these images need speclib. Install it: pip install 'jepack[spec]'"),
]
WORDS = ["needs more memory", "a codec's own error", "need speclib"]


@pytest.fixture(params=range(3), ids=["memory", "codec", "library"])
def fault(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes decoding fail for files of 7 x 7 px; words of the reason."""
    opened = preprocess.open_image

    def failing(source: Any, *args: Any, **options: Any) -> Any:
        found = opened(source, *args, **options)
        if isinstance(found, Image.Image) and found.size == (7, 7):
            raise FAULTS[request.param]
        return found

    monkeypatch.setattr(preprocess, "open_image", failing)
    return WORDS[request.param]


def odd_png() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (7, 7), 9).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = write_digits(tmp_path / "digits", 60)
    first = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    (first / "odd.png").write_bytes(odd_png())
    return folder


def test_training_leaves_it_out(fault: str, data: Path, tmp_path: Path) -> None:
    cache = open_cache(data, side=8, channels=1, root=tmp_path / "cache", max_bad=0.1)
    [(name, reason)] = cache.bad
    assert name.endswith("odd.png")
    assert fault in reason
    assert len(cache) == 60


def test_inspect_and_views_leave_it_out(
    fault: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    (few / "odd.png").write_bytes(odd_png())
    (few / "sound.png").write_bytes(next(data.rglob("*0.png")).read_bytes())
    inspect(few, max_bad=0.6, sheet=tmp_path / "sheet.png", as_json=True)
    [(name, reason)] = json.loads(capsys.readouterr().out)["bad"].items()
    assert (name.endswith("odd.png"), fault in reason) == (True, True)
    views(few, out=tmp_path / "views.png", images=2, global_views=1, local_views=0, size=16)
    assert (tmp_path / "views.png").is_file()


@pytest.mark.parametrize("fault", [0], indirect=True)
def test_a_probe_leaves_it_out_and_names_it(
    fault: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe("random:resnet10t", data, size=32, device="cpu", as_json=True)
    told = capsys.readouterr()
    assert json.loads(told.out)["train_images"] + json.loads(told.out)["test_images"] == 60
    assert "1 images left out" in told.err
    assert fault in told.err.replace("\n", " ")


def test_import_and_export_leave_it_out(
    fault: str, data: Path, small_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    files, _ = readable(find_images(data), 1)
    assert len(files) == 60
    found = find_evaluation(small_bundle, data, 100)
    assert 48 <= found.held_out_count <= 60
    assert "images skipped" in capsys.readouterr().err


def test_a_command_whose_images_all_fail_says_why(
    fault: str, tmp_path: Path, small_bundle: Bundle
) -> None:
    for number in range(30):
        (tmp_path / f"{number % 2}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 2}" / f"{number}.png").write_bytes(odd_png())
    for command in (
        lambda: open_cache(tmp_path, side=8, channels=1, root=tmp_path / "cache"),
        lambda: readable(find_images(tmp_path), 1),
        lambda: find_evaluation(small_bundle, tmp_path, 100),
        lambda: views(tmp_path, out=tmp_path / "views.png"),
        lambda: read_labelled(find_images(tmp_path), small_bundle.preprocessing, tmp_path, ["0"]),
    ):
        with pytest.raises(DataError, match=fault):
            command()


def test_a_missing_library_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_preprocess import dicom

    for number in range(5):
        values = np.full((9, 9), number, np.uint16)
        dicom(values).save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert len(find_images(tmp_path, parts=True)) == 5
    with pytest.raises(DataError, match="0.dcm and 4 more: these images need pydicom") as told:
        open_cache(tmp_path, side=8, channels=1, root=tmp_path / "cache")
    assert str(told.value).count("pip install 'jepack[dicom]'") == 1
    with pytest.raises(DecoderError):
        preprocess.decode(tmp_path / "0.dcm", 1)


def test_reasons_that_are_alike_share_a_line() -> None:
    bad = [("a", "torn"), ("b", "empty"), ("c", "torn"), ("d", "d is odd")]
    assert listed(bad).splitlines() == ["  - a and 1 more: torn", "  - b: empty", "  - d: d is odd"]
    assert listed(bad, most=1).splitlines()[1:] == ["  and 2 more"]


class Server(GrpcDoor):
    """Answers as a real server does whose encoder fails on some images, or on all."""

    def __init__(self, broken: bool) -> None:
        super().__init__(address_of("127.0.0.1:9"))
        self.broken = broken

    def describe(self, limit_s: float) -> Any:
        return Endpoint("small", {}, {"embedding": 2, "projection": 1}, 16)

    def send(self, images: Any, outputs: Any, limit_s: float, grace_s: float = 0.0) -> Any:
        if self.broken or b"heavy" in images:
            raise RequestError("127.0.0.1:9: the server failed (internal: out of memory)")
        rows = np.ones((len(images), 2), np.float32)
        return Answer({"embedding": rows, "projection": rows[:, :1]})


def asking(broken: bool, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(synchronous, "door_to", lambda *given: Server(broken))
    return Client("127.0.0.1:9")


def test_an_image_that_the_server_fails_on_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with asking(False, monkeypatch) as client:
        found = client.embed([b"a", b"heavy", b"b", b"c"], skip_bad=True)
    assert "out of memory" in found.errors[1]
    assert found.good.tolist() == [True, False, True, True]


def test_a_server_that_fails_on_every_image_ends_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with asking(True, monkeypatch) as client, pytest.raises(ServerError, match="out of memory"):
        client.embed([b"a", b"b"], skip_bad=True)


def test_a_finished_run_outlives_an_image_that_has_gone(data: Path, tmp_path: Path) -> None:
    look = preprocess.Preprocessing(size=8, channels=1, mean=(0.5,), std=(0.25,))
    cache = open_cache(data, side=8, channels=1, root=tmp_path / "cache")
    whole = cache.original(3, None, look)
    cache.files[3].path.unlink()
    assert np.array_equal(cache.original(3, None, look), whole)

"""Options that would have no effect beside the others are refused: nothing that was asked is passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jepack.cli import app
from jepack.errors import ConfigError

URL = "127.0.0.1:9"
OF_URL = ("--url", URL)


@pytest.mark.parametrize(
    ("words", "why", "names"),
    [
        (("index", "D", "--out", "OUT", "--embeddings", "V", *OF_URL), "nothing is embedded", "--url"),
        (
            ("index", "D", "--out", "OUT", "--embeddings", "V", "--bundle", "B"),
            "takes the vectors from V",
            "--bundle",
        ),
        (("index", "D", "--out", "OUT", "--tile-stride", "8"), "without --tile", "--tile-stride"),
        (("embed", "D", "--out", "OUT", "--tile-stride", "8"), "without --tile", "--tile-stride"),
        (("embed", "D", "--out", "OUT.npz", "--retry-bad"), "written anew", "--retry-bad"),
        (("embed", "D", "--out", "OUT", "--probe", "x"), "not at hand", "--probe"),
        (
            ("embed", "D", "--out", "OUT", "--engine", "local", "--bundle", "B", "--timeout-s", "9"),
            "sends no requests",
            "--timeout-s",
        ),
        (("drift", "B", "V.npz", *OF_URL), "no endpoint is asked", "--url"),
        (("drift", "B", "V.npz", "--model", "m"), "no endpoint is asked", "--model"),
        (("drift", f"http://{URL}", "--in-order", "--chance", ".1"), "its own", "--chance, --in-order"),
        (("isotropy", "V.npz", "--data", "D"), "as it stands", "--data"),
        (("probe", "B", "--data", "D", "--error-rate", "0.2"), "without --keep", "--error-rate"),
        (("probe", "B", "--data", "D", "--size", "64"), "its own size", "--size"),
        (("import", "timm:x", "--data", "D", "--out", "OUT", "--encoder", "x"), "its own", "--encoder"),
        (("inspect", "D", "--window", "p1,p99"), "contact sheet", "--window"),
        (("quickstart", "--data", "D", "--dataset", "solar"), "takes the place", "--dataset"),
        (("quickstart", "--no-app", "--port", "1"), "opens no page", "--port"),
    ],
)  # fmt: skip
def test_it_is_named_with_the_reason_and_nothing_is_done(
    words: tuple[str, ...], why: str, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.zeros((2, 2), np.float32)
    np.savez("V.npz", path=["a", "b"], projection=rows, fingerprint_projection="0" * 16)
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError), done.output
    told = str(done.exception)
    assert why in told
    assert f"no effect of {names}; leave {'them' if ',' in names else 'it'} out" in told
    assert [path.name for path in tmp_path.iterdir()] == ["V.npz"]

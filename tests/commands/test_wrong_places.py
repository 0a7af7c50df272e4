"""A place that is not what a command needs is answered with what would help."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jepack.cli import app
from jepack.errors import JepackError


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        (("isotropy", "photos"), "jepack isotropy BUNDLE --data photos"),
        (("isotropy", "vectors"), "jepack embed DATA --out vectors.npz, then jepack isotropy vectors.npz"),
        (("drift", "photos", "nowhere.parquet"), "Name a bundle: the folder with a manifest.json"),
        (("drift", "nowhere.parquet", "photos"), "Make it: jepack embed IMAGES --out nowhere.parquet"),
        (("app", "photos"), "jepack app BUNDLE --data photos"),
        (("check", "photos"), "jepack index photos --bundle BUNDLE --out INDEX, then jepack check INDEX"),
        (("search", "photos", "a.png"), "jepack index photos --bundle BUNDLE --out INDEX"),
        (("verify", "nowhere"), "Name a bundle: the folder with a manifest.json"),
    ],
)  # fmt: skip
def test_the_error_names_a_command_that_would_do(
    words: tuple[str, ...], helps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "vectors/part-000000.parquet"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"x")
    done = CliRunner().invoke(app, words)
    told = str(done.exception) if isinstance(done.exception, JepackError) else done.output
    assert helps in " ".join(told.split())


def test_a_file_of_embeddings_that_is_not_there_is_told_how_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jepack.commands.drift_sides import given

    monkeypatch.chdir(tmp_path)
    for name in ("nowhere.parquet", "nowhere.npz"):
        with pytest.raises(JepackError, match=f"Make it: jepack embed IMAGES --out {name}"):
            given(name, "127.0.0.1:9", "encoder", 64)

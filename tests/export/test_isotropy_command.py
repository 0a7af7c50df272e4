"""`jepack isotropy` on a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.isotropy import isotropy
from jepack.bundle import Bundle


def test_a_bundle_is_measured_before_and_after_calibration(
    small_bundle: Bundle, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "isotropy.png"
    isotropy(small_bundle.folder, data=digits_folder, picture=picture)
    assert "effective rank" in capsys.readouterr().out
    assert picture.is_file()

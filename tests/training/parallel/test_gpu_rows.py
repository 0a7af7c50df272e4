"""The script for a machine with a GPU, as far as one without can tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.contenders import Missing, lejepa_module, lightly
from benchmarks.gpu import LIMITS
from benchmarks.gpu_rows import ROWS


def test_every_row_has_a_time_limit() -> None:
    assert set(ROWS) == set(LIMITS)


def test_a_contender_that_is_not_there_is_left_out_by_name(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no stable-pretraining"):
        lejepa_module(tmp_path)
    said = lightly(tmp_path, 8, "cpu")
    assert callable(said) or "no lightly" in said

"""How many directions images differ along is judged once, by the share of what there could be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jepack.cli import app


@pytest.mark.parametrize(
    ("live", "dims", "kind", "said"),
    [
        (1, 512, "collapsed", "about one direction of 512: the encoder has collapsed"),
        (2, 64, "few", "about 2 of 64 directions: few for telling images apart"),
        (4, 512, "few", "about 4 of 512 directions, 0.8% of what there could be: few for telling"),
        (4, 64, "fair", "about 4 of 64 directions (effective rank)"),
        (12, 512, "fair", "about 12 of 512 directions (effective rank)"),
    ],
)
def test_isotropy_says_it_in_words_and_in_json(
    live: int, dims: int, kind: str, said: str, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.standard_normal((dims, live)))[0]
    np.save(tmp_path / "x.npy", generator.standard_normal((600, live)) @ turn.T)
    told = CliRunner().invoke(app, ["isotropy", str(tmp_path / "x.npy")]).stdout
    assert f"x: its images differ along {said}" in told
    told = CliRunner().invoke(app, ["isotropy", str(tmp_path / "x.npy"), "--json"]).stdout
    assert json.loads(told)["x"]["breadth"] == kind

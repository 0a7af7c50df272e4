"""torch.compile where there is a compiler, and a clear word where there is none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from training.parallel import compile_in_place


def test_without_a_compiler_it_runs_uncompiled_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    net = nn.Linear(3, 2)
    with caplog.at_level(logging.WARNING):
        assert not compile_in_place(net, torch.device("cpu"))
    assert "apt-get install g++" in caplog.text
    assert net(torch.zeros(1, 3)).shape == (1, 2)


@pytest.mark.slow
def test_a_compiled_module_keeps_its_weights_names_and_answers() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))
    names, x = list(net.state_dict()), torch.randn(5, 3)
    before = net(x)
    assert compile_in_place(net, torch.device("cpu"))
    torch.testing.assert_close(net(x), before)
    assert list(net.state_dict()) == names

"""What a person sees of counted work."""

from __future__ import annotations

import pytest

from jepack.terminal import counter, progress


@pytest.mark.parametrize(
    ("after_s", "seconds", "told"), [(0, 0, True), (2, 1, False), (2, 3, True)]
)
def test_a_counter_is_silent_for_as_long_as_it_was_asked(
    after_s: float,
    seconds: float,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with counter("photos", after_s=after_s) as show:
        show(1, 2)
        now[0] += seconds
        show(2, 2)
    assert ("photos 2/2" in capsys.readouterr().err) == told

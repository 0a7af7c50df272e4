"""`jepack doctor` says what this machine lacks, by the package's own metadata."""

from __future__ import annotations

from importlib import metadata

import pytest

from jepack.commands.checks import PACKAGES, check_package, requirements


def test_floors_are_those_of_the_packages_metadata() -> None:
    lines = metadata.requires("jepack") or []
    for requirement, extra in requirements():
        marker = f"; extra == '{extra}'" if extra else ""
        mine = [line for line in lines if line.startswith(requirement.name)]
        assert any(line.endswith(f"{requirement.specifier}{marker}") for line in mine)
    assert [one.name for one, _ in requirements()] == list(PACKAGES)


@pytest.mark.parametrize(("found", "state"), [("2.3", "fail"), ("2.4", "ok"), ("10.0rc1", "ok")])
def test_a_version_below_the_floor_fails_with_the_line_that_mends_it(
    found: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = next(item for item in requirements() if item[0].name == "huggingface-hub")
    monkeypatch.setattr(metadata, "version", lambda package: found)
    told = check_package(*hub)
    assert told.state == state
    if state == "fail":
        assert told.found == "2.3, needs >=2.4"
        assert told.mend == "pip install 'jepack[hub]'"

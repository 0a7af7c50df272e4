"""`jepack check` finds what was planted, and says so in words, JSON and a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from pixel_embedder import index_digits
from typer.testing import CliRunner

from app.checking.report import Finding, Report
from app.checking.run import check
from app.lance import open_index
from jepack.cli import app as jepack


@pytest.fixture(scope="module")
def report(faulty_index: Path) -> Report:
    return check(open_index(faulty_index))


def told(finding: Finding) -> set[str]:
    return {name for case in finding.cases for name in case.ids}


def test_copies_are_told_as_groups_and_only_they(report: Report) -> None:
    groups = [set(case.ids) for case in report.of("copies").cases]
    assert {"upright/07.png", "upright/copy.png"} in groups
    assert {"lying/11.png", "lying/larger.jpg"} in groups
    assert len(groups) == 2


def test_of_a_group_all_but_one_may_be_left_out(report: Report) -> None:
    for case in report.of("copies").cases:
        assert set(case.extra) == set(case.ids[1:])


def test_wrong_labels_are_told_with_the_right_one(report: Report) -> None:
    cases = {case.ids[0]: case.label for case in report.of("labels").cases}
    assert cases["lying/wrong-50.png"] == cases["lying/wrong-51.png"] == "upright"
    assert set(cases) <= {
        "lying/wrong-50.png",
        "lying/wrong-51.png",
        "lying/even.png",
        "upright/strip.png",
    }


def test_bad_pictures_are_told(report: Report) -> None:
    assert told(report.of("blank")) == {"lying/even.png"}
    assert told(report.of("elongated")) == {"upright/strip.png"}
    assert told(report.of("exposed")) == set()
    assert "lying/even.png" in told(report.of("strange"))


def test_broken_files_are_told_with_their_reason(report: Report) -> None:
    [case] = report.of("broken").cases
    assert case.ids == ("lying/torn.png",)
    assert "truncated" in case.why


def test_without_a_split_leaks_are_not_judged(report: Report) -> None:
    assert "training" in report.of("leaks").skipped
    assert not report.of("leaks").fault


def test_a_copy_on_both_sides_of_a_split_is_a_leak_with_its_price(
    faulty_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for number, image in enumerate(sorted(faulty_folder.glob("*/*.png"))):
        if image.stem in ("torn", "even", "strip"):
            continue
        part = "test" if number % 4 == 0 else "train"
        (data / part / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, data / part / image.parent.name / image.name)
    [one] = list(data.glob("test/*/07.png"))[:1] or [next(data.glob("test/*/*.png"))]
    shutil.copyfile(one, data / "train" / one.parent.name / "twin.png")
    found = check(open_index(index_digits(data, tmp_path / "index"))).of("leaks")
    assert {f"train/{one.parent.name}/twin.png", one.relative_to(data).as_posix()} in [
        set(case.ids) for case in found.cases
    ]
    assert "points" in found.price


def test_clean_data_have_no_copies_and_no_bad_pictures(digits_index: Path) -> None:
    report = check(open_index(digits_index))
    for kind in ("broken", "blank", "elongated"):
        assert report.of(kind).cases == (), kind


def test_the_command_says_it_in_words_and_ends_with_11(faulty_index: Path, tmp_path: Path) -> None:
    page = tmp_path / "check.html"
    done = CliRunner().invoke(jepack, ["check", str(faulty_index), "--html", str(page)])
    assert done.exit_code == 11, done.output
    first = done.stdout.splitlines()[0]
    assert first.startswith("To look at among")
    assert "2 × copies" in first
    html = page.read_text()
    assert "upright/copy.png" in html
    assert "data:image/webp;base64," in html
    assert "http" not in html


def test_json_holds_every_finding(faulty_index: Path) -> None:
    done = CliRunner().invoke(jepack, ["check", str(faulty_index), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 11
    assert [one["kind"] for one in found["findings"]] == [
        "copies", "leaks", "labels", "strange", "broken", "blank", "exposed", "elongated",
    ]  # fmt: skip
    assert found["faults"] >= 6


def test_nothing_found_is_exit_code_0(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, level in enumerate((0, 255)):
        half = Image.new("L", (16, 16), 128)
        half.paste(level, (0, 0, 8 + number, 8))
        half.save(tmp_path / "data" / f"{number}.png")
    index = index_digits(tmp_path / "data", tmp_path / "index")
    done = CliRunner().invoke(jepack, ["check", str(index)])
    assert done.exit_code == 0, done.output
    assert "Nothing to mend" in done.stdout


def test_what_is_no_index_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(jepack, ["check", str(tmp_path)])
    assert done.exit_code != 0
    assert "neither an index" in str(done.exception)

"""The Clean tab: a check, its findings, and what is decided about them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pixel_embedder import index_digits, page_of

from app.desk import Desk
from app.engine import at_endpoint
from app.journal import TAG, Journal
from app.library import Library
from app.screenshot import WAIT_S, wait_for
from app.tabs.clean.answer import Answers, View, first
from jepack.errors import ConfigError


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    """Over a checked index of digits, of which one lies there twice."""
    answers = Answers(Desk(Library(twice(tmp_path)), at_endpoint("127.0.0.1:9")))
    answers.start()
    assert answers._work is not None
    answers._work.wait()
    assert answers._work.problem is None
    return answers


def twice(folder: Path) -> Path:
    from small_bundle import write_digits

    data = write_digits(folder)
    first = sorted(data.glob("*/*.png"))[0]
    shutil.copyfile(first, first.with_name("twin.png"))
    return index_digits(data, folder / "index")


def test_leaving_out_goes_to_the_journal_and_can_be_undone(answers: Answers) -> None:
    [case] = answers.report().of("copies").cases  # type: ignore
    view = answers.act(View(), "leave copies 0")
    assert "1 image" in view.said
    assert set(answers.desk.journal.stands().left_out) == set(case.extra)
    assert "left out" in answers.show(view)[1]
    answers.act(view, "undo")
    assert answers.desk.journal.stands().left_out == {}
    assert Path(answers.desk.library.info.data, case.ids[1]).exists()


@pytest.mark.parametrize(
    "told",
    ["leave copies 99", "leave nothing 0", "relabel copies 0", "delete copies 0", "leave copies"],
)
def test_a_button_that_is_none_changes_nothing(answers: Answers, told: str) -> None:
    with pytest.raises(ConfigError):
        answers.act(View(), told)
    assert answers.desk.journal.actions() == []


def test_of_an_index_that_went_away_nothing_is_checked(answers: Answers) -> None:
    assert answers.checked()
    shutil.rmtree(answers.desk.library.folder)
    assert not answers.checked()
    assert "index is gone" in answers.show(View())[0]


def test_the_first_finding_with_something_in_it_is_shown_first(answers: Answers) -> None:
    report = answers.report()
    assert report is not None
    emptied = tuple(replace(one, cases=()) for one in report.findings)
    assert first(report).kind == "copies"
    assert first(replace(report, findings=emptied)).kind == report.findings[0].kind
    later = (*emptied[:2], *report.findings[2:], report.findings[0])
    assert first(replace(report, findings=later)).cases


def test_a_report_of_an_index_built_anew_is_not_shown(answers: Answers) -> None:
    assert answers.report() is not None
    folder = answers.desk.library.folder
    info = (folder / "index.json").read_text()
    shutil.move(folder / "index.json", folder / "old")
    (folder / "index.json").write_text(info.replace('"created": "2', '"created": "3'))
    assert answers.report() is None


@pytest.mark.browser
def test_a_copy_is_found_left_out_and_taken_back_in_the_browser(
    driver: Any, tmp_path: Path
) -> None:
    index = twice(tmp_path)
    with page_of(index) as url:
        driver.get(url)
        wait_for(driver, "#jp-gallery [data-id]")  # the page answers from then on
        tab = "#jp-tab-clean-button, button[data-tab-id='clean']"
        wait_for(driver, tab)[0].click()
        wait_for(driver, "#jp-clean-go")[0].click()
        until(driver, lambda d: len(d.find_elements("css selector", ".jp-clean-kind")) == 8)
        wait_for(driver, "[data-id='leave copies 0']")[0].click()
        assert "left out" in wait_for(driver, ".jp-clean-mark")[0].text
        until(
            driver, lambda d: "Left out" in d.find_element("css selector", "#jp-clean-found").text
        )
        journal = Journal(index)
        [action] = journal.actions()
        journal.add(TAG, ["of another"], "theirs", session="another's")
        wait_for(driver, "[data-id='undo']")[0].click()
        until(driver, lambda d: not d.find_elements("css selector", ".jp-clean-mark"))
        assert action.session
        assert [one.undone is None for one in journal.actions()] == [False, True]
        wait_for(driver, ".jp-clean-image")[0].click()  # opens in Search
        wait_for(driver, ".jp-query strong")
        # The error path: the index goes away while the page is open.
        wait_for(driver, tab)[0].click()
        index.rename(tmp_path / "elsewhere")
        wait_for(driver, "[data-id='show labels']")[0].click()
        until(
            driver,
            lambda d: "index is gone" in d.find_element("css selector", "#jp-clean-desk").text,
        )


def until(driver: Any, holds: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, WAIT_S).until(holds)

"""The Probe tab: what is labelled is kept, judged, and handed on."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixel_embedder import NobodyThere, index_digits, page_of

from app.desk import Desk
from app.engine import Engine, at_endpoint
from app.journal import LABEL, LEAVE_OUT, Journal
from app.lance import building
from app.library import Library
from app.screenshot import WAIT_S, wait_for
from app.store import IndexInfo, Row
from app.tabs.probe.answer import Answers, Board, View
from app.tabs.probe.bench import Question
from app.thumbnail import make_thumbnail
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ConfigError
from jepack.sources import find_images


@pytest.fixture
def answers(digits_index: Path, tmp_path: Path) -> Answers:
    """Over an index of its own."""
    shutil.copytree(digits_index, tmp_path / "index")
    return Answers(Desk(Library(tmp_path / "index"), at_endpoint("127.0.0.1:9", NobodyThere)))


def at_last(answers: Answers, view: View) -> Board:
    """What is shown when all is known."""
    board, until = answers.show(view), time.monotonic() + 120
    while board.working and time.monotonic() < until:
        time.sleep(0.05)
        board = answers.show(board.view)
    assert not board.working
    return board


def names(answers: Answers) -> dict[str, list[str]]:
    """The images of each folder."""
    found: dict[str, list[str]] = {}
    for name, label in answers.desk.library.catalogue:
        found.setdefault(str(label), []).append(name)
    return found


def test_from_nothing_two_labels_are_enough_for_a_verdict(answers: Answers) -> None:
    view = replace(answers.first(), question=Question(True, ""), what="ask")
    board = at_last(answers, view)
    assert len(board.view.asked) == 12
    assert "Label images of two classes at least" in str(board.verdict)
    images = names(answers)
    board = answers.put(board.view, images["digit-0"], "zero")
    assert "one class: zero" in str(at_last(answers, board.view).verdict)
    board = at_last(answers, answers.put(board.view, images["digit-1"], "one").view)
    # The "encoder" of these tests is the pixels, and the verdict does not take it for better than they are.
    assert "can be told apart, but not surely better than by raw pixels" in str(board.verdict)
    assert "zero taken for" in str(board.table) or 'data-cell="1-1"' in str(board.table)
    # What is asked stays while some of it is open, so that labels can be changed.
    assert set(board.view.asked) - set(images["digit-0"] + images["digit-1"])
    assert answers.desk.journal.stands().labels[images["digit-0"][0]] == "zero"
    board = answers.undo(board.view)
    assert "Undone: relabel “one”" in str(board.bench)
    assert "one class: zero" in str(at_last(answers, board.view).verdict)


def test_a_key_keeps_its_label_when_the_first_image_has_got_it(answers: Answers) -> None:
    view = replace(answers.first(), question=Question(True, ""), what="ask")
    for word in ("zoo", "ant", "zoo"):
        view = answers.add(view, word).view
    for word, folder in (("zoo", "digit-0"), ("ant", "digit-1")):
        board = at_last(answers, answers.put(view, names(answers)[folder], word).view)
        assert re.findall('data-label="(.*?)"', str(board.bench)) == ["zoo", "ant"]


def test_folder_labels_count_until_people_say_otherwise(answers: Answers) -> None:
    images = names(answers)
    first, second = images["digit-0"][:2]
    answers.desk.journal.add(LEAVE_OUT, [second], "smudged")
    board = at_last(answers, answers.put(answers.first(), [first], "digit-9").view)
    found, _ = answers.work.look(board.view.question)
    assert found is not None
    labels = dict(zip(found.ids, found.y_N.tolist(), strict=True))
    assert found.classes[labels[first]] == "digit-9"
    assert labels[second] == -1
    assert [one.kind for one in answers.desk.journal.actions()] == ["leave out", "relabel"]
    assert found.judgement is not None
    assert found.judgement.random is not None
    doubted = str(at_last(answers, replace(board.view, what="doubt")).bench)
    assert f'data-image="{first}"' in doubted


def test_a_cell_of_the_table_opens_its_images_here_and_in_all_tabs(answers: Answers) -> None:
    board = at_last(answers, answers.first())
    found, _ = answers.work.look(board.view.question)
    assert found is not None
    assert found.judgement is not None
    board, selection = answers.cell(board.view, "0-0")
    assert selection is not None
    assert len(selection.ids) == found.judgement.confusion[0, 0]
    assert selection.said == "digit-0 taken for digit-0"
    assert all(f'data-image="{name}"' in str(board.bench) for name in selection.ids[:12])


def test_the_labels_that_are_written_are_read_by_find_images(answers: Answers) -> None:
    images = names(answers)
    answers.put(answers.first(), images["digit-3"], "three")
    told = answers.write(answers.first())
    path = answers.desk.library.folder.with_name("index.labels.csv")
    assert str(path.name) in told
    labels = {image.path.name: image.label for image in find_images(path)}
    assert len(labels) == answers.desk.library.store.count()
    assert {labels[Path(name).name] for name in images["digit-3"]} == {"three"}
    assert path.with_name("index.actions.parquet").is_file()


def test_an_index_built_again_keeps_what_people_said(
    digits_folder: Path, answers: Answers, tmp_path: Path
) -> None:
    name = names(answers)["digit-0"][0]
    answers.desk.journal.add(LABEL, [name], "mine")
    index_digits(digits_folder, tmp_path / "index")
    assert Journal(tmp_path / "index").stands().labels == {name: "mine"}


@pytest.fixture
def with_bundle(small_bundle: Bundle, digits_folder: Path, tmp_path: Path) -> Answers:
    """A page with its bundle at hand; the vectors are two clouds, in the bundle's space."""
    shutil.copytree(small_bundle.folder, tmp_path / "bundle")
    bundle = bundles.load(tmp_path / "bundle")
    width = bundle.dimensions["embedding"]
    fingerprint = bundle.fingerprints["embedding"]
    info = IndexInfo(
        name="clouds", output="embedding", dimension=width, fingerprint=fingerprint, data=str(digits_folder)
    )  # fmt: skip
    generator = np.random.default_rng(0)
    with building(tmp_path / "clouds", info) as store:
        store.upsert(
            [
                Row(
                    id=f"{at}.png", label="ab"[at % 2], thumbnail=thumbnail(digits_folder),
                    vector=(generator.normal(size=width) + 4 * (at % 2)).astype(np.float32),
                )
                for at in range(60)
            ],
            fingerprint=fingerprint,
        )  # fmt: skip
    engine = Engine("127.0.0.1:9", NobodyThere, bundle)
    return Answers(Desk(Library(tmp_path / "clouds"), engine))


def thumbnail(folder: Path) -> bytes:
    return make_thumbnail(find_images(folder)[0].path.read_bytes())


def test_a_probe_that_is_kept_answers_from_the_bundle_as_on_the_page(with_bundle: Answers) -> None:
    view = with_bundle.first()
    with pytest.raises(ConfigError, match="not judged yet"):
        with_bundle.keep(view, "halves")
    board = at_last(with_bundle, view)
    with_bundle.keep(board.view, "halves")
    bundle = with_bundle.desk.engine.bundle
    assert bundle is not None
    kept = bundles.load(bundle.folder).probe("halves")
    found, _ = with_bundle.work.look(board.view.question)
    assert found is not None
    assert found.shares_NC is not None
    assert np.allclose(kept.probabilities(found.x_ND), found.shares_NC, atol=1e-4)
    assert kept.classes == ("a", "b")
    assert kept.figures["accuracy"] == 1.0
    assert kept.figures["labels"] == 60
    assert kept.error_rate == 0.1
    with_bundle.keep(board.view, "again")
    assert bundles.load(bundle.folder).probes == ["again", "halves"]
    with pytest.raises(ConfigError, match="cannot name a probe"):
        with_bundle.keep(board.view, "../halves")
    with pytest.raises(ConfigError, match="needs a name: give it one"):
        with_bundle.keep(board.view, " ")


def open_tab(driver: Any, url: str) -> None:
    from selenium.webdriver.common.by import By

    driver.get(url)
    wait_for(driver, "#jp-gallery [data-id]")
    [tab] = [
        one
        for one in driver.find_elements(By.CSS_SELECTOR, "button[role=tab]")
        if one.text == "Probe"
    ]
    tab.click()
    wait_for(driver, ".jp-probe-one")


def until(driver: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, WAIT_S).until(lambda d: d.execute_script(f"return {script}"))


def press(driver: Any, key: str) -> None:
    from selenium.webdriver.common.by import By

    driver.find_element(By.TAG_NAME, "body").send_keys(key)


@pytest.mark.browser
def test_labels_are_given_by_clicks_and_keys_and_outlive_the_page(
    driver: Any, digits_index: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    shutil.copytree(digits_index, index)
    text = "document.querySelector('#jp-probe-bench').innerText"
    with page_of(index) as url:
        open_tab(driver, url)
        wait_for(driver, "#jp-probe-start input")[1].click()  # people here alone
        until(driver, f"{text}.includes('Each stands for a group')")
        for number, word in enumerate(("round", "other"), 1):
            wait_for(driver, "#jp-probe-label textarea, #jp-probe-label input")[0].send_keys(
                word + "\n"
            )
            until(
                driver,
                f"document.querySelectorAll('#jp-probe-bench [data-label]').length == {number}",
            )
        driver.execute_script("document.activeElement.blur()")
        press(driver, "1")  # nothing is chosen
        until(driver, f"{text}.includes('Choose images first')")
        for key, places in (("1", (0, 1, 2)), ("2", (3, 4, 5, 6))):
            images = wait_for(driver, "#jp-probe-bench [data-image]", count=12)
            ids = [images[at].get_attribute("data-image") for at in places]
            for at in places:
                images[at].click()
            until(driver, f"{text}.includes('{len(places)} chosen')")
            driver.execute_script("document.activeElement.blur()")
            press(driver, key)
            until(driver, f"{text}.includes('none chosen')")
            labels = Journal(index).stands().labels
            until(driver, f"document.querySelectorAll('.jp-probe-own').length == {len(labels)}")
            assert set(ids) <= set(labels)
        until(driver, "document.querySelector('#jp-probe-told h3') !== null")
        until(driver, "document.querySelector('#jp-probe-mix-ups [data-cell]') !== null")
        press(driver, "u")
        until(driver, f"{text}.includes('Undone: relabel “other”, 4 images')")
        assert sorted(Journal(index).stands().labels.values()) == ["round"] * 3
        wait_for(driver, "#jp-probe-name textarea, #jp-probe-name input")[0].send_keys("mine")
        wait_for(driver, "#jp-probe-keep button")[0].click()
        until(driver, "document.querySelector('#jp-probe-kept .jp-note') !== null")
    with page_of(index) as url:
        open_tab(driver, url)
        wait_for(driver, "#jp-probe-bench [data-show=mine]")[0].click()
        until(driver, f"{text}.includes('3 images, the newest first')")

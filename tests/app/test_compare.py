"""Several encoders on the same images: which are the same, what each finds, and whether they differ."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixel_embedder import running
from typer.testing import CliRunner

from app.asking import Asked
from app.desk import Desk
from app.engine import at_endpoint
from app.lance import open_index
from app.library import Library
from app.opening import open_paths
from app.screenshot import WAIT_S, wait_for
from app.shell import find_tabs
from app.store import Row
from app.tabs.compare import pieces
from app.tabs.compare.answer import Answers
from app.tabs.compare.matching import Matching, match, pairs_of
from app.tabs.compare.measuring import Gap, compare, figured, overlap
from app.work import Work
from jepack.cli import app as jepack
from jepack.errors import ConfigError

LONG = 300  # s, on a machine however busy
CONSOLE: Any = None


@pytest.fixture(scope="module")
def noise_index(tmp_path_factory: pytest.TempPathFactory, digits_index: Path) -> Path:
    """The digits by an encoder that sees nothing: vectors at random."""
    out = tmp_path_factory.mktemp("noise") / "noise"
    shutil.copytree(digits_index, out)
    (out / "scale.json").unlink(missing_ok=True)
    store = open_index(out)
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for part in store.scan():
        rows += store.get([row.id for row in part])
    store.upsert(
        [
            Row(
                id=row.id,
                label=row.label,
                thumbnail=row.thumbnail,
                vector=rng.standard_normal(64).astype(np.float32),
            )
            for row in rows
        ],
        fingerprint=store.info.fingerprint,
    )
    return out


def desk_of(*indexes: Path) -> Desk:
    engine = at_endpoint("127.0.0.1:9")
    first, *others = (Desk(Library(index), engine) for index in indexes)
    return Desk(first.library, engine, others)


def test_the_tab_is_there_where_there_is_more_than_one(
    digits_index: Path, noise_index: Path
) -> None:
    assert "compare" not in find_tabs(desk_of(digits_index))
    assert "compare" in find_tabs(desk_of(digits_index, noise_index))


def test_images_match_by_id_and_else_by_a_file_name_that_is_there_once() -> None:
    first = ["a/1.png", "a/2.png", "b/3.png", "c/4.png", "d/4.png"]
    other = ["a/1.png", "moved/2.png", "x/3.png", "y/3.png", "z/4.png"]
    assert pairs_of(first, other) == {"a/1.png": "a/1.png", "a/2.png": "moved/2.png"}


def test_the_share_that_matches_is_told(digits_index: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(digits_index, part)
    store = open_index(part)
    names = [row.id for rows in store.scan() for row in rows]
    store.delete(names[: len(names) // 2])
    found = match([open_index(digits_index), store])
    assert len(found.names) == len(names) - len(names) // 2
    told = pieces.matched(found, ["all", "part"])
    assert f"{found.share:.0%} of the largest" in told
    assert f"all {len(names):,}" in told
    assert "share no image" in pieces.matched(Matching([{}, {}], [3, 4], {}), ["a", "b"])


def test_an_encoder_that_sees_is_told_from_one_that_does_not(
    digits_index: Path, noise_index: Path
) -> None:
    answers = Answers(desk_of(noise_index, digits_index))
    answers.begin()
    answers.job.wait(LONG)
    found = answers.job.found
    assert found is not None
    assert found.gaps[0].low > 0
    assert found.figures[1].low > found.chance
    assert found.overlaps[0] < 0.2
    told = answers.shown()
    assert "digits finds the label better than noise" in told
    assert not answers.job.running


def test_the_same_vectors_find_the_same(digits_index: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(digits_index, twin)
    found: list[Any] = []
    stores = [open_index(digits_index), open_index(twin)]
    Work("Comparing", lambda work: found.append(compare(stores, work))).wait(LONG)
    [compared] = found
    assert compared.overlaps == [1.0]
    assert (compared.gaps[0].difference, compared.gaps[0].low, compared.gaps[0].high) == (0, 0, 0)
    assert "No difference" in pieces.difference("twin", "digits", compared.gaps[0])


def test_one_click_gives_a_row_for_each_encoder(digits_index: Path, noise_index: Path) -> None:
    answers = Answers(desk_of(digits_index, noise_index))
    name = answers.matching().names[3]
    query, rows = answers.pick(name)
    assert rows.count('<section class="jp-compare-row"') == 2
    assert rows.count("data-id=") == 16
    assert "of the 8 nearest are the same images in both rows" in query
    _, told = answers.pick("nothing.png")
    assert "nothing.png: is not in each of the indexes" in told


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (Gap(0.1, 0.05, 0.15), "better than first: +10.0 points (+5.0 to +15.0)"),
        (Gap(-0.1, -0.15, -0.05), "worse than first"),
        (Gap(0.01, -0.02, 0.04), "No difference between other and first"),
    ],
)
def test_a_difference_is_told_only_where_its_interval_leaves_out_zero(gap: Gap, words: str) -> None:
    assert words in pieces.difference("other", "first", gap)


def test_overlap_is_the_mean_share_of_common_neighbours() -> None:
    one, other = (
        Asked(["a", "b"], [["1", "2"], ["3", "4"]]),
        Asked(["a", "b"], [["2", "5"], ["4", "3"]]),
    )
    assert overlap(one, other) == 0.75


def test_without_labels_the_overlap_alone_is_told() -> None:
    names = ["a", "b", "c"]
    asked = [Asked(names, [["b"], ["a"], ["a"]]), Asked(names, [["b"], ["c"], ["a"]])]
    pairs = {name: name for name in names}
    found = figured(Matching([pairs, pairs], [3, 3], {}), names, asked)
    assert found.figures == []
    assert found.overlaps == [pytest.approx(2 / 3)]
    assert "no two labels" in pieces.verdict(found, ["one", "other"])


def test_an_index_that_went_away_is_a_note(digits_index: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(digits_index, gone)
    answers = Answers(desk_of(digits_index, gone))
    shutil.rmtree(gone)
    answers.begin()
    assert "index is gone" in answers.shown()
    assert "index is gone" in answers.browse(0)[1]
    assert "index is gone" in answers.pick("any.png")[1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": "127.0.0.1:9"}, "--url names one encoder"),
        ({"bundle": Path("bundle")}, "--bundle names one encoder"),
        ({"data": "photos"}, "all of these are indexes"),
    ],
)
def test_what_belongs_to_one_encoder_is_refused_for_several(
    digits_index: Path, noise_index: Path, options: dict[str, Any], problem: str
) -> None:
    given: dict[str, Any] = {"data": None, "url": None, "bundle": None, **options}
    with pytest.raises(ConfigError, match=problem):
        open_paths([digits_index, noise_index], console=CONSOLE, **given)


def test_one_index_named_twice_is_refused(digits_index: Path) -> None:
    done = CliRunner().invoke(jepack, ["app", str(digits_index), str(digits_index), "--port", "0"])
    assert done.exit_code != 0
    assert isinstance(done.exception, (ConfigError, SystemExit))


@pytest.mark.browser
def test_the_command_opens_two_and_a_click_shows_both(
    driver: Any, digits_index: Path, noise_index: Path
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    command = [sys.executable, "-m", "jepack", "app", str(digits_index), str(noise_index)]
    with running([*command, "--port", "0"]) as url:
        driver.get(url)
        wait_for(driver, "#jp-gallery [data-id]")  # the page answers from then on
        driver.execute_script(
            "[...document.querySelectorAll('button[role=tab]')]"
            ".find(one => one.textContent.trim() === 'Compare').click()"
        )
        wait_for(driver, "#jp-compare-gallery [data-id]")[0].click()
        rows = wait_for(driver, ".jp-compare-row", count=2)
        assert [row.get_attribute("data-encoder") for row in rows] == ["digits", "noise"]
        before = wait_for(driver, "#jp-compare-query strong")[0].text
        assert wait_for(driver, ".jp-compare-verdict b")[0].text
        card = wait_for(driver, ".jp-compare-row .jp-card")[0]
        name = Path(str(card.get_attribute("data-id"))).name
        assert name != before
        card.click()
        WebDriverWait(driver, WAIT_S).until(
            lambda d: d.find_element("css selector", "#jp-compare-query strong").text == name
        )

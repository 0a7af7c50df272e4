"""The frame of the page: what it opens, and how a tab is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pixel_embedder import running
from typer.testing import CliRunner

from app.desk import Desk
from app.engine import at_endpoint, in_process
from app.library import Library
from app.opening import open_path
from app.screenshot import WAIT_S, choose, wait_for
from app.shell import Tab, find_tabs
from jepack.bundle import Bundle
from jepack.cli import app as jepack
from jepack.client.failures import UnreachableError
from jepack.errors import ArtifactError, ConfigError
from jepack.machine import loopback
from jepack.sources import find_images

CONSOLE: Any = None


def test_tabs_stand_in_the_order_of_their_places_and_only_where_they_apply(
    digits_index: Path,
) -> None:
    desk = Desk(Library(digits_index), at_endpoint("127.0.0.1:9"))
    found = find_tabs(desk)
    assert next(iter(found)) == "search"
    assert all(isinstance(tab, Tab) for tab in found.values())
    assert [tab.place for tab in found.values()] == sorted(tab.place for tab in found.values())


@pytest.mark.browser
def test_a_bundle_and_a_folder_are_enough(
    driver: Any, exported_bundle: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    subprocess.run(["cp", "-r", exported_bundle.folder, bundle], check=True)
    command = [sys.executable, "-m", "jepack", "app", str(bundle), "--port", "0"]
    with running([*command, "--data", str(digits_folder)]) as url:
        driver.get(url)
        assert "Ready" in wait_for(driver, ".jp-ready")[0].text
        choose(driver)
        image = find_images(digits_folder)[5]
        wait_for(driver, "#jp-upload input[type=file]")[0].send_keys(str(image.path))
        wait_for(driver, ".jp-query strong")
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(driver, WAIT_S).until(
            lambda d: image.path.name in wait_for(d, ".jp-query strong")[0].text
        )
        nearest = "return document.querySelector('.jp-card')?.dataset.id"
        WebDriverWait(driver, WAIT_S).until(
            lambda d: d.execute_script(nearest) == image.name_below(digits_folder)
        )
    [index] = tmp_path.glob("index-*")
    before = (index / "index.json").stat().st_mtime_ns
    library, _ = open_path(bundle, None, None, None, CONSOLE)
    assert library.folder == index  # found again, and not built a second time
    assert (index / "index.json").stat().st_mtime_ns == before


def test_what_is_neither_an_index_nor_a_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="neither an index"):
        open_path(tmp_path, None, None, None, CONSOLE)


def test_a_bundle_without_images_says_how_to_name_them(exported_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="--data DIR"):
        open_path(exported_bundle.folder, None, None, None, CONSOLE)


def test_a_bundle_of_another_encoder_is_refused(
    exported_bundle: Bundle, digits_index: Path
) -> None:
    with pytest.raises(ArtifactError, match="another encoder"):
        open_path(digits_index, None, None, exported_bundle.folder, CONSOLE)


def test_index_and_search_embed_with_a_bundle_here(
    exported_bundle: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    with_bundle = ["--bundle", str(exported_bundle.folder)]
    out = str(tmp_path / "index")
    done = CliRunner().invoke(
        jepack, ["index", str(digits_folder), "--out", out, *with_bundle], catch_exceptions=False
    )
    assert done.exit_code == 0
    image = find_images(digits_folder)[3]
    asked = ["search", out, str(image.path), "--k", "1", "--json"]
    for told in (with_bundle, []):  # not told, it takes the bundle that the index was made with
        found = CliRunner().invoke(jepack, [*asked, *told], catch_exceptions=False)
        assert str(image.path) in found.stdout
    again = ["index", str(digits_folder), "--out", out, "--update"]
    assert " 0 embedded now" in CliRunner().invoke(jepack, again, catch_exceptions=False).stdout


def test_a_moved_index_and_its_bundle_find_each_other_and_else_what_embeds_is_told(
    exported_bundle: Bundle,
    digits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(exported_bundle.folder, tmp_path / "made")
    words = ["--bundle", str(tmp_path / "made"), "--out", str(tmp_path / "moved" / "index")]
    done = CliRunner().invoke(jepack, ["index", str(digits_folder), *words], catch_exceptions=False)
    assert done.exit_code == 0
    bundle = Path(shutil.move(tmp_path / "made", tmp_path / "moved" / "bundle"))
    (tmp_path / "moved" / "broken").mkdir()  # somebody's, and no matter of the bundle's
    (tmp_path / "moved" / "broken" / "index.json").write_text("{")
    library, _ = open_path(bundle, None, None, None, CONSOLE)
    assert library.folder == tmp_path / "moved" / "index"
    assert "passed over" in capsys.readouterr().err
    image = find_images(digits_folder)[3]
    asked = ["search", str(tmp_path / "moved" / "index"), str(image.path), "--k", "1"]
    assert str(image.path) in CliRunner().invoke(jepack, asked, catch_exceptions=False).stdout
    shutil.rmtree(bundle)
    with loopback.hold(0) as held:
        monkeypatch.setattr("app.engine.DEFAULT_URL", f"127.0.0.1:{held.getsockname()[1]}")
    error = CliRunner().invoke(jepack, asked).exception
    assert isinstance(error, UnreachableError)
    assert "jepack serve BUNDLE" in str(error)
    assert "--bundle BUNDLE" in str(error)


def test_the_engine_of_a_bundle_answers_as_its_golden_images_say(exported_bundle: Bundle) -> None:
    engine = in_process(exported_bundle.folder)
    assert engine.connect().diagnose() is None
    assert engine.connect() is engine.connect()
    assert not engine.remote

"""The Map tab: what its addresses give, work that can be stopped, and the map in a browser."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixel_embedder import index_digits, page_of
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import arranging, colouring, layout
from app.desk import Desk
from app.engine import at_endpoint
from app.lance import open_index
from app.layout import Clusters, Layout
from app.library import Library
from app.screenshot import WAIT_S, wait_for
from app.shell import Selection
from app.store import Row
from app.tabs.map import still
from app.tabs.map.answer import Answers, bits
from app.tabs.map.atlas import atlas_of
from app.tabs.map.routes import routes
from app.tabs.search.visit import Query
from jepack.errors import DataError


@pytest.fixture(scope="session")
def arranged_index(tmp_path_factory: pytest.TempPathFactory, digits_index: Path) -> Path:
    """With an arrangement: the main directions, grouped by hand into three."""
    folder = tmp_path_factory.mktemp("arranged") / "index"
    shutil.copytree(digits_index, folder)
    store = open_index(folder)
    found = layout.directions(store)
    vectors = arranging.all_of(store)[1]
    nearest = arranging.neighbours(vectors, lambda share, said: None)[1][:, 1]
    of = np.arange(len(vectors), dtype=np.int32) % 4 - 1
    groups = Clusters(of_N=of, medoid_C=np.array([1, 2, 3], np.int32))
    made = Layout(
        kind="umap", fingerprint=found.fingerprint, order=found.order, xy_N2=-found.xy_N2,
        clusters=groups, nearest_N=nearest, kept=0.5,
    )  # fmt: skip
    layout.write(folder, made)
    return folder


@pytest.fixture
def desk(arranged_index: Path, tmp_path: Path) -> Desk:
    shutil.copytree(arranged_index, tmp_path / "index")
    return Desk(Library(tmp_path / "index"), at_endpoint("127.0.0.1:9"))


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(Starlette(routes=routes(desk)))


def ids_of(desk: Desk) -> list[str]:
    return [name for name, _ in desk.library.catalogue]


def test_points_are_all_x_then_all_y_in_stored_order(desk: Desk, client: TestClient) -> None:
    for kind in layout.KINDS:
        got = np.frombuffer(client.get(f"/points?layout={kind}").content, "<f4").reshape(2, -1).T
        assert np.array_equal(got, atlas_of(desk).shown(kind).xy_N2)
        assert len(got) == len(ids_of(desk))


def test_colours_name_each_images_category(desk: Desk, client: TestClient) -> None:
    codes = np.frombuffer(client.get("/colours?by=label").content, "<u2")
    names = list(desk.library.labels())
    assert [names[code] for code in codes] == [label for _, label in desk.library.catalogue]
    assert client.get("/colours?by=nothing-of-this-name").content == b""


@pytest.mark.parametrize("row", ["-1", "999999999", "x", "1e3", "9" * 40])
def test_a_number_that_is_no_row_is_told(client: TestClient, row: str) -> None:
    answer = client.get("/about", params={"row": row})
    assert answer.status_code == 409
    assert "whole number below" in answer.text


def test_an_index_built_again_is_told_to_a_page_that_is_open(
    desk: Desk, client: TestClient, digits_folder: Path
) -> None:
    before = atlas_of(desk)
    before.refresh()
    order = before.order
    assert client.get(f"/points?layout=pca&order={order}").status_code == 200
    shutil.copytree(digits_folder, desk.library.folder.parent / "fewer")
    next((desk.library.folder.parent / "fewer").rglob("*.png")).unlink()
    index_digits(desk.library.folder.parent / "fewer", desk.library.folder)
    answer = client.get(f"/points?layout=pca&order={order}")
    assert answer.status_code == 409
    assert "Reload the page" in answer.text
    assert atlas_of(desk).known("umap") is None


def test_how_unusual_is_as_search_tells_it(desk: Desk) -> None:
    found = atlas_of(desk).coloured(desk, "unusual")
    made, scale = atlas_of(desk).known("umap"), desk.library.scale
    assert found is not None
    assert made is not None
    assert made.nearest_N is not None
    assert scale is not None
    for row in range(0, len(made.nearest_N), 7):
        rarity = scale.rarity(float(made.nearest_N[row]) - 1e-7)
        assert found.codes_N[row] == (rarity <= 0.5) + (rarity <= 0.1) + (rarity <= scale.unusual)


def test_a_colouring_of_another_tab_is_offered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colouring, "SOURCES", dict(colouring.SOURCES))
    count = len(ids_of(desk))
    made = colouring.Colouring(np.zeros(count, np.uint16), ("sure",), ("#112233",))
    colouring.register("prediction", "Prediction", lambda *known: made)
    board = Answers(desk).show_again("pca", "prediction")
    assert board.view["by"] == "prediction"
    assert "sure" in board.legend


def test_a_selection_travels_there_and_back(desk: Desk) -> None:
    answers = Answers(desk)
    answers.show_again("pca", "label")
    chosen = tuple(ids_of(desk)[3::5])
    mask = answers.chosen(Selection(chosen, "elsewhere"))
    assert answers.choose(mask).ids == chosen
    assert answers.chosen(Selection()) == ""
    assert answers.chosen(Selection(("gone.png",))) == answers.chosen(Selection(("also gone.png",)))


@pytest.mark.parametrize("mask", ["", "AAAA", "not base64!", base64.b64encode(bytes(9)).decode()])
def test_a_mask_of_another_index_is_refused(mask: str) -> None:
    with pytest.raises(DataError, match="mask: need"):
        bits(mask, 100)


def test_a_category_chooses_its_images(desk: Desk) -> None:
    answers = Answers(desk)
    label = list(desk.library.labels())[2]
    found = answers.choose_category(2, "label")
    assert set(found.ids) == {name for name, own in desk.library.catalogue if own == label}
    assert label in found.said
    assert answers.choose_category(99, "label") == Selection()


def test_what_search_looks_at_is_marked_at_its_point_or_amid_its_nearest(desk: Desk) -> None:
    answers, store = Answers(desk), desk.library.store
    [row] = store.get([ids_of(desk)[5]])
    assert row.vector is not None
    places = atlas_of(desk).shown("umap").xy_N2
    stored = Query(row.vector, store.info.fingerprint, row, True)
    assert answers.mark(stored, "umap") == pytest.approx(places[5].tolist())
    new = replace(stored, row=Row(id="new.png"), stored=False)
    [hits] = store.search(row.vector[None], 5, fingerprint=store.info.fingerprint)
    nearest = [ids_of(desk).index(hit.row.id) for hit in hits]
    assert answers.mark(new, "umap") == pytest.approx(np.median(places[nearest], axis=0).tolist())
    assert answers.mark(replace(new, fingerprint="0" * 16), "umap") == []
    assert answers.mark(None, "umap") == []


def test_work_that_is_stopped_leaves_no_process_and_no_file(
    digits_index: Path, tmp_path: Path
) -> None:
    import psutil

    shutil.copytree(digits_index, tmp_path / "index")
    desk = Desk(Library(tmp_path / "index"), at_endpoint("127.0.0.1:9"))
    answers = Answers(desk)
    board = answers.show("umap", None)
    assert board.working
    assert answers.tick("umap", None).working
    work = atlas_of(desk).work
    assert work is not None
    stopped = answers.stop("label")
    work.wait(300)
    assert not work.running
    assert not stopped.working
    assert stopped.kind == "pca"
    assert not [
        one for one in psutil.Process().children() if "app.arranging" in " ".join(one.cmdline())
    ]
    assert not layout.file_of(tmp_path / "index", "umap").exists()
    assert layout.file_of(tmp_path / "index", "pca").exists()


def test_work_that_fails_says_so_on_the_page(
    digits_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shutil.copytree(digits_index, tmp_path / "index")
    desk = Desk(Library(tmp_path / "index"), at_endpoint("127.0.0.1:9"))
    atlas = atlas_of(desk)
    monkeypatch.setattr("app.tabs.map.atlas.WORKER", "app.no_such_module")
    atlas.start()
    assert atlas.work is not None
    atlas.work.wait(300)
    assert "no_such_module" in Answers(desk).tick("umap", None).state
    assert "no_such_module" in capsys.readouterr().err


def test_a_still_picture_shows_each_point_in_its_colour() -> None:
    places = np.array([[-0.5, 0.5], [0.5, -0.5]], np.float32)
    colours = colouring.Colouring(np.array([1, 0], np.uint16), ("a", "b"), ("#ff0000", "#0000ff"))
    picture = still.draw(places, colours, 101)
    assert picture.getpixel((25, 25)) == (0, 0, 255, 255)
    assert picture.getpixel((75, 75)) == (255, 0, 0, 255)
    assert picture.getpixel((50, 50))[3] == 0


@pytest.fixture(scope="session")
def map_page(arranged_index: Path) -> Iterator[str]:
    with page_of(arranged_index) as url:
        yield url


def open_map(driver: Any, url: str) -> None:
    driver.get(url)
    wait_for(driver, "#jp-gallery [data-id]")  # the page answers from then on
    [tab] = [one for one in wait_for(driver, "button[role=tab]") if one.text == "Map"]
    tab.click()
    wait_for(driver, ".jp-map-frame[data-drawn]")


def wait_until(driver: Any, script: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, WAIT_S).until(lambda d: d.execute_script(f"return {script}"))


@pytest.mark.browser
def test_hover_lasso_and_click_on_the_map(driver: Any, map_page: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_map(driver, map_page)
    wait_until(
        driver, "document.querySelector('.jp-map-frame').dataset.drawn.startsWith('umap label')"
    )
    frame = wait_for(driver, ".jp-map-frame")[0]
    width, height = frame.size["width"], frame.size["height"]
    corners = [(-0.4, -0.4), (0.4, -0.4), (0.4, 0.4), (-0.4, 0.4), (-0.4, -0.4)]
    path = [(int(x * width), int(y * height)) for x, y in corners]
    drawn = ActionChains(driver, duration=60).key_down(Keys.SHIFT)
    drawn.move_to_element_with_offset(frame, *path[0]).click_and_hold()
    for (left, top), (x, y) in zip(path, path[1:], strict=False):
        for step in range(1, 9):
            to = left + (x - left) * step // 8, top + (y - top) * step // 8
            drawn.move_to_element_with_offset(frame, *to)
    drawn.release().key_up(Keys.SHIFT).perform()
    text = wait_until(driver, "document.querySelector('.jp-chosen')?.textContent")
    assert "chosen on the map" in text
    chosen = int(text.split()[0].replace(",", ""))
    assert chosen > 10
    wait_until(driver, f"document.querySelector('.jp-map-frame').dataset.chosen === '{chosen}'")

    canvas = wait_for(driver, ".jp-map-canvas")[0]
    canvas.send_keys(Keys.ESCAPE)
    wait_until(driver, "document.querySelector('.jp-map-frame').dataset.chosen === '0'")
    canvas.send_keys(Keys.ARROW_RIGHT)  # the image nearest to the middle is shown
    name = wait_for(driver, ".jp-map-card:not([hidden]) b")[0].text
    canvas.send_keys(Keys.ENTER)
    wait_until(driver, f"document.querySelector('#jp-strip strong')?.textContent === '{name}'")
    [tab] = [one for one in wait_for(driver, "button[role=tab]") if one.text == "Map"]
    tab.click()
    wait_for(driver, ".jp-map-mark:not([hidden])")
    loaded = driver.execute_script(
        "return performance.getEntriesByType('resource').map(one => one.name)"
    )
    assert any(one.endswith("/jepack/map/regl-scatterplot.js") for one in loaded)
    assert [one for one in loaded if not one.startswith((map_page, "data:", "blob:"))] == []


@pytest.mark.browser
def test_without_webgl_a_still_picture_and_its_names_remain(driver: Any, map_page: str) -> None:
    none = "HTMLCanvasElement.prototype.getContext = () => null"
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": none})
    try:
        open_map(driver, map_page)
        assert "draws no WebGL" in wait_for(driver, ".jp-map-said")[0].text
        wait_until(driver, "document.querySelector('.jp-map-still').naturalWidth > 0")
        first = wait_for(driver, ".jp-map-legend button")[0]
        count = first.text.split()[-1]
        first.click()
        text = wait_until(driver, "document.querySelector('.jp-chosen')?.textContent")
        assert text.startswith(f"{count} images chosen on the map")
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

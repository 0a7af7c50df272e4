"""What once broke the page, in a real browser: odd numbers, odd shapes, odd drops, odd widths."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import index_digits, page_of

from app.screenshot import WAIT_S, choose, wait_for
from jepack.sources import find_images

pytestmark = pytest.mark.browser
TALL, LONG = "digit-0/tall.png", "digit-0/long.png"
TITLE = "A very long name of an index that somebody gave it, " * 4


@pytest.fixture(scope="module")
def odd_index(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    """Twenty-five images, among them a portrait and a strip of 10 to 1."""
    root = tmp_path_factory.mktemp("odd")
    for image in find_images(digits_folder)[:23]:
        target = root / "data" / image.path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(image.path, target / image.path.name)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 400), np.uint8)
    Image.fromarray(pixels).save(root / "data" / LONG)
    Image.fromarray(pixels[:, :20].copy()).save(root / "data" / TALL)
    return index_digits(root / "data", root / "index", name=TITLE)


@pytest.fixture(scope="module")
def odd_page(odd_index: Path) -> Iterator[str]:
    with page_of(odd_index) as url:
        yield url


@pytest.fixture
def page(driver: Any, odd_page: str) -> Any:
    driver.get(odd_page)
    choose(driver)
    return driver


def count(driver: Any) -> int:
    return int(driver.execute_script("return document.querySelectorAll('.jp-card').length"))


def asks(driver: Any) -> str:
    script = "return document.querySelector('.jp-query strong')?.textContent ?? ''"
    return str(driver.execute_script(script))


def wait_until(driver: Any, true: Callable[[], bool]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, WAIT_S).until(lambda _: true())


def alarms(driver: Any) -> list[str]:
    found = driver.find_elements("css selector", "[data-testid='toast-body'], [role=alert]")
    return [one.text for one in found]


def drop(driver: Any, selector: str, files: dict[str, bytes]) -> bool:
    """Drop files on an element as a person does; whether the browser was kept from opening them."""
    script = """
        const data = new DataTransfer();
        for (const [name, text] of arguments[1])
            data.items.add(new File(
                [Uint8Array.from(atob(text), c => c.charCodeAt(0))], name, {type: 'image/png'}));
        const at = document.querySelector(arguments[0]);
        const tell = kind => at.dispatchEvent(new DragEvent(
            kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        tell('dragenter'); tell('dragover');
        return !tell('drop');"""
    sent = [[name, base64.b64encode(data).decode()] for name, data in files.items()]
    return bool(driver.execute_script(script, selector, sent))


def test_whatever_is_typed_as_a_number_gives_neighbours(page: Any) -> None:
    """The index holds 24 others; an emptied box is no number, and any answer will do."""
    from selenium.webdriver.common.keys import Keys

    for typed, shown in (("1", 1), ("10", 10), ("0", 1), ("999", 24), ("-5", 1)):
        type_number(page, typed, Keys)
        wait_until(page, lambda shown=shown: count(page) == shown)  # type: ignore
        assert alarms(page) == []
    type_number(page, "", Keys)
    wait_for(page, "#jp-gallery [data-id]", count=2)[1].click()
    wait_until(page, lambda: asks(page) == Path(names_of(page)[1]).name)
    assert count(page) >= 1
    assert alarms(page) == []


def names_of(driver: Any) -> list[str]:
    """Of the gallery."""
    return [one.get_attribute("data-id") for one in wait_for(driver, "#jp-gallery [data-id]")]


def type_number(driver: Any, text: str, keys: Any) -> None:
    box = wait_for(driver, "#jp-k input[type=number]")[0]
    box.send_keys(keys.CONTROL + "a", keys.BACKSPACE)
    box.send_keys(text + keys.TAB if text else keys.TAB)


def test_a_portrait_and_a_strip_do_not_break_the_row(page: Any) -> None:
    wait_for(page, f"#jp-gallery [data-id='{TALL}']")[0].click()
    wait_until(page, lambda: asks(page) == "tall.png")
    wait_for(page, f".jp-card[data-id='{LONG}']")
    boxes = page.execute_script(
        "return [...document.querySelectorAll('.jp-card .jp-frame')].map(one => {"
        " const a = one.getBoundingClientRect(); const b = one.querySelector('img').getBoundingClientRect();"
        " return [a.width, a.height, b.width / b.height, one.querySelector('img').naturalWidth /"
        " one.querySelector('img').naturalHeight, b.left >= a.left - 1 && b.right <= a.right + 1] })"
    )
    for width, height, shown, own, inside in boxes:
        assert width == pytest.approx(height, abs=1)
        assert shown == pytest.approx(own, rel=0.1)
        assert inside
    seen = page.execute_script(
        "const i = document.querySelector('.jp-query .jp-seen').getBoundingClientRect();"
        "return i.width / i.height"
    )
    assert seen == pytest.approx(1, abs=0.1)
    assert (
        "The encoder sees the bright part alone: 50% of it" in wait_for(page, ".jp-query")[0].text
    )


def test_a_file_dropped_on_the_right_side_is_searched_with(page: Any, odd_index: Path) -> None:
    image = find_images(odd_index.parent / "data")[3].path.read_bytes()
    assert drop(page, "#jp-results", {"Größe (1) & mehr+.png": image})
    wait_until(page, lambda: asks(page) == "Größe (1) & mehr+.png")
    assert page.current_url.startswith("http://127.0.0.1")


def test_of_two_files_dropped_none_is_lost_in_silence(page: Any, odd_index: Path) -> None:
    images = [image.path.read_bytes() for image in find_images(odd_index.parent / "data")[:2]]
    drop(page, "#jp-right", {"one.png": images[0], "two.png": images[1]})
    told = wait_for(page, "#jp-results [role=alert]")[0].text
    assert "2 files arrived (one.png, two.png)" in told


def test_the_last_of_several_quick_clicks_is_answered(page: Any) -> None:
    names = page.execute_script(
        "const all = [...document.querySelectorAll('#jp-gallery [data-id]')].slice(2, 8);"
        "all.forEach(one => one.click()); return all.map(one => one.dataset.id)"
    )
    wait_until(page, lambda: asks(page) == Path(names[-1]).name)


def test_a_gone_index_is_told_and_the_page_lives(
    driver: Any, odd_index: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    shutil.copytree(odd_index, folder)
    with page_of(folder) as url:
        driver.get(url)
        choose(driver)
        folder.rename(tmp_path / "elsewhere")
        wait_for(driver, "#jp-gallery [data-id]")[2].click()
        assert "the index is gone" in wait_for(driver, "#jp-results [role=alert]")[0].text
        (tmp_path / "elsewhere").rename(folder)
        choose(driver, 3)
        assert count(driver) == 10


def test_at_every_width_nothing_overlaps_or_runs_out_of_the_page(page: Any) -> None:
    """On a screen that is turned or a window that is drawn smaller, and opened on the smallest."""
    wait_for(page, ".jp-ready")
    try:
        for width in (1440, 1024, 700, 390):
            wide(page, width)
            assert_in_place(page, width)
        page.refresh()
        wait_for(page, ".jp-ready")
        wait_for(page, ".jp-card")
        assert_in_place(page, 390)
    finally:
        wide(page, 1280)


def wide(driver: Any, width: int) -> None:
    """A window, a phone's below 500 pixels."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait_until(driver, lambda: driver.execute_script("return innerWidth") == width)


def assert_in_place(driver: Any, width: int) -> None:
    scrolls, apart, narrowest = driver.execute_script(
        "const box = of => document.querySelector(of).getBoundingClientRect();"
        "const pill = box('.jp-status'), title = box('.jp-title h1');"
        "return [document.scrollingElement.scrollWidth,"
        " pill.left >= title.right || pill.top >= title.bottom,"
        " Math.min(...[...document.querySelectorAll('.jp-card')].map(c => c.clientWidth))]"
    )
    assert scrolls <= width
    assert apart, width
    assert narrowest >= 100

"""The Search tab in a real browser: its address, several images at once, parts, filters, the trail."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image
from pixel_embedder import pixel_vector
from test_page import cards, gallery, query, upload, wait_until

from app.desk import Desk
from app.engine import at_endpoint
from app.library import Library
from app.screenshot import choose, wait_for
from app.tabs.search.answer import Answers
from app.tabs.search.question import parse
from app.tabs.search.visit import Visit
from jepack.sources import find_images

pytestmark = pytest.mark.browser


def open_at(driver: Any, page: str, address: str) -> None:
    """As from a link: in a new document."""
    driver.get("about:blank")
    driver.get(f"{page}/{address}")


def ranked(data: Path, wanted: np.ndarray, without: set[str], label: str = "") -> list[str]:
    """Names by their cosine distance to a direction, says numpy over the images themselves."""
    images = find_images(data)
    rows = np.stack([pixel_vector(image.path) for image in images])
    near = rows @ wanted / np.linalg.norm(rows, axis=1)
    names = [
        images[at].path.relative_to(data).as_posix() for at in np.argsort(-near, kind="stable")
    ]
    return [name for name in names if name not in without and name.startswith(label)]


def unit(folder: Path, name: str) -> np.ndarray:
    vector = pixel_vector(folder / name)
    return vector / np.linalg.norm(vector)


def test_the_address_says_the_query_so_reload_back_and_a_link_ask_the_same(
    driver: Any, digits_page: str
) -> None:
    driver.get(digits_page)
    choose(driver, 2)
    first, shown = query(driver), cards(driver)
    wait_until(driver, lambda: driver.current_url.endswith("&k=10"))
    link = driver.current_url
    wait_for(driver, ".jp-card")[0].click()
    wait_until(driver, lambda: query(driver) != first)
    driver.back()
    wait_until(driver, lambda: query(driver) == first)
    assert cards(driver) == shown
    driver.refresh()
    wait_until(driver, lambda: cards(driver) == shown)
    open_at(driver, digits_page, "#" + link.partition("#")[2].replace("k=10", "k=4"))
    wait_until(driver, lambda: cards(driver) == shown[:4])
    number = wait_for(driver, "#jp-k input[type=number]")[0]
    wait_until(driver, lambda: number.get_attribute("value") == "4")


def test_after_an_upload_back_returns_and_forward_still_knows_it(
    driver: Any, digits_page: str, digits_folder: Path
) -> None:
    driver.get(digits_page)
    choose(driver, 2)
    first = query(driver)
    mine = find_images(digits_folder)[5].path
    upload(driver, mine)
    wait_until(driver, lambda: query(driver) == mine.name)
    wait_until(driver, lambda: "#own=" in driver.current_url)
    driver.back()
    wait_until(driver, lambda: query(driver) == first)
    driver.forward()
    wait_until(driver, lambda: query(driver) == mine.name)
    driver.refresh()
    assert "drop it here again" in wait_for(driver, "#jp-results [role=alert]")[0].text


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("#like=not/there.png", "holds no image &#x27;not/there.png&#x27;"),
        ("#like=a.png;0.5,0.1,0.2,0.9", "no part of an image"),
        ("#unlike=digit-1/0.png", "what to avoid"),
        ("#" + "&".join(f"like={n}" for n in range(17)), "up to 16 can"),
    ],
)
def test_an_address_that_cannot_be_answered_says_why(
    digits_index: Path, address: str, told: str
) -> None:
    answers = Answers(Desk(Library(digits_index), at_endpoint("127.0.0.1:9")))
    _, results, visit, query = answers.ask(address.removeprefix("#"), 10, Visit())
    assert 'role="alert"' in results
    assert told in results
    assert (visit.question, query) == (None, None)


def test_a_link_that_cannot_be_answered_is_a_note_and_the_page_lives(
    driver: Any, digits_page: str
) -> None:
    open_at(driver, digits_page, "#like=%3Cb%3Ex%3C/b%3E")
    assert "<b>x</b>" in wait_for(driver, "#jp-results [role=alert]")[0].text
    choose(driver)
    assert len(cards(driver)) == 10


def test_an_image_is_found_by_its_file_name_and_a_page_by_its_number(
    driver: Any, digits_page: str, digits_folder: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    names = sorted(i.path.relative_to(digits_folder).as_posix() for i in find_images(digits_folder))
    driver.get(digits_page)
    gallery(driver)
    box = wait_for(driver, "#jp-called input, #jp-called textarea")[0]
    wanted = [name for name in names if "digit-7" in name]
    box.send_keys("DIGIT-7 .png")
    wait_until(driver, lambda: gallery(driver) == wanted[:24])
    box.send_keys(Keys.CONTROL + "a", Keys.BACKSPACE)
    wait_until(driver, lambda: not gallery(driver)[0].startswith("digit-7"))
    first = gallery(driver)
    number = wait_for(driver, "#jp-jump input")[0]
    number.send_keys(Keys.CONTROL + "a")
    number.send_keys("2", Keys.ENTER)
    wait_until(driver, lambda: gallery(driver) != first)
    assert number.get_attribute("value") == "2"


def test_several_images_ask_together_as_numpy_says(
    driver: Any, digits_page: str, digits_folder: Path
) -> None:
    driver.get(digits_page)
    choose(driver, 1)
    wait_until(driver, lambda: driver.current_url.endswith("&k=10"))
    start = gallery(driver)[1]
    liked, avoided = cards(driver)[2][0], cards(driver)[6][0]
    wait_for(driver, ".jp-cell [data-side=like]")[2].click()
    wait_until(driver, lambda: len(driver.find_elements("css selector", ".jp-example")) == 2)
    wanted = (unit(digits_folder, start) + unit(digits_folder, liked)) / 2
    both = ranked(digits_folder, wanted, {start, liked})[:10]
    wait_until(driver, lambda: [n for n, _ in cards(driver)] == both)
    open_at(driver, digits_page, "#" + "&".join(
        f"{side}={quote(name)}" for side, name in (("like", start), ("like", liked), ("unlike", avoided))
    ))  # fmt: skip
    wait_until(driver, lambda: len(driver.find_elements("css selector", ".jp-example")) == 3)
    wanted = wanted - unit(digits_folder, avoided) / 2
    three = ranked(digits_folder, wanted, {start, liked, avoided})[:10]
    wait_until(driver, lambda: [n for n, _ in cards(driver)] == three)
    assert "minus half the mean" in wait_for(driver, ".jp-several")[0].text


def test_the_same_label_and_another_are_shown_alone(
    driver: Any, digits_page: str, digits_folder: Path
) -> None:
    from selenium.webdriver.support.ui import Select

    driver.get(digits_page)
    choose(driver, 4)
    start = gallery(driver)[4]
    label = start.split("/")[0]
    Select(wait_for(driver, "[data-only=label]")[0]).select_by_visible_text("Another label")
    wait_until(
        driver,
        lambda: not any(n.startswith(label) for n, _ in cards(driver)) and len(cards(driver)) == 10,
    )
    Select(wait_for(driver, "[data-only=label]")[0]).select_by_visible_text("Same label")
    wanted = ranked(digits_folder, unit(digits_folder, start), {start}, label)[:10]
    wait_until(driver, lambda: [n for n, _ in cards(driver)] == wanted)
    wait_until(driver, lambda: "only=label;is;" in driver.current_url)


def test_the_trail_leads_back(driver: Any, digits_page: str) -> None:
    driver.get(digits_page)
    choose(driver, 0)
    first = query(driver)
    for number in (1, 2):
        before = query(driver)
        wait_for(driver, "#jp-gallery [data-id]")[number].click()
        wait_until(driver, lambda before=before: query(driver) != before)
    steps = wait_for(driver, ".jp-trail a", count=3)
    steps[-1].click()
    wait_until(driver, lambda: query(driver) == first)


def drag(driver: Any, image: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Press, move and let go, at shares of an element."""
    from selenium.webdriver.common.action_chains import ActionChains

    box = image.rect
    at = [
        (round(box["x"] + x * box["width"]), round(box["y"] + y * box["height"]))
        for x, y in (start, end)
    ]
    chain = ActionChains(driver)
    chain.w3c_actions.pointer_action.move_to_location(*at[0])
    chain.w3c_actions.pointer_action.pointer_down()
    chain.w3c_actions.pointer_action.move_to_location(*at[1])
    chain.w3c_actions.pointer_action.pointer_up()
    chain.perform()


def test_a_part_drawn_in_the_full_view_is_cut_from_the_original_and_searched_with(
    driver: Any, digits_page: str, digits_folder: Path, tmp_path: Path
) -> None:
    driver.get(digits_page)
    choose(driver, 3)
    name = gallery(driver)[3]
    wait_for(driver, "#jp-strip [data-view]")[0].click()
    image = wait_for(driver, ".jp-view-stage img")[0]
    wait_until(driver, lambda: image.rect["width"] > 200)
    with Image.open(digits_folder / name) as original:
        wide, tall = original.size
        assert driver.execute_script("return arguments[0].naturalWidth", image) == wide
    wait_for(driver, ".jp-view-choose")[0].click()
    drag(driver, image, (0.1, 0.2), (0.7, 0.9))
    wait_for(driver, ".jp-view-go:enabled")[0].click()
    wait_until(driver, lambda: ";" in driver.current_url and "k=10" in driver.current_url)
    question = parse(driver.current_url.partition("#")[2])
    [example] = question.like
    assert example.name == name
    assert example.box == pytest.approx((0.1, 0.2, 0.7, 0.9), abs=0.01)
    left, top, right, bottom = example.box
    with Image.open(digits_folder / name) as original:
        edges = (round(left * wide), round(top * tall), round(right * wide), round(bottom * tall))
        original.crop(edges).save(tmp_path / "part.png")
    wanted = ranked(digits_folder, pixel_vector(tmp_path / "part.png"), set())[:10]
    wait_until(driver, lambda: [n for n, _ in cards(driver)] == wanted)
    wait_until(driver, lambda: "a part of" in wait_for(driver, ".jp-query")[0].text)
    driver.refresh()
    wait_until(driver, lambda: [n for n, _ in cards(driver)] == wanted)


def test_a_part_of_an_image_of_ones_own_is_searched_with(
    driver: Any, digits_page: str, digits_folder: Path, tmp_path: Path
) -> None:
    mine = find_images(digits_folder)[9].path
    driver.get(digits_page)
    gallery(driver)
    upload(driver, mine)
    wait_until(driver, lambda: "#own=" in driver.current_url)
    driver.execute_script("location.hash = location.hash.replace(/&.*/, '') + ';0.25,0.25,0.75,1'")
    with Image.open(mine) as original:
        wide, tall = original.size
        original.crop((round(wide / 4), round(tall / 4), round(3 * wide / 4), tall)).save(
            tmp_path / "part.png"
        )
    wanted = ranked(digits_folder, pixel_vector(tmp_path / "part.png"), set())[:10]
    wait_until(driver, lambda: [n for n, _ in cards(driver)] == wanted)


def test_a_neighbour_is_seen_in_full_beside_the_query_and_arrow_keys_go_on(
    driver: Any, digits_page: str
) -> None:
    from selenium.webdriver.common.keys import Keys

    driver.get(digits_page)
    choose(driver)
    names = [Path(name).name for name, _ in cards(driver)]
    wait_for(driver, ".jp-cell [data-view]")[0].click()
    titles = [one.text for one in wait_for(driver, ".jp-view figcaption", count=2)]
    assert titles == [f"Query: {query(driver)}", names[0]]
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait_until(driver, lambda: not driver.find_elements("css selector", ".jp-view"))
    wait_for(driver, ".jp-cell [data-view]")[0].click()
    wait_for(driver, ".jp-view-close")[0].send_keys(Keys.ARROW_RIGHT)
    wait_until(driver, lambda: wait_for(driver, ".jp-view figcaption", count=2)[1].text == names[1])
    driver.execute_script(
        "for (const [name, value] of [['zoom', 2], ['bright', 1.5], ['contrast', 2]]) {"
        " const input = document.querySelector(`[data-set=${name}]`); input.value = value;"
        " input.dispatchEvent(new Event('input')) }"
    )
    styles = driver.execute_script(
        "return [...document.querySelectorAll('.jp-view-sheet')].map(one =>"
        " [one.style.transform, one.querySelector('img').style.filter])"
    )
    assert styles == [["translate(0%, 0%) scale(4)", "brightness(1.5) contrast(2)"]] * 2
    wait_for(driver, ".jp-view-close")[0].click()
    wait_for(driver, ".jp-card")[0].send_keys(Keys.ARROW_RIGHT)
    assert driver.switch_to.active_element.get_attribute("data-id").endswith(names[1])


@pytest.mark.parametrize(
    "asked",
    ["", "../index/index.json", "/etc/passwd", "nothing.png", "digit-0", "file:///etc/passwd"],
)
def test_what_is_not_in_the_index_is_not_handed_out(digits_page: str, asked: str) -> None:
    server = urlsplit(digits_page)
    connection = http.client.HTTPConnection(server.hostname or "", server.port or 0, timeout=300)
    connection.request("GET", f"/jepack/search/full?id={quote(asked, safe='')}")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (404, b"The index holds no such image.")
    connection.close()


CAMERA = """
const canvas = Object.assign(document.createElement('canvas'), {width: 320, height: 240});
window.drawn = setInterval(() => canvas.getContext('2d').fillRect(40, 40, 99, 99), 50);
window.lent = canvas.captureStream();
navigator.mediaDevices.getUserMedia = async () => window.lent;
"""
NONE = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); };"


def test_a_picture_taken_by_a_camera_asks(driver: Any, digits_page: str) -> None:
    driver.get(digits_page)
    gallery(driver)
    driver.execute_script(NONE)
    wait_for(driver, "[data-camera]")[0].click()
    told = wait_for(driver, ".jp-camera [role=status]")[0]
    wait_until(driver, lambda: "Allow it beside the address" in told.text)
    wait_for(driver, ".jp-camera .jp-view-close")[0].click()
    driver.execute_script(CAMERA)
    wait_for(driver, "[data-camera]")[0].click()
    take = wait_for(driver, ".jp-camera .jp-view-go")[0]
    wait_until(driver, take.is_enabled)
    take.click()
    wait_until(driver, lambda: query(driver).startswith("camera "))
    assert len(cards(driver)) == 10
    assert driver.execute_script("return window.lent.getTracks()[0].readyState") == "ended"

"""A new user's first five minutes on the page: mislabelled cells, twenty labels, a probe that is kept.

    jepack app INDEX --bundle BUNDLE
    python -m benchmarks.page_walk --url http://127.0.0.1:7860 --pictures docs/img

Walks in a headless browser by clicks alone, says how long each step took the machine and how many clicks it
was, and photographs each. The images say by their folder what a person would see: `defect-0` is "good", the
others are "crack". Actions go to the index's journal: walk on a copy.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table
from selenium.webdriver.support.ui import WebDriverWait

from app import album, screenshot
from app.screenshot import browser, open_page, resize, wait_for
from jepack.files import write_bytes

WAIT_S = 300
WIDTH, HEIGHT = 1280, 800
DRAWN = 960  # px of a picture in the docs
LABELS = 20
WORDS = ("good", "crack")
A_CLICK_S = 3.0  # of a person who looks before they click


class Walk:
    """The browser, its clicks and its clock."""

    def __init__(self, driver: Any, pictures: Path | None) -> None:
        self.driver, self.pictures = driver, pictures
        self.clicks, self.steps = 0, list[tuple[str, float, int]]()
        self._begun, self._clicked = time.monotonic(), 0

    def click(self, selector: str, at: int = 0) -> None:
        one = wait_for(self.driver, selector, count=at + 1)[at]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", one)
        one.click()
        self.clicks += 1

    def type(self, selector: str, text: str) -> None:
        wait_for(self.driver, selector)[0].send_keys(text)
        self.clicks += 1

    def until(self, script: str) -> None:
        WebDriverWait(self.driver, WAIT_S).until(lambda d: d.execute_script(f"return {script}"))

    def step(self, name: str, words: str, top: str | None = None) -> None:
        """What was done since the last step; its picture begins at `top`."""
        now = time.monotonic()
        self.steps.append((words, now - self._begun, self.clicks - self._clicked))
        if self.pictures is not None:
            where = (
                "0"
                if top is None
                else f"document.querySelector('{top}').getBoundingClientRect().top + scrollY - 12"
            )
            self.driver.execute_script(f"scrollTo({{top: {where}, behavior: 'instant'}})")
            time.sleep(0.5)  # for pictures that fade in
            write_bytes(
                self.pictures / f"walk-{name}.png", small(self.driver.get_screenshot_as_png())
            )
        self._begun, self._clicked = time.monotonic(), self.clicks


def small(data: bytes) -> bytes:
    """DRAWN wide and of 256 colours, as PNG."""
    with Image.open(io.BytesIO(data)) as image:
        image = image.convert("RGB").resize((DRAWN, round(image.height * DRAWN / image.width)))
        stream = io.BytesIO()
        image.quantize(256, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def clean(walk: Walk) -> None:
    album.open_tab(walk.driver, "clean")
    walk.clicks += 1
    walk.click("#jp-clean-go")
    walk.until("document.querySelectorAll('.jp-clean-kind').length > 0")
    walk.click('[data-id="show labels"]')
    walk.until("document.querySelectorAll('[data-id^=\"relabel labels\"]').length > 1")
    walk.step("suspects", "Clean finds the labels to doubt", "#jp-tabs")
    walk.click('[data-id="relabel labels 0"]')
    walk.until("document.querySelector('.jp-clean-mark') !== null")
    walk.step("relabel", "One is given the label of its likes", "#jp-tabs")
    walk.click('#jp-clean-found [data-id="undo"]')  # the probe shall start from nothing
    walk.until("document.querySelector('.jp-clean-mark') === null")


def label(walk: Walk) -> None:
    """Twenty images in two classes, as the page asks for them."""
    album.open_tab(walk.driver, "probe")
    walk.clicks += 1
    text = "document.querySelector('#jp-probe-bench').innerText"
    walk.click("#jp-probe-start input", 1)  # people here alone
    walk.until(f"{text}.includes('Each stands for a group')")
    for word in WORDS:
        walk.type("#jp-probe-label textarea, #jp-probe-label input", word + "\n")
        wait_for(walk.driver, f'#jp-probe-bench [data-label="{word}"]')
    walk.step("start", "Probe starts from nothing, with two words", "#jp-tabs")
    given = 0
    while given < LABELS:
        images = wait_for(walk.driver, "#jp-probe-bench .jp-probe-one")
        free = [
            one.find_element("css selector", "[data-image]").get_attribute("data-image")
            for one in images
            if not one.find_elements("css selector", ".jp-probe-own")
        ][: LABELS - given]
        for word, holds in ((WORDS[0], True), (WORDS[1], False)):
            some = [name for name in free if name.startswith("defect-0/") is holds]
            for name in some:
                walk.click(f'#jp-probe-bench [data-image="{name}"]')
            if not some:
                continue
            if given == 0:
                walk.step("choose", "Those alike are clicked", "#jp-tabs")
            walk.click(f'#jp-probe-bench [data-label="{word}"]')
            given += len(some)
            walk.until(
                "document.querySelectorAll('#jp-probe-bench [aria-pressed=true][data-image]').length == 0"
            )
            walk.until(f"window.jpSettled = {text}.includes('none chosen')")
            time.sleep(1.5)  # the images are drawn again
    walk.until("document.querySelector('.jp-probe-verdict') !== null")
    walk.until("document.querySelector('#jp-probe-told .jp-working') === null")
    walk.step("verdict", f"{LABELS} images are labelled, and the probe is judged", "#jp-tabs")


def keep(walk: Walk) -> None:
    walk.type("#jp-probe-name textarea, #jp-probe-name input", "cracks")
    walk.click("#jp-probe-keep button")
    walk.until("document.querySelector('#jp-probe-kept .jp-note') !== null")
    walk.step("kept", "The probe is kept in the bundle", "#jp-probe-told section:last-of-type")


STEPS: tuple[Callable[[Walk], None], ...] = (clean, label, keep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="address of the open page")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each step")
    chosen = parser.parse_args()
    screenshot.WAIT_S = WAIT_S  # the first check of an index takes a while
    with browser() as driver:
        resize(driver, WIDTH, HEIGHT)
        open_page(driver, chosen.url)
        walk = Walk(driver, chosen.pictures)
        for step in STEPS:
            step(walk)
    table = Table(title="A first walk over the page")
    for name in ("step", "machine, s", "clicks"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for words, seconds, clicks in walk.steps:
        table.add_row(words, f"{seconds:.1f}", str(clicks))
    console = Console()
    console.print(table)
    machine = sum(seconds for _, seconds, _ in walk.steps)
    person = A_CLICK_S * walk.clicks
    console.print(
        f"{machine:.0f} s of the machine, and {person:.0f} s of a person who takes {A_CLICK_S:.0f} s "
        f"for each of {walk.clicks} clicks"
    )


if __name__ == "__main__":
    main()

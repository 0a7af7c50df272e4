"""Each tab of the page in the state in which it is of use, for pictures and for checks in a browser.

`python -m app.album http://127.0.0.1:7860 OUT` fills a folder: TAB-WIDTH-LOOK.png, and a sheet for each width
and look.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from app.screenshot import browser, choose, open_page, resize, wait_for
from jepack.errors import ServerError
from jepack.files import write_bytes

SIZES = {1440: 900, 1024: 800, 390: 844, 2560: 1300}  # {width: height} of a window, px
LOOKS = ("light", "dark")
TALLEST = 3000  # px of a picture
ACROSS = 480  # px of a picture on a sheet
TABS = """
return [...new Set([...document.querySelectorAll('button[role=tab][aria-controls]')].map(one =>
  one.getAttribute('aria-controls').replace('jp-tab-', '')))]
"""
# A narrow page keeps some tabs in a menu; their buttons are there all the same.
OPEN = """
const [name] = arguments;
const one = document.querySelector(`#jp-tab-${name}-button, button[data-tab-id="${name}"]`);
one?.click();
return Boolean(one);
"""


def names(driver: Any) -> list[str]:
    """The tabs of the open page, from left to right."""
    wait_for(driver, "button[role=tab]")
    found: list[str] = driver.execute_script(TABS)
    return found


def open_tab(driver: Any, name: str) -> None:
    """Raises ServerError where the page has no such tab."""
    wait_for(driver, "button[role=tab]")
    if not driver.execute_script(OPEN, name):
        raise ServerError(f"{driver.current_url}: there is no tab {name}")


def searched(driver: Any) -> None:
    choose(driver)
    wait_for(driver, ".jp-ready, .jp-down, .jp-other")


def mapped(driver: Any) -> None:
    wait_for(driver, ".jp-map-frame[data-drawn]")
    wait_for(driver, ".jp-map-legend, .jp-map-state")


def probed(driver: Any) -> None:
    wait_for(driver, ".jp-probe-one")
    wait_for(driver, "#jp-probe-told h3, #jp-probe-told b")


def cleaned(driver: Any) -> None:
    if not driver.execute_script("return document.querySelector('.jp-clean-kind')"):
        wait_for(driver, "#jp-clean-go")[0].click()
    wait_for(driver, ".jp-clean-kind")


def compared(driver: Any) -> None:
    wait_for(driver, "#jp-compare-gallery [data-id]")[0].click()
    wait_for(driver, ".jp-compare-row .jp-card")
    wait_for(driver, ".jp-compare-verdict")


def measured(driver: Any) -> None:
    wait_for(driver, ".jp-health-figures, #jp-health-drawn .jp-health-told")


READY: dict[str, Callable[[Any], None]] = {
    "search": searched,
    "map": mapped,
    "probe": probed,
    "clean": cleaned,
    "compare": compared,
    "health": measured,
}


def show(driver: Any, name: str) -> None:
    """Open a tab, and wait until it shows what it is for."""
    open_tab(driver, name)
    READY.get(name, lambda driver: None)(driver)


def photograph(driver: Any, width: int) -> bytes:
    """The whole page, as far down as TALLEST, as PNG; of the map what the window shows, because a window that
    changes its size empties its canvas."""
    if driver.execute_script("return Boolean(document.querySelector('canvas')?.offsetParent)"):
        return bytes(driver.get_screenshot_as_png())
    height = int(driver.execute_script("return document.documentElement.scrollHeight"))
    area = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST), "scale": 1}
    found = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": area}
    )
    return base64.b64decode(found["data"])


def pages(url: str) -> Iterator[tuple[Any, str, int, str]]:
    """(driver, tab, width, look) of every tab at every size, each shown."""
    for look in LOOKS:
        with browser(dark=look == "dark") as driver:
            for width, height in SIZES.items():
                resize(driver, width, height)
                open_page(driver, url)
                for name in names(driver):
                    show(driver, name)
                    yield driver, name, width, look


def fill(
    url: Annotated[str, typer.Argument(help="Address of the page.")],
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")],
) -> None:
    """Photograph every tab of an open page at 390 to 2560 px, light and dark.

    Raises ServerError where there is no page, or a tab stays empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    sheets: dict[str, list[bytes]] = {}
    for driver, name, width, look in pages(url):
        data = photograph(driver, width)
        write_bytes(out / f"{name}-{width}-{look}.png", data)
        sheets.setdefault(f"sheet-{width}-{look}", []).append(data)
    for name, pictures in sheets.items():
        write_bytes(out / f"{name}.png", sheet(pictures))


def sheet(pictures: list[bytes]) -> bytes:
    """Side by side, each ACROSS wide, as PNG."""
    small = []
    for data in pictures:
        with Image.open(io.BytesIO(data)) as image:
            scale = ACROSS / image.width
            small.append(image.convert("RGB").resize((ACROSS, round(image.height * scale))))
    whole = Image.new(
        "RGB", (len(small) * (ACROSS + 8), max(one.height for one in small)), "#808080"
    )
    for at, one in enumerate(small):
        whole.paste(one, (at * (ACROSS + 8), 0))
    stream = io.BytesIO()
    whole.save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    typer.run(fill)

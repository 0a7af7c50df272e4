"""A picture of the page with neighbours on it: python -m app.screenshot http://127.0.0.1:7860 OUT.png

Clicks an image of the gallery in a headless Chromium, waits for its neighbours, and photographs. Of every
tab: album.py.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from jepack.errors import DependencyError, ServerError
from jepack.files import write_bytes

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers give Chromium no user namespaces; it only ever opens our own page
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_S = 60  # a busy machine draws slowly


def missing_browser() -> str | None:
    """What is missing to drive a browser, None when all is there."""
    try:
        import selenium  # noqa: F401
    except ModuleNotFoundError:
        return "selenium is not installed: pip install selenium"
    if not any(map(shutil.which, CHROMIUM)) or not shutil.which("chromedriver"):
        return "Chromium is not installed: apt-get install chromium chromium-driver"
    return None


@contextmanager
def browser(width: int = 1280, height: int = 900, *, dark: bool = False) -> Iterator[Any]:
    """A headless Chromium with a profile of its own, as a selenium driver."""
    reason = missing_browser()
    if reason is not None:
        raise DependencyError(f"No browser to drive. {reason}")
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = next(filter(None, map(shutil.which, CHROMIUM)))
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        size = f"--window-size={width},{height}"
        for flag in (*FLAGS, size, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        if dark:
            options.add_argument("--blink-settings=preferredColorScheme=0")
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_script_timeout(WAIT_S)
            resize(driver, width, height)
            yield driver
        finally:
            driver.quit()


def resize(driver: Any, width: int, height: int) -> None:
    """The page itself gets the whole size, without the window's frame."""
    view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)


def wait_for(driver: Any, selector: str, *, count: int = 1) -> list[Any]:
    """The elements that match, once there are `count` and their pictures are drawn."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    drawn = (
        "const found = [...document.querySelectorAll(arguments[0])];"
        "return found.length >= arguments[1] && found.every(one =>"
        " [...one.querySelectorAll('img')].every(img => img.complete && img.naturalWidth > 0))"
    )
    try:
        WebDriverWait(driver, WAIT_S).until(lambda d: d.execute_script(drawn, selector, count))
    except TimeoutException as error:
        raise ServerError(
            f"{driver.current_url}: {count} of {selector} did not appear in {WAIT_S} s. "
            "Is this the page of `jepack app`?"
        ) from error
    found: list[Any] = driver.find_elements(By.CSS_SELECTOR, selector)
    return found


def choose(driver: Any, number: int = 0) -> None:
    """Click the gallery's image `number` and wait for its neighbours."""
    wait_for(driver, "#jp-gallery [data-id]", count=number + 1)[number].click()
    wait_for(driver, "#jp-results [data-distance]")
    wait_for(driver, ".jp-card")
    wait_for(driver, ".jp-query")


def screenshot(
    url: Annotated[str, typer.Argument(help="Address of the page.")],
    out: Annotated[Path, typer.Argument(help="PNG to write.")],
    width: Annotated[int, typer.Option(help="Pixels.")] = 1280,
    height: Annotated[int, typer.Option(help="Pixels.")] = 900,
    image: Annotated[int, typer.Option(help="Which image of the gallery to click, from 0.")] = 0,
    dark: Annotated[bool, typer.Option(help="Ask for the dark look.")] = False,
) -> None:
    """Photograph the page of `jepack app` with the neighbours of an image on it.

    Example: python -m app.screenshot http://127.0.0.1:7860 docs/img/app.png
    """
    take(url, out, width=width, height=height, image=image, dark=dark)


def open_page(driver: Any, url: str) -> None:
    """Raises ServerError where there is none."""
    from selenium.common.exceptions import WebDriverException

    try:
        driver.get(url)
    except WebDriverException as error:
        reason = (error.msg or "no reason given").splitlines()[0]
        raise ServerError(f"{url}: no page there ({reason}). Open it: jepack app INDEX") from error


def take(
    url: str, out: Path, *, width: int = 1280, height: int = 900, image: int = 0, dark: bool = False
) -> None:
    with browser(width, height, dark=dark) as driver:
        open_page(driver, url)
        choose(driver, image)
        wait_for(driver, ".jp-ready, .jp-down, .jp-other")
        write_bytes(out, driver.get_screenshot_as_png())


if __name__ == "__main__":
    typer.run(screenshot)

"""An index of handwritten digits, and one browser to look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from people import ACCOUNTS, log_in, web
from pixel_embedder import index_digits, page_of

from jepack.machine import loopback


@pytest.fixture(scope="session")
def digits_index(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Path:
    """Shared: copy the folder before changing it."""
    return index_digits(digits_folder, tmp_path_factory.mktemp("index") / "digits")


@pytest.fixture(scope="session")
def digits_page(digits_index: Path) -> Iterator[str]:
    """Address of a page over it."""
    with page_of(digits_index) as url:
        yield url


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """One headless Chromium for all the tests of a page."""
    from app.screenshot import browser, missing_browser

    reason = missing_browser()
    if reason is not None:
        pytest.skip(reason)
    with browser() as one:
        yield one


@pytest.fixture(scope="session")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of two accounts."""
    file = tmp_path_factory.mktemp("accounts") / "file"
    file.write_text("\n".join(ACCOUNTS.values()))
    file.chmod(0o600)
    return str(file)


@pytest.fixture(scope="session")
def guarded(digits_index: Path, accounts: str) -> Iterator[str]:
    """A page that asks for a password, on another loopback address."""
    with page_of(digits_index, host="127.0.0.2", auth=accounts) as url:
        assert url.startswith("http://127.0.0.2:")
        yield url


@pytest.fixture
def anna(guarded: str) -> Iterator[httpx.Client]:
    """Logged in."""
    with web(guarded) as http:
        assert log_in(http).status_code == 303
        yield http


@pytest.fixture
def canary() -> Iterator[tuple[int, Callable[[], bool]]]:
    """(port, whether somebody came) of a server to which nobody may be sent."""
    with loopback.hold(0) as holder:
        holder.listen()
        holder.setblocking(False)

        def came() -> bool:
            try:
                holder.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield holder.getsockname()[1], came

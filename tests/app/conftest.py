"""An index of handwritten digits, and one browser to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pixel_embedder import index_digits, page_of


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

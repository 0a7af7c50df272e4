"""What holds the tabs together: how one is told of (`Tab`), found, and what all of them share (`Shared`).

A tab is a folder of `app/tabs/`: `__init__.py` with its `TAB`, `draw.py` that lays it out, `answer.py` that
answers; `page.css` and `page.js` where it has any. It is found by being there, so tabs share no file.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.routing import BaseRoute, Mount

from app.desk import Desk
from app.toolkit import gr

TABS = Path(__file__).with_name("tabs")
ROUTES = "/jepack"  # own routes of a tab lie at /jepack/NAME/


@dataclass(frozen=True)
class Selection:
    """Images that a person chose in one tab, for all tabs; empty is all images."""

    ids: tuple[str, ...] = ()
    said: str = ""  # where they come from: "on the map"


@dataclass(frozen=True)
class Wanted:
    """An image that a tab asks Search to look at. `number` tells two clicks on one image apart."""

    name: str
    number: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True)
class Shared:
    """What every tab may listen to (`.change`) and set (as outputs); a State's value is the visitor's own."""

    page: gr.Blocks  # .load
    tabs: gr.Tabs  # gr.Tabs(selected="search") as an answer opens a tab
    wanted: gr.State  # Wanted | None; `look_at` fills it
    selection: gr.State  # Selection
    query: gr.State  # what Search looks at, its Query | None


@dataclass(frozen=True, kw_only=True)
class Tab:
    """What a folder of `app/tabs/` tells of itself as `TAB`."""

    title: str  # one word
    place: int  # from left to right, in tens: search 10, map 20, probe 30, clean 40, compare 50, health 60
    lay_out: Callable[[Desk, Shared], None]  # called inside its gr.Tab; connects its own events
    routes: Callable[[Desk], Sequence[BaseRoute]] = lambda desk: ()  # for binary data
    applies: Callable[[Desk], bool] = lambda desk: True  # whether there is something to show


def find_tabs(desk: Desk) -> dict[str, Tab]:
    """{name of its folder: tab} of those that apply, from left to right."""
    names = [one.name for one in pkgutil.iter_modules([str(TABS)]) if one.ispkg]
    found = {name: importlib.import_module(f"app.tabs.{name}").TAB for name in names}
    return {
        name: tab
        for name, tab in sorted(found.items(), key=lambda pair: (pair[1].place, pair[0]))
        if tab.applies(desk)
    }


def look_at(name: str) -> tuple[Wanted, gr.Tabs]:
    """What a handler returns for `[shared.wanted, shared.tabs]` to open an image in Search."""
    return Wanted(name), gr.Tabs(selected="search")


def styles() -> list[Path]:
    """The page's CSS and the tabs', in this order."""
    return [Path(__file__).with_name("page.css"), *sorted(TABS.glob("*/page.css"))]


def scripts() -> str:
    """The page's `page.js` and the tabs', for the head of the page."""
    files = [Path(__file__).with_name("page.js"), *sorted(TABS.glob("*/page.js"))]
    return "".join(f"<script>{file.read_text()}</script>" for file in files)


def routes(desk: Desk) -> list[BaseRoute]:
    """The tabs' own addresses; the one place where a check of who asks belongs."""
    found = {name: list(tab.routes(desk)) for name, tab in find_tabs(desk).items()}
    return [Mount(f"{ROUTES}/{name}", routes=own) for name, own in found.items() if own]

"""The map's own addresses below /jepack/map/: places and colours as bytes, a thumbnail, a still picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.desk import Desk
from app.tabs.map import pieces, still
from app.tabs.map.atlas import Atlas, atlas_of
from jepack.errors import DataError, JepackError

SCRIPT = Path(__file__).with_name("scatterplot") / "regl-scatterplot.js"
BYTES = "application/octet-stream"


def routes(desk: Desk) -> list[BaseRoute]:
    atlas = atlas_of(desk)
    answers: dict[str, Callable[[Request], Response]] = {
        "points": partial(points, atlas),
        "colours": partial(colours, atlas, desk),
        "about": partial(about, atlas, desk),
        "still.png": partial(picture, atlas, desk),
        "regl-scatterplot.js": script,
    }
    return [Route(f"/{name}", told(answer), methods=["GET"]) for name, answer in answers.items()]


def told(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """A fault as a sentence that the page shows."""

    def endpoint(request: Request) -> Response:
        try:
            return answer(request)
        except JepackError as error:
            return PlainTextResponse(str(error), status_code=409)

    return endpoint


def script(request: Request) -> Response:
    return FileResponse(SCRIPT, media_type="text/javascript", headers={"Cache-Control": "no-cache"})


def points(atlas: Atlas, request: Request) -> Response:
    """float32, little-endian: all x, then all y."""
    found = atlas.shown(request.query_params.get("layout", "pca"))
    check_order(atlas, request)
    return Response(found.xy_N2.T.astype("<f4").tobytes(), media_type=BYTES)


def colours(atlas: Atlas, desk: Desk, request: Request) -> Response:
    """uint16, little-endian: the category of each image, in the order of the points."""
    found = atlas.coloured(desk, request.query_params.get("by", ""))
    check_order(atlas, request)
    codes = b"" if found is None else found.codes_N.astype("<u2").tobytes()
    return Response(codes, media_type=BYTES)


def about(atlas: Atlas, desk: Desk, request: Request) -> Response:
    """One image's thumbnail and names, as HTML."""
    atlas.refresh()
    check_order(atlas, request)
    name = atlas.ids[number(request, "row", len(atlas.ids))]
    [row] = desk.library.store.get([name])
    return HTMLResponse(pieces.about(row, desk.seen, desk.colours))


def picture(atlas: Atlas, desk: Desk, request: Request) -> Response:
    """The map as PNG, for a browser without WebGL."""
    found = atlas.shown(request.query_params.get("layout", "pca"))
    coloured = atlas.coloured(desk, request.query_params.get("by", ""))
    side = number(request, "side", 2001, 900)
    stream = io.BytesIO()
    still.draw(found.xy_N2, coloured, max(64, side)).save(stream, "PNG")
    return Response(
        stream.getvalue(), media_type="image/png", headers={"Cache-Control": "no-store"}
    )


def number(request: Request, name: str, beyond: int, otherwise: int = 0) -> int:
    """A whole number below `beyond` from the address. Raises DataError."""
    text = request.query_params.get(name, str(otherwise))
    if not text.isdecimal() or len(text) > 12 or int(text) >= beyond:
        raise DataError(f"{name}={text[:40]}: need a whole number below {beyond:,}")
    return int(text)


def check_order(atlas: Atlas, request: Request) -> None:
    """The page and the server must mean the same image by a number."""
    asked = request.query_params.get("order", atlas.order)
    if asked != atlas.order:
        raise DataError(
            "The index has been built again since this page was opened. Reload the page."
        )

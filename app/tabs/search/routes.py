"""The Search tab's own address: an image of the index, in full."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.desk import Desk
from app.originals import full_size, read_original
from jepack.errors import JepackError

HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def routes(desk: Desk) -> Sequence[BaseRoute]:
    return [Route("/full", partial(full, desk))]


def full(desk: Desk, request: Request) -> Response:
    """`?id=`: as WebP; 404 with a sentence for what is not in the index, or no longer there.

    An id is looked up in the index before any path is made of it, so no other file can be asked for.
    """
    name = request.query_params.get("id", "")
    try:
        store = desk.library.store
        if not store.has(name):
            return PlainTextResponse("The index holds no such image.", 404, HEADERS)
        picture = full_size(read_original(store.info, name))
    except JepackError as error:
        return PlainTextResponse(str(error), 404, HEADERS)
    return Response(picture, media_type="image/webp", headers=HEADERS)

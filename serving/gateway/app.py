"""The plan of the gateway: bytes -> one parser -> limits -> one `embed` -> one answer writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from jepack import __version__
from jepack.client import BusyError, ImageError
from jepack.errors import ServerError
from serving.gateway import answers, describe, oip, parse
from serving.gateway.engines import Embedded, Engine, kept_by, limits_for
from serving.gateway.errors import Refusal, invalid
from serving.gateway.fleet import Fleet, check_fingerprint
from serving.gateway.front import Front, refused
from serving.gateway.health import Health
from serving.gateway.keys import Keys
from serving.gateway.limits import Limits, Queue, deadline_of
from serving.gateway.metrics import CONTENT_TYPE, Metrics
from serving.gateway.options import Offer, truth
from serving.gateway.probing import Probes, by_engine, said_by
from serving.gateway.shares import Shares
from serving.gateway.stream import Stream
from serving.gateway.watching import Watch, Watches

# path: (how its requests are read, how they are answered)
DIALECTS: dict[str, tuple[parse.Dialect, answers.Writer]] = {
    "/v1/embeddings": (parse.openai, answers.openai),
    "/openai/v1/embeddings": (parse.openai, answers.openai),
    "/embeddings": (parse.openai, answers.openai),  # Infinity's
    "/v2/embed": (parse.cohere, answers.cohere),
    "/v1/multimodalembeddings": (parse.voyage, answers.voyage),
    "/vectors": (parse.weaviate, answers.weaviate),
}


@dataclass(frozen=True)
class Place:
    """An engine, and what the routes of all share."""

    engine: Engine
    fleet: Fleet[Place]  # that it is one of
    offer: Offer
    limits: Limits
    queue: Queue
    metrics: Metrics
    health: Health
    watch: Watch
    watches: Watches

    async def answer(
        self, request: Request, dialect: parse.Dialect, writer: answers.Writer
    ) -> Response:
        """The way of one request. Raises Refusal."""
        body = await self.queue.body(request)
        try:
            received = parse.Received(
                body,
                request.headers.get("content-type", ""),
                dict(request.query_params),
                dict(request.headers),
                caller_of(request),
            )
            request_id = request.state.request_id

            def work(left_s: float) -> tuple[answers.Written, dict[str, int]]:
                found = parse.read(received, dialect, self.limits)
                place = self.fleet.choose(found[1], received.caller)
                asked = parse.parsed(found, place.offer, self.limits)
                check_fingerprint(place.engine.endpoint, asked)
                place.watch.check(asked.options.atypicality)
                answered = place.embed(asked, request_id, left_s)
                told = {"images": len(answered.good), "refused": len(answered.bad)}
                return writer(answered), told

            stream = Stream(request.receive)
            (content, headers), told = await self.queue.run(
                work, deadline_of(request, self.limits), stream.left
            )
        finally:
            self.queue.release(len(body))
        request.state.told = told
        return Response(content, headers=headers)

    def embed(self, asked: parse.Asked, request_id: str, left_s: float) -> answers.Answered:
        """Raises Refusal for a bad image by its name in the request, and for an engine that fails."""
        skip = asked.options.skip_bad
        try:
            found = self.engine.embed(asked.images, limit_s=left_s, skip_bad=skip)
        except ImageError as error:
            self.metrics.images.labels("refused").inc()
            raise invalid("invalid_image", str(error), asked.params[error.number]) from error
        except BusyError as error:
            raise Refusal(
                504, "deadline", f"the engine did not keep up: no answer within {left_s:.3g} s"
            ) from error
        except ServerError as error:
            raise Refusal(
                503, "engine_failed", f"the engine failed: {error}", retry_after_s=5
            ) from error
        return self.checked(asked, found, request_id)

    def checked(self, asked: parse.Asked, found: Embedded, request_id: str) -> answers.Answered:
        endpoint = self.engine.endpoint
        self.metrics.answers.labels(endpoint.bundle, str(endpoint.version)).inc()
        good = [number for number in range(len(asked.images)) if number not in found.bad]
        self.metrics.images.labels("embedded").inc(len(good))
        self.metrics.images.labels("refused").inc(len(found.bad))
        if not good:
            number, reason = min(found.bad.items())
            raise invalid(
                "invalid_image", f"{reason} (and no other image is good)", asked.params[number]
            )
        if not all(np.isfinite(rows).all() for rows in found.rows.values()):
            raise Refusal(500, "non_finite", "the encoder gave values that are no numbers")
        self.watch.see(found.rows["projection"])
        strange = (
            self.watch.atypicality(found.rows["projection"]) if asked.options.atypicality else None
        )
        said = said_by(self.offer.probes, asked.options.probes, found.rows)
        return answers.Answered(
            asked, found.rows, good, found.bad, endpoint, request_id, strange, said
        )


def build(
    engines: Engine | Sequence[Engine],
    *,
    shares: Shares | None = None,
    limits: Limits | None = None,
    keys: Keys | None = None,
    only_here: bool = True,
    watches: Sequence[Watch] = (),
    probes: Sequence[Probes] = (),
) -> tuple[Front, Place]:
    """The ASGI application and what its routes share. `only_here`: refuse what a browser sends for a web page
    from elsewhere; for a gateway on loopback without keys. `watches`: by the engine's endpoint. `probes`: of
    each engine, or () for none. Raises ConfigError for a probe of another encoder."""
    every = listed(engines)
    limits = limits or limits_for(every[0])
    queue, fleet, all_watches = Queue(limits), Fleet[Place](shares), Watches(watches)
    metrics, health = Metrics(fleet, queue), Health(fleet)
    for engine, own in by_engine(every, probes):
        watch = all_watches.of(engine.endpoint)
        offer = Offer(engine.endpoint, kept_by(engine), own)
        place = Place(engine, fleet, offer, limits, queue, metrics, health, watch, all_watches)
        fleet.add(place)
    metrics.registry.register(all_watches)
    app = FastAPIOffline(
        "/docs",
        None,
        title="jepack",
        version=__version__,
        description=describe.ABOUT,
        static_url="/docs-static",
    )
    for path, (dialect, writer) in DIALECTS.items():
        app.add_api_route(
            path,
            door(place, dialect, writer),
            methods=["POST"],
            operation_id=path.strip("/").replace("/", "_"),
            **describe.route(path),
        )
    add_pages(app, place)
    app.add_exception_handler(Refusal, told_refusal)
    app.add_exception_handler(HTTPException, told_http)
    app.add_exception_handler(Exception, told_failure)
    return Front(app, keys, place.metrics, queue, only_here=only_here), place


def listed(engines: Engine | Sequence[Engine]) -> list[Engine]:
    return list(engines) if isinstance(engines, Sequence) else [engines]


def caller_of(request: Request) -> str:
    """Who asks: the key, else the address."""
    headers, client = request.headers, request.client
    return (
        headers.get("authorization") or headers.get("x-api-key") or (client.host if client else "")
    )


def door(place: Place, dialect: parse.Dialect, writer: answers.Writer) -> Callable[..., Any]:
    async def embed(request: Request) -> Response:
        return await place.answer(request, dialect, writer)

    return embed


def add_pages(app: FastAPI, place: Place) -> None:
    """What is served, whether it works, and figures."""
    fleet = place.fleet

    def described() -> list[dict[str, Any]]:
        return [
            {**one, **place.watch.offers()}
            for label, place, share in fleet.told()
            for one in describe.models(place.offer, place.limits, label, share)
        ]

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": described()}

    async def model(name: str) -> dict[str, Any]:
        for one in described():
            if one["id"] == name:
                return one
        known = ", ".join(one["id"] for one in described())
        raise Refusal(404, "model_not_found", f"no model {name!r:.100}; there are {known}")

    async def live() -> dict[str, str]:
        return {"status": "live"}

    async def ready() -> dict[str, str]:
        if problem := await place.health.problem():
            raise Refusal(503, "not_ready", problem, retry_after_s=2)
        return {"status": "ready"}

    async def weaviate_live() -> Response:
        return Response(status_code=204)

    async def weaviate_ready() -> Response:
        await ready()
        return Response(status_code=204)

    async def infer(name: str, request: Request, version: str = "") -> Response:
        return await place.answer(request, oip.reader(oip.label(name, version)), oip.answer)

    async def figures() -> Response:
        page = await asyncio.to_thread(place.metrics.page)
        return Response(page, headers={"content-type": CONTENT_TYPE})

    async def drift(request: Request) -> dict[str, Any]:
        history = truth(request.query_params, "history")
        return {"object": "list", "data": await asyncio.to_thread(place.watches.told, history)}

    for root in ("", "/v1", "/openai/v1"):
        here, one = root == "/v1", f"{root}/models/{{name}}"
        app.add_api_route(
            f"{root}/models", models, include_in_schema=here, summary="What is served"
        )
        app.add_api_route(
            one, model, responses=describe.told(404), include_in_schema=here, summary="One of them"
        )
    for path in ("/health/live", "/v1/health/live"):
        app.add_api_route(
            path, live, include_in_schema=path == "/health/live", summary="Whether the process runs"
        )
    for path in ("/health/ready", "/health", "/v1/health/ready"):
        app.add_api_route(
            path,
            ready,
            include_in_schema=path == "/health/ready",
            responses=describe.told(503),
            summary="Whether an image is embedded right",
        )
    app.add_api_route("/.well-known/live", weaviate_live, status_code=204, include_in_schema=False)
    app.add_api_route(
        "/.well-known/ready", weaviate_ready, status_code=204, include_in_schema=False
    )
    app.add_api_route("/meta", models, include_in_schema=False)
    for path in ("", "/versions/{version}"):
        path = f"/v2/models/{{name}}{path}/infer"
        app.add_api_route(path, infer, methods=["POST"], include_in_schema=False)
    app.include_router(oip.routes(fleet, ready))
    app.add_api_route(
        "/metrics", figures, response_class=PlainTextResponse, summary="Figures for Prometheus"
    )
    app.add_api_route("/v1/drift", drift, **describe.drift())


async def told_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refused(error, request.state.request_id)


async def told_http(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, no such method."""
    assert isinstance(error, HTTPException)
    code = {404: "no_such_path", 405: "no_such_method"}.get(error.status_code, "refused")
    allowed = (error.headers or {}).get("Allow")
    told = f"it takes {allowed}" if allowed else "/docs lists what there is"
    message = f"{request.method} {request.url.path!r:.100}: {error.detail}; {told}"
    answer = refused(Refusal(error.status_code, code, message), request.state.request_id)
    answer.headers.update(error.headers or {})
    return answer


async def told_failure(request: Request, error: Exception) -> Response:
    """Ours to mend; the caller gets the id that stands beside it in the log."""
    told = Refusal(500, "internal", "the gateway failed; its log tells why, by the request's id")
    return refused(told, request.state.request_id)

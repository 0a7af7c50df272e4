"""Which engine answers a request: by its model's name, the fingerprint it asks for, and the canary's share.

Of a name's versions the newest gets a share of the callers and the one before it the others; any of them can
be asked for as NAME@VERSION. A caller keeps its version while the share stays, and when it grows only moves
forward: vectors of two versions do not mix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from jepack.bundle import OUTPUTS
from jepack.client import Endpoint
from serving.gateway.engines import Engine
from serving.gateway.errors import Refusal
from serving.gateway.options import model_names
from serving.gateway.parse import Asked
from serving.gateway.shares import Shares


class HasEngine(Protocol):
    @property
    def engine(self) -> Engine: ...


P = TypeVar("P", bound=HasEngine)


class Fleet(Generic[P]):
    """The places of a gateway, one for each engine. The name of an engine is its endpoint's `bundle`.

    Where there is one name, requests need not say it.
    """

    def __init__(self, shares: Shares | None = None) -> None:
        self.shares = shares or Shares()
        self.by_name: dict[str, dict[int, P]] = {}

    def add(self, place: P) -> None:
        endpoint = place.engine.endpoint
        self.by_name.setdefault(endpoint.bundle, {})[endpoint.version] = place

    def all(self) -> Iterator[tuple[str, int, P]]:
        """(name, version, place)."""
        for name, versions in self.by_name.items():
            yield from ((name, number, place) for number, place in versions.items())

    def share(self, name: str, number: int) -> float:
        """Of the callers that ask for this name and name no version."""
        before, newest = self.pair(name)
        part = 1.0 if before == newest else self.shares.of(name)
        return part if number == newest else 1.0 - part if number == before else 0.0

    def pair(self, name: str) -> tuple[int, int]:
        """(the version before the newest, the newest); the same where there is one."""
        numbers = sorted(self.by_name[name])
        return numbers[-2:][0], numbers[-1]

    def usual(self, name: str) -> int:
        """The version that most callers get."""
        return max(self.by_name[name], key=lambda number: (self.share(name, number), number))

    def told(self) -> Iterator[tuple[str, P, float]]:
        """(label, place, share) of what can be asked for; a bare name with what most callers get."""
        for name, versions in self.by_name.items():
            usual = self.usual(name)
            yield name, versions[usual], self.share(name, usual)
            if len(versions) > 1:
                for number, place in versions.items():
                    yield f"{name}@{number}", place, self.share(name, number)

    def names(self) -> list[str]:
        """All that a request's `model` may be."""
        told = [(label, place.engine.endpoint) for label, place, _ in self.told()]
        return [name for label, endpoint in told for name in model_names(endpoint, label)]

    def choose(self, fields: Mapping[str, Any], caller: str) -> P:
        """Raises Refusal: 404 for a model that is not here, 409 for a fingerprint that is not.

        `caller` stands for who asks where the request names no user.
        """
        name, number = self.named(str(fields.get("model") or ""))
        versions = self.by_name[name]
        if wanted := str(fields.get("fingerprint") or ""):
            among = versions if number is None else {number: versions[number]}
            return with_fingerprint(wanted, among)
        if number is not None:
            return versions[number]
        user = str(fields.get("user") or caller)
        before, newest = self.pair(name)
        return versions[newest if position(name, user) < self.share(name, newest) else before]

    def find(self, label: str) -> tuple[str, P]:
        """(name, place) of a label, whoever asks. Raises Refusal."""
        name, number = self.named(label)
        return name, self.by_name[name][number or self.usual(name)]

    def named(self, model: str) -> tuple[str, int | None]:
        """(name, version or None) of what a request calls its model. Raises Refusal."""
        label, colon, output = model.rpartition(":")
        if not colon or output not in OUTPUTS:
            label = model
        short, at, number = label.rpartition("@")
        if at and number.isdecimal() and self.known(label) is None:
            name = self.known(short)
            if name is not None and int(number) in self.by_name[name]:
                return name, int(number)
        elif (name := self.known(label)) is not None:
            return name, None
        asked = f"no model {label!r:.100}" if label else "no model is named"
        told = f"{asked}; this endpoint serves {', '.join(self.names())}"
        raise Refusal(404, "model_not_found", told, param="model")

    def known(self, name: str) -> str | None:
        """A name that is served; of one as on the Hub, "who/photos", "photos" is enough."""
        if not name and len(self.by_name) == 1:
            return next(iter(self.by_name))
        return next((one for one in self.by_name if name in (one, one.rpartition("/")[2])), None)

    def problem(self) -> str | None:
        """What is wrong with the first engine that does not work; None when all do."""
        for name, number, place in self.all():
            if problem := place.engine.problem():
                return problem if len(list(self.all())) == 1 else f"{name}@{number}: {problem}"
        return None


def with_fingerprint(wanted: str, versions: Mapping[int, P]) -> P:
    for number in sorted(versions, reverse=True):
        if wanted in versions[number].engine.endpoint.fingerprints.values():
            return versions[number]
    raise not_served(wanted, [place.engine.endpoint for place in versions.values()])


def check_fingerprint(endpoint: Endpoint, asked: Asked) -> None:
    """Raises Refusal where the fingerprint is that of another output than the one asked for."""
    wanted = str(asked.fields.get("fingerprint") or "")
    if wanted and wanted != endpoint.fingerprints[asked.options.output]:
        raise not_served(wanted, [endpoint], f" for the output {asked.options.output}")


def not_served(wanted: str, endpoints: Sequence[Endpoint], what: str = "") -> Refusal:
    """Answered otherwise, vectors of two spaces would be mixed in silence."""
    there = [
        f"{text} ({one.bundle}@{one.version}, {output})"
        for one in endpoints
        for output, text in one.fingerprints.items()
    ]
    return Refusal(
        409,
        "fingerprint_not_served",
        f"{wanted!r:.60} is not served here{what}; there are {', '.join(there)}. Vectors of two fingerprints "
        "do not mix: embed them again, or ask a server that holds it",
        param="fingerprint",
    )


def position(name: str, user: str) -> float:
    """Where a caller stands in [0, 1): always the same, and elsewhere for another name."""
    digest = hashlib.sha256(f"{name}\0{user}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48

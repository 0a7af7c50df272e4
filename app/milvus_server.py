"""Asking Milvus: one connection for each server, and its errors as ours."""

from __future__ import annotations

import fcntl
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.milvus_address import CA_FILE, TOKEN, TOKEN_FILE, Address, token
from jepack.errors import ArtifactError, ConfigError, DependencyError, ServerError

CONNECT_S = 10.0
ANSWER_S = 60.0  # of one call
FACTS, SCALE = "jepack.index", "jepack.scale"  # properties of a collection
INSTALL = "pip install 'jepack[milvus]'"


@dataclass(frozen=True)
class Described:
    """A collection: its own name, where it was asked by an alias, what it is told by, and its properties."""

    name: str
    number: int
    properties: dict[str, str]


class Server:
    """One server, or one file of Milvus Lite. For all threads."""

    def __init__(self, address: Address, client: Any) -> None:
        self.named = address.server
        self.client = client

    def call(self, method: str, *words: Any, **options: Any) -> Any:
        """A method of `MilvusClient`. Raises ServerError or ArtifactError."""
        work = getattr(self.client, method)
        return self.guarded(functools.partial(work, *words, timeout=ANSWER_S, **options))

    def guarded(self, work: Callable[[], Any]) -> Any:
        from grpc import RpcError
        from pymilvus.exceptions import MilvusException

        try:
            return work()
        except (MilvusException, RpcError) as error:
            raise told(self.named, error) from error

    def described(self, name: str) -> Described | None:
        """The collection of this name or alias; None where there is none."""
        if not self.call("has_collection", name):
            return None
        found = self.call("describe_collection", name)
        return Described(
            found["collection_name"],
            int(found["collection_id"]),
            dict(found.get("properties") or {}),
        )

    def names(self) -> list[str]:
        """Of the indexes of jepack that are there: their aliases."""
        found = []
        for name in self.call("list_collections"):
            if FACTS in (self.call("describe_collection", name).get("properties") or {}):
                found += self.call("list_aliases", name)["aliases"]
        return sorted(found)


def connect(address: Address) -> Server:
    """Raises ServerError where nobody answers or the token is wrong, DependencyError without pymilvus."""
    return connected(address, token(), os.getpid())


@functools.lru_cache(maxsize=16)
def connected(address: Address, token: str, process: int) -> Server:
    """`process`: a forked child needs a connection of its own."""
    try:
        from grpc import RpcError
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        if address.lite:
            import milvus_lite  # noqa: F401
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{address}: an index in Milvus needs {error.name}, which is not installed. Install it: {INSTALL}"
        ) from error
    for name in ("pymilvus", "pymilvus.decorators", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it logs what it raises
    if address.lite:
        # Its server, in this process, reports what it does not know although pymilvus does without.
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
        if Path(address.uri).is_file():
            raise ArtifactError(
                f"{address.uri}: a file, and no index of Milvus Lite, which is a folder. Name another"
            )
        Path(address.uri).parent.mkdir(parents=True, exist_ok=True)
        try:
            return Server(address, MilvusClient(address.uri))
        except MilvusException as error:
            raise not_opened(Path(address.uri), words_of(error)) from error
    options: dict[str, Any] = {"token": token} if token else {}
    if address.database:
        options["db_name"] = address.database
    if address.secure and (file := os.environ.get(CA_FILE)):
        if not Path(file).is_file():
            raise ConfigError(
                f"{CA_FILE}: {file} is no file. Need a PEM of who signed the certificate"
            )
        options["server_pem_path"] = file
    try:
        return Server(address, MilvusClient(address.uri, timeout=CONNECT_S, **options))
    except (MilvusException, RpcError) as error:
        raise told(address.server, error) from error


def not_opened(place: Path, words: str) -> ServerError | ArtifactError:
    """Why Milvus Lite, which says no more than that it failed, did not open its folder."""
    nearest = place if place.exists() else place.parent
    if not os.access(nearest, os.W_OK):
        return ArtifactError(
            f"{place}: Milvus Lite cannot open it: {nearest} cannot be written to, which it needs even to "
            f"read. Copy it, with {place.name}-COLLECTION beside it, to where you may write"
        )
    if in_use(place / "LOCK"):
        return ServerError(
            f"{place}: Milvus Lite cannot open it: another process has it open, and one at a time can. "
            "Close the other (a page, a build). More need a server"
        )
    return ServerError(
        f"{place}: Milvus Lite cannot open it ({words}). It may be damaged: name another, or build it again: "
        f"jepack index DATA --to {place}"
    )


def in_use(lock: Path) -> bool:
    try:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return lock.exists()
    return False


def told(server: str, error: BaseException) -> ServerError | ArtifactError:
    """What Milvus says, as what was found, what is needed and what to do."""
    text = words_of(error)
    low = text.lower()
    if "auth check" in low or "authorization" in low or "permission" in low:
        return ServerError(
            f"{server}: refused who asks ({text}). Set {TOKEN} to USER:PASSWORD or a key, or "
            f"{TOKEN_FILE} to a file that holds it"
        )
    if "certificate" in low:
        return ServerError(
            f"{server}: its certificate is not trusted here ({text}). Set {CA_FILE} to a PEM of who signed it"
        )
    if any(word in low for word in ("connect", "unavailable", "deadline", "timeout", "socket")):
        return ServerError(
            f"{server}: no Milvus answers there ({text}). See that it runs, and that the address and http or "
            "https are right"
        )
    if "database not found" in low:
        return ArtifactError(f"{server}: no such database ({text}). Make it, or name another")
    return ServerError(f"{server}: Milvus could not do it ({text})")


def words_of(error: BaseException) -> str:
    """pymilvus's own, or gRPC's where they are below it: "Fail connecting" hides a token that was refused."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:  # it raises errors from themselves
        if callable(details := getattr(one, "details", None)):
            return " ".join(str(details()).split())[:300]
        seen.append(one)
        one = one.__context__ if one.__cause__ in (None, one) else one.__cause__
    return " ".join(str(getattr(error, "message", "") or error).split())[:300]

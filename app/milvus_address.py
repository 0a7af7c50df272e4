"""Where an index in Milvus is: an address, and the folder on this machine that stands for it.

`http(s)://HOST[:PORT][/DATABASE][#COLLECTION]` is a server, a path that ends in `.db` Milvus Lite. The token
never stands in the address: it comes from the environment, as it is or as a file's name.

The folder holds what is about the index and not in it: POINTER (the address), `index.json` and `scale.json`
as the server last told them, maps, and the journal beside it. Every command takes it for the address.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from jepack.errors import ArtifactError, ConfigError
from jepack.files import write_json
from jepack.names import shown

POINTER = "milvus.json"
COLLECTION = "images"  # where none is named
PORT = "19530"
LITE = ".db"
FOLDERS = "JEPACK_INDEXES"  # environment: where the folders of indexes on servers lie
TOKEN, TOKEN_FILE = (
    "JEPACK_MILVUS_TOKEN",
    "JEPACK_MILVUS_TOKEN_FILE",
)  # environment; "USER:PASSWORD" or a key
CA_FILE = "JEPACK_CA_FILE"  # environment: PEM of who signed the server's certificate
SERVER = re.compile(
    r"(?P<root>(?P<scheme>https?)://(?P<host>\[[\w:.%]+\]|[^\[\]:/@?#\s]+)(:(?P<port>[0-9]{1,5}))?)"
    r"(/(?P<database>[A-Za-z_][A-Za-z0-9_]*)?)?(#(?P<collection>[^#]*))?",
    re.IGNORECASE,
)
# What was meant for an address: `x.dbb#q`, `x.DB`, `HOST:PORT`.
MISTYPED = re.compile(r".*#.*|.*\.db|[\w.-]+:[0-9]{1,5}(/\w*)?", re.IGNORECASE | re.DOTALL)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
NEEDED = (
    "An index on a server is http(s)://HOST:PORT[/DATABASE][#COLLECTION], such as "
    "http://127.0.0.1:19530#photos; one in a file is PATH.db[#COLLECTION]"
)


@dataclass(frozen=True)
class Address:
    uri: str  # http(s)://host:port, or the absolute path of a file
    collection: str
    database: str = ""

    def __str__(self) -> str:
        return f"{self.server}#{self.collection}"

    @property
    def server(self) -> str:
        return f"{self.uri}/{self.database}" if self.database else self.uri

    @property
    def lite(self) -> bool:
        return "://" not in self.uri

    @property
    def secure(self) -> bool:
        return self.uri.startswith("https://")

    @property
    def folder(self) -> Path:
        """What stands for it on this machine: beside a file; for a server below $JEPACK_INDEXES, else
        below the user's data folder."""
        if self.lite:
            return Path(f"{self.uri}-{self.collection}")
        chosen, data = os.environ.get(FOLDERS), os.environ.get("XDG_DATA_HOME")
        root = Path(data) if data else Path.home() / ".local" / "share"
        name = "+".join(filter(None, [*self.uri.split("//")[1].rsplit(":", 1), self.database]))
        return (
            Path(chosen) if chosen else root / "jepack" / "indexes"
        ) / f"{name}+{self.collection}"


def address_of(where: str | Path) -> Address | None:
    """The address that `where` is, or that the folder `where` points to; None for a folder of its own.

    Raises ConfigError for an address that cannot be.
    """
    text = str(where)
    if isinstance(where, str) and "://" in text:
        return of_server(text)
    path, _, collection = text.partition(f"{LITE}#")
    if collection or text.endswith(LITE):
        path = path.removesuffix(LITE) + LITE
        if not (Path(path) / "index.json").is_file():  # a folder may be called so
            return Address(os.path.abspath(path), checked(text, collection or COLLECTION))
    return of_pointer(Path(where))


def refuse_mistyped(where: str | Path) -> None:
    """Raises ConfigError for a word that was meant for an address and is none, nor a folder that is there."""
    if MISTYPED.fullmatch(str(where)) and not os.path.lexists(where):
        raise ConfigError(f"{shown(where)}: no such folder, and no address of an index. {NEEDED}")


def of_server(text: str) -> Address:
    found = SERVER.fullmatch(text)
    if found is None:
        secret = "@" in text.split("#")[0]
        told = shown(re.sub(r"//.*@", "//...@", text))
        advice = (
            f" A token stands in {TOKEN} or in the file that {TOKEN_FILE} names." if secret else ""
        )
        raise ConfigError(f"{told}: no address of an index. {NEEDED}.{advice}")
    port = found["port"] or PORT
    if not 0 < int(port) < 1 << 16:
        raise ConfigError(f"{text}: ports go from 1 to 65535. {NEEDED}")
    uri = f"{found['scheme'].lower()}://{found['host'].lower()}:{port}"
    return Address(uri, checked(text, found["collection"] or COLLECTION), found["database"] or "")


def checked(text: str, collection: str) -> str:
    if not NAME.fullmatch(collection):
        raise ConfigError(
            f"{shown(text)}: {shown(collection)!r} cannot name a collection. Need letters, digits and _, "
            "not a digit first"
        )
    return collection


def of_pointer(folder: Path) -> Address | None:
    try:
        value = json.loads((folder / POINTER).read_text())
        return Address(str(value["uri"]), str(value["collection"]), str(value["database"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{folder}: {POINTER} cannot be read ({error}). Name the index by its address instead"
        ) from error


def write_pointer(address: Address) -> None:
    value = {"uri": address.uri, "database": address.database, "collection": address.collection}
    write_json(address.folder / POINTER, value)


def token() -> str:
    """What a server is told of who asks; "" where nothing is set. Raises ConfigError."""
    file = os.environ.get(TOKEN_FILE)
    if not file:
        return os.environ.get(TOKEN, "")
    try:
        return Path(file).read_text().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{TOKEN_FILE}: {file} cannot be read ({error})") from error

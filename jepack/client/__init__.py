"""Ask a running endpoint for embeddings: `Client().embed(["a.jpg", picture, pixels])`. No torch here.

The plan of a call stands in `core` and `call`, without input and output; `Client` drives it with threads,
`AsyncClient` with tasks, each over gRPC or over the gateway's HTTP.
"""

from jepack.client.address import DEFAULT_URL, address_of, check_address
from jepack.client.answers import Embeddings, Endpoint
from jepack.client.asynchronous import AsyncClient
from jepack.client.failures import BusyError, ImageError, UnreachableError
from jepack.client.items import Item, batches_of, listed, name_of
from jepack.client.saved import (
    PARTS,
    READ_SINCE,
    RECORD,
    Saved,
    SavedRows,
    about,
    check_finished,
    default_output,
    is_saved,
    parquet,
    read_saved,
    saved_rows,
    since_of,
)
from jepack.client.synchronous import Client

__all__ = [
    "DEFAULT_URL",
    "PARTS",
    "READ_SINCE",
    "RECORD",
    "AsyncClient",
    "BusyError",
    "Client",
    "Embeddings",
    "Endpoint",
    "ImageError",
    "Item",
    "Saved",
    "SavedRows",
    "UnreachableError",
    "about",
    "address_of",
    "batches_of",
    "check_address",
    "check_finished",
    "default_output",
    "is_saved",
    "listed",
    "name_of",
    "parquet",
    "read_saved",
    "saved_rows",
    "since_of",
]

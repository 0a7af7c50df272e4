"""Ask a running endpoint for embeddings: `Client().embed(["a.jpg", picture, pixels])`. No torch here."""

from jepack.client.items import batches_of, listed, name_of
from jepack.client.saved import Saved, read_saved
from jepack.client.transport import ImageError, check_address
from jepack.client.triton import DEFAULT_URL, BusyError, Client, Embeddings, Endpoint, Item

__all__ = [
    "DEFAULT_URL",
    "BusyError",
    "Client",
    "Embeddings",
    "Endpoint",
    "ImageError",
    "Item",
    "Saved",
    "batches_of",
    "check_address",
    "listed",
    "name_of",
    "read_saved",
]

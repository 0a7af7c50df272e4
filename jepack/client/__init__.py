"""Ask a running endpoint for embeddings: `Client().embed(["a.jpg", picture, pixels])`. No torch here."""

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
    "check_address",
]

"""jepack: from a folder of domain images to an embedding service you can trust."""

__version__ = "0.1.0"

"""jepack: from a folder of domain images to an embedding service you can trust."""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later reports each session (graph, hashes, provider) to Microsoft from the moment it
# is imported, and keeps a device's number in ~/.cache. Here nothing leaves the machine unless asked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

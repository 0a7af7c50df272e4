"""The public door over HTTP in front of an engine: every dialect of image embeddings, one parser, one answer.

Start at app.py, which reads as the way of a request. Needs `jepack[serve]`; never imports torch.
"""

from serving.gateway.app import build
from serving.gateway.engines import EmbeddedEngine, Engine, TritonEngine
from serving.gateway.keys import Keys
from serving.gateway.limits import Limits
from serving.gateway.server import Gateway
from serving.gateway.shares import Shares
from serving.gateway.watching import Watch

__all__ = [
    "EmbeddedEngine",
    "Engine",
    "Gateway",
    "Keys",
    "Limits",
    "Shares",
    "TritonEngine",
    "Watch",
    "build",
]

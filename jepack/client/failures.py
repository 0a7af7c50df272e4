"""What asking an endpoint can end with, whichever way it was asked."""

from __future__ import annotations

from jepack.errors import DataError, ServerError


class BusyError(ServerError):
    """The server lives but did not keep up: its queue stayed full, or the deadline passed."""

    def __init__(self, message: str, *, again: bool = False, after_s: float | None = None) -> None:
        super().__init__(message)
        self.again = again  # whether asking again may help
        self.after_s = after_s  # when the server said to come again


class UnreachableError(ServerError):
    """Nobody answers there, or the server is starting or stopping: asking again may help."""

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class RequestError(ServerError):
    """The server lives and failed on this request; others may pass."""


class ImageError(DataError):
    """The server refused an image; `number` is its place in the request."""

    def __init__(self, reason: str, number: int = 0) -> None:
        super().__init__(reason)
        self.number = number

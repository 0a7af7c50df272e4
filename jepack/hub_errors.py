"""Asking the Hub again when it stumbles, and saying what is wrong when it does not recover."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from jepack.errors import ArtifactError, ConfigError, JepackError, ServerError

T = TypeVar("T")
Say = Callable[[str], None]

# Busy, overtaken by another commit, or broken for the moment.
PASSING = {408, 409, 412, 425, 429}
LOGIN = "Log in (`hf auth login`) or set HF_TOKEN to a token that may"


@dataclass(frozen=True)
class Patience:
    """How often to ask again. huggingface_hub's own retries of single requests come on top."""

    attempts: int = 4
    wait_s: float = 2.0  # before the second attempt; doubles each time


def persist(action: Callable[[], T], what: str, *, patience: Patience, say: Say) -> T:
    """The action's result, tried again after faults that may pass. Raises ServerError at the end."""
    wait_s = patience.wait_s
    for attempt in range(1, patience.attempts + 1):
        try:
            return action()
        except JepackError:
            raise
        # RuntimeError is what the xet transfer library raises; ValueError what huggingface_hub does.
        except (HTTPError, OSError, ValueError, RuntimeError) as error:
            if not passing(error):
                raise explained(error, what) from error
            if attempt == patience.attempts:
                raise ServerError(
                    f"{what}: failed {attempt} times, last: {first_line(error)}. "
                    "Nothing half-done is left behind; run the same command again to go on."
                ) from error
            say(f"{what}: {first_line(error)}; asking again in {wait_s:g} s")
            time.sleep(wait_s)
            wait_s *= 2
    raise AssertionError("patience has at least one attempt")


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, or None when no answer came."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if response is not None:
            return int(response.status_code)
        seen = seen.__cause__
    return None


def passing(error: Exception) -> bool:
    """May the same request succeed a little later?"""
    if isinstance(error, (OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError)):
        return False
    if isinstance(error, (HFValidationError, PermissionError)):
        return False
    if isinstance(error, ValueError) and not isinstance(error, (json.JSONDecodeError, OSError)):
        return False
    status = status_of(error)
    return status is None or status in PASSING or status >= 500


def explained(error: Exception, what: str) -> JepackError:
    """An error that asking again cannot mend, with what to do about it."""
    status = status_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return ConfigError(
            f"{what}: HF_HUB_OFFLINE is set, so nothing is asked of the Hub. Unset it."
        )
    if isinstance(error, RevisionNotFoundError):
        return ServerError(
            f"{what}: the repository has no such revision. Check what follows the @."
        )
    if isinstance(error, RepositoryNotFoundError):
        return ServerError(
            f"{what}: no such repository, or this token may not see it. Check the name. {LOGIN} read it."
        )
    if status in (401, 403):
        return ServerError(f"{what}: refused ({status}, {first_line(error)}). {LOGIN} write there.")
    if isinstance(error, HFValidationError):
        return ConfigError(f"{what}: {first_line(error)}")
    if isinstance(error, ValueError) and "README.md" in str(error):
        return ArtifactError(f"{what}: the Hub refuses the card's front matter. {error}")
    return ServerError(f"{what}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """What the error at the bottom says, in one line; its class when it says nothing."""
    while (
        isinstance(error, RuntimeError) and error.__cause__ is not None
    ):  # a failed upload wraps it
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__

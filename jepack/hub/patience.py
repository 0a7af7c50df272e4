"""Asking the Hub again when it stumbles, and saying what is wrong when it does not recover."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
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
# As the Hub words it: "Private repository storage limit reached, please upgrade your plan", "Your storage
# patterns tripped our internal systems!", and quotas of large files.
STORAGE_WORDS = re.compile(r"storage|quota|billing|payment|upgrade your plan|disk space|LFS", re.I)
TOKEN_WORDS = re.compile(
    r"token|credential|permission|authori[sz]|log ?in|forbidden|rights|role", re.I
)
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
    if about_storage(status_of(error), *said(error)):
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
    words, code = said(error)
    if isinstance(error, GatedRepoError) or code == "GatedRepo":
        return ServerError(
            f"{what}: a gated repository, which lets in whom its owner let in. Ask for access on its page "
            f"with the account of this token, then run the same command again.{quoted(words)}"
        )
    if isinstance(error, DisabledRepoError):
        return ServerError(f"{what}: the Hub has disabled this repository.{quoted(words)}")
    if isinstance(error, RepositoryNotFoundError):
        return ServerError(
            f"{what}: no such repository, or this token may not see it. Check the name. {LOGIN} read it."
        )
    if about_storage(status, words, code):
        return ServerError(
            f"{what}: the Hub refuses to store it ({status}); the token is not the reason.{quoted(words)} "
            "Free storage or raise its limit in the account's settings (billing, storage), or push to "
            "another account."
        )
    if status in (401, 403):
        if words and not TOKEN_WORDS.search(words):
            return ServerError(
                f"{what}: refused ({status}).{quoted(words)} If that is about the token: "
                f"{LOGIN[0].lower()}{LOGIN[1:]} write there."
            )
        return ServerError(f"{what}: refused ({status}).{quoted(words)} {LOGIN} write there.")
    if isinstance(error, HFValidationError):
        return ConfigError(f"{what}: {first_line(error)}")
    if isinstance(error, ValueError) and "README.md" in str(error):
        return ArtifactError(f"{what}: the Hub refuses the card's front matter. {error}")
    return ServerError(f"{what}: {first_line(error)}")


def said(error: BaseException) -> tuple[str, str]:
    """(the Hub's own message, its X-Error-Code) of the answer behind an error; empty when there is none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if response is not None:
            code = str(response.headers.get("X-Error-Code") or "")
            words = getattr(seen, "server_message", None) or response.headers.get("X-Error-Message")
            line = " ".join(str(words or "").split())
            return "".join(c for c in line if c.isprintable())[:300].rstrip("."), code
        seen = seen.__cause__
    return "", ""


def quoted(words: str) -> str:
    return f' The Hub says: "{words}".' if words else ""


def about_storage(status: int | None, words: str, code: str) -> bool:
    """Is this about room or payment, not about who asks? 402 is payment, 413 too large, 507 no room."""
    if status in (402, 413, 507):
        return True
    return status == 403 and bool(STORAGE_WORDS.search(f"{words} {code}"))


def first_line(error: BaseException) -> str:
    """What the error at the bottom says, in one line; its class when it says nothing."""
    while (
        isinstance(error, RuntimeError) and error.__cause__ is not None
    ):  # a failed upload wraps it
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__

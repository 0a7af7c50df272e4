"""What a value in somebody else's JSON may be: words, numbers and short lists of them; how one is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

WORD = re.compile(r"[A-Za-z0-9_.+-]{0,64}")  # no slash, no colon: neither a path nor an address
MOST = 65_536  # of a whole number: wider or deeper than any network
LONGEST = (
    64  # entries of a list, unless it has one for each channel: then as many as channels may be
)


def is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(WORD.fullmatch(value))


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MOST


def is_large(value: Any) -> bool:
    """A finite number of any size: intensities have their own units."""
    return type(value) in (int, float) and abs(value) < 1e300


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST


def is_flag(value: Any) -> bool:
    return type(value) is bool


def is_table(value: Any) -> bool:
    return isinstance(value, dict)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def is_list(check: Callable[[Any], bool], longest: int = LONGEST) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, (list, tuple)) and len(value) <= longest and all(map(check, value))
    )


def per_channel(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return is_list(check, MOST)


def or_nothing(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def is_plain(value: Any) -> bool:
    """A number, word, flag or nothing, or a list of them or of such lists."""
    single = or_nothing(lambda item: is_flag(item) or is_number(item) or is_word(item))
    inner = is_list(lambda item: single(item) or is_list(single)(item))
    return single(value) or inner(value)


def any_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words if isinstance(value, str) else False


def shown(value: Any) -> str:
    """Someone else's value in a message: one short line."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Names as people give them: bytes that are no UTF-8, line breaks, square brackets. One home for each need.

`kept` is how a name is stored (JSON, Parquet, the index) and `original` its way back, `shown` how a
person reads it, `marked` how rich prints it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.markup import escape

# Python keeps a byte of a file name that is no UTF-8 as a lone surrogate, U+DC80 to U+DCFF.
UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
ESCAPE = re.compile(r"\\x[0-9a-f]{2}|\\u[d][89a-f][0-9a-f]{2}")
WAY_BACK = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u(d[89a-f][0-9a-f]{2}))")
# Besides: other controls, line separators, and what turns the direction of writing around.
UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def kept(name: str) -> str:
    """The name as one line of valid text: a byte that is none becomes `\\xe9`, a line break `\\x0a`.

    `original` gives the name back. Names without such characters stay as they are; a backslash is doubled
    only where the name would otherwise read as escaped.
    """
    if not UNSAFE.search(name) and not ESCAPE.search(name):
        return name
    return UNSAFE.sub(escaped, name.replace("\\", "\\\\"))


def original(text: str) -> str:
    """The name that `kept` made `text` of."""
    return WAY_BACK.sub(unescaped, text) if ESCAPE.search(text) else text


def escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def unescaped(match: re.Match[str]) -> str:
    backslash, byte, code = match.groups()
    if backslash:
        return "\\"
    number = int(byte or code, 16)
    return chr(number + 0xDC00 if byte and number >= 0x80 else number)


def stored(name: str) -> str:
    """A name out of a file that may have been written before names were `kept`."""
    return kept(name) if UNSAFE.search(name) else name


def valid(text: str) -> str:
    """Text that any writer takes: as it is, or kept when it holds lone surrogates."""
    return kept(text) if any("\ud800" <= sign <= "\udfff" for sign in text) else text


def shown(name: object) -> str:
    """A name for people: one line, nothing invisible that acts on the screen."""
    return UNREADABLE.sub(escaped, str(name))


def marked(name: object) -> str:
    """`shown`, with what rich would take for markup escaped. For every name that rich prints."""
    return escape(shown(name))


def marked_lines(text: object) -> str:
    """Text of several lines, such as an error, for rich: every line `marked`."""
    return "\n".join(marked(line) for line in str(text).split("\n"))


def tell(console: Any, notes: Iterable[str]) -> None:
    """Print what was found out about a data set, a sentence each."""
    for note in notes:
        console.print(f"[yellow]note:[/] {marked_lines(note)}", highlight=False, soft_wrap=True)


def examples(names: Iterable[object], most: int = 3) -> str:
    """`a.png, b.png, c.png and 17 more`."""
    every = [shown(name) for name in names]
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")


def never_raise() -> None:
    """Let the terminal's encoding refuse nothing: what it does not know is printed escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

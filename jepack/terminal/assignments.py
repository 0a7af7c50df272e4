"""`name=value` on a command line: text to the types that a dataclass gives its fields."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jepack.errors import ConfigError


def assigned(
    options: Sequence[str], types: Mapping[str, Any], option: str, noun: str
) -> dict[str, Any]:
    """The values that some `name=value` texts, given by `option`, assign to names of these types.

    Raises ConfigError for what is no such `noun`, has no value or another type's, or is given twice.
    """
    names = names_of(options, option)
    values = {}
    for name, text in zip(names, options, strict=True):
        check_name(name, types, noun)
        values[name] = typed(name, text.partition("=")[2].strip(), types[name])
    return values


def names_of(options: Iterable[str], option: str, form: str = "field=value") -> list[str]:
    """The name in each text, none of them twice."""
    names = [name_of(text, option, form) for text in options]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{option} names {name} more than once; leave one of them out")
    return names


def name_of(text: str, option: str, form: str = "field=value") -> str:
    """The field that a text of this form names. Raises ConfigError when either is missing."""
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name or not value.strip():
        raise ConfigError(f"{option} needs {form}, found {text!r}")
    return name


def check_name(name: str, known: Iterable[str], noun: str) -> None:
    known = sorted(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f"Did you mean {', '.join(near)}?" if near else f"There are {', '.join(known)}."
        raise ConfigError(f"no {noun} called {name!r}. {hint}")


def typed(name: str, text: str, kind: Any) -> Any:
    """The value of a text in a field's own type: JSON where it parses as such, else the text itself."""
    from pydantic import TypeAdapter, ValidationError

    value = parsed(text)
    adapter = TypeAdapter(kind)
    # Words need no quotes, and a word may look like a number: a field of text takes it as it stands.
    for candidate in (value, *([] if value is None else [text])):
        try:
            return adapter.validate_json(json.dumps(candidate), strict=True)
        except ValidationError:
            continue
    raise ConfigError(f"{name} takes {words_of(kind)}, found {value!r}")


def words_of(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def parsed(text: str) -> Any:
    """JSON where the text is JSON, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def values_of(text: str) -> list[str]:
    """`a,b,[c,d]` -> a, b, [c,d]: commas inside brackets or quotes part nothing."""
    values, depth, quoted = [""], 0, False
    for sign in text:
        quoted ^= sign == '"'
        if not quoted:
            depth += (sign in "[{") - (sign in "]}")
        if sign == "," and not quoted and depth == 0:
            values.append("")
        else:
            values[-1] += sign
    return [value.strip() for value in values]

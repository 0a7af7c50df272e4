"""`--set field=value` and `--grid field=a,b,c`: text to settings in the fields' own types."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields, replace
from typing import Any

from jepack.errors import ConfigError
from training.config import TrainConfig

VIEW = "view."  # knobs of the preset


def override(config: TrainConfig, settings: list[str]) -> TrainConfig:
    """Apply `field=value` strings; values are JSON where they parse as such, else text.

    Raises ConfigError for what is no setting, has no value or another type's, or is given twice.
    """
    changes: dict[str, Any] = {}
    knobs = dict(config.view_overrides)
    types = {field.name: str(field.type) for field in fields(TrainConfig)}
    names = [name_of(setting, "--set") for setting in settings]
    refuse_twice(names, "--set")
    for name, setting in zip(names, settings, strict=True):
        text = setting.partition("=")[2].strip()
        if name.startswith(VIEW):
            knobs[name.removeprefix(VIEW)] = parsed(text)
            continue
        if name not in types:
            near = difflib.get_close_matches(name, types, 3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise ConfigError(f"no setting called {name!r}.{hint}")
        changes[name] = checked_type(name, parsed(text), getattr(config, name), types[name])
    if "view_overrides" in changes:
        knobs |= changes.pop("view_overrides")
    return replace(config, **{"view_overrides": knobs, **changes})


def name_of(setting: str, option: str) -> str:
    """The field that `field=value` names. Raises ConfigError when either is missing."""
    name, equals, text = setting.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name or not text.strip():
        raise ConfigError(f"{option} needs field=value, found {setting!r}")
    return name


def refuse_twice(names: list[str], option: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{option} names {name} more than once; leave one of them out")


def values_of(text: str) -> list[str]:
    """`a,b,[c,d]` -> a, b, [c,d]: commas inside brackets or quotes part nothing."""
    found, depth, quoted = [""], 0, False
    for sign in text:
        quoted ^= sign == '"'
        if not quoted:
            depth += (sign in "[{") - (sign in "]}")
        if sign == "," and not quoted and depth == 0:
            found.append("")
        else:
            found[-1] += sign
    return [value.strip() for value in found]


def parsed(text: str) -> Any:
    """JSON where the text is JSON, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def checked_type(name: str, value: Any, current: Any, wanted: str) -> Any:
    """The value in the field's own type, or ConfigError."""
    if value is None and "None" in wanted:
        return None
    base = wanted.replace(" | None", "")
    if base == "float" and is_number(value):
        return float(value)
    if base == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if base == "bool" and isinstance(value, bool):
        return value
    if base.startswith("dict") and isinstance(value, dict):
        return value
    if base == "str" and value is not None:
        return value if isinstance(value, str) else json.dumps(value)
    if (
        base.startswith("tuple")
        and isinstance(value, list)
        and len(value) == len(current)
        and all(is_number(item) for item in value)
    ):
        return tuple(float(item) for item in value)
    raise ConfigError(f"{name} takes {base}, found {value!r}")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

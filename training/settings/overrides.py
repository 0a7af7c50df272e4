"""`--set field=value`: changes to the settings and to the knobs of their view preset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from jepack.terminal.assignments import assigned, names_of, parsed
from training.settings.config import TrainConfig

VIEW = "view."  # knobs of the preset


def override(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """Apply `field=value` texts (see terminal.assignments). Raises ConfigError for what cannot be meant."""
    names_of(settings, "--set")
    knobs = dict(config.view_overrides)
    plain = []
    for setting in settings:
        name, _, text = setting.partition("=")
        if name.strip().startswith(VIEW):
            knob = name.strip().replace("-", "_").removeprefix(VIEW)
            knobs[knob] = parsed(text.strip())  # the preset knows its type
        else:
            plain.append(setting)
    changes: dict[str, Any] = assigned(plain, get_type_hints(TrainConfig), "--set", "setting")
    knobs |= changes.pop("view_overrides", {})
    return replace(config, **{"view_overrides": knobs, **changes})

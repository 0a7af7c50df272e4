"""What counts as "the same image" in a domain: one preset each, with its reason.

Every knob can be set on its own: `--set view.blur=0` when training, the same for `jepack views`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from jepack.errors import ConfigError
from jepack.terminal import SHARE, Limit

# Of the knobs that are no share, in 0..1.
RANGES = {
    "global_scale": Limit(0, 1, above=True),
    "local_scale": Limit(0, 1, above=True),
    "aspect": Limit(0, 100, above=True),
    "rotation": Limit(0, 360),
    "brightness": Limit(0, 10),
    "contrast": Limit(0, 10),
    "saturation": Limit(0, 10),
    "hue": Limit(0, 0.5),
    "blur_sigma": Limit(0, 1000, above=True),
}
BACKGROUNDS = ("dark", "bright", "flat")  # see content.py


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The recipe of a view. Probabilities are per view and image."""

    reason: str
    # where it looks
    global_scale: tuple[float, float] = (0.3, 1.0)  # share of the image's area
    local_scale: tuple[float, float] = (0.05, 0.3)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_horizontal: bool = True
    flip_vertical: bool = False
    quarter_turns: bool = False
    rotation: float = 0.0  # degrees either way; 180 = any angle
    min_content: float = 0.0  # share of a crop that must not be background; emptier: drawn again
    background: str = "dark"  # what counts as empty: dark (no data), bright (glass) or flat
    # light and colour
    jitter: float = 0.8  # probability of the four changes below
    brightness: float = 0.4  # factor in 1 +- this
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1  # share of the colour circle
    gray: float = 0.2
    stain: float = 0.0  # each stain's amount changes by a factor in 1 +- this; colour only
    band_dropout: float = 0.0  # probability that one channel is replaced by its mean
    # focus and noise
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # px at the view's size
    solarise: float = 0.2
    noise: float = 0.0  # standard deviation of added noise, on the 0..1 scale


PRESETS = {
    "natural": Preset(
        reason="Photographs: objects keep their identity under light, colour and focus."
    ),
    "industrial": Preset(
        reason="Grey inspection images: position and orientation are chance, small dark details are "
        "not, so light changes are mild and nothing blurs or inverts.",
        global_scale=(0.25, 1.0),
        flip_vertical=True,
        quarter_turns=True,
        brightness=0.2,
        contrast=0.2,
        gray=0.0,
        blur=0.0,
        solarise=0.0,
    ),
    "astronomy": Preset(
        reason="The sky has no up, so any angle is the same object; colour is a measurement and stays, "
        "noise and seeing vary.",
        global_scale=(0.4, 1.0),
        flip_vertical=True,
        rotation=180.0,
        brightness=0.2,
        contrast=0.2,
        saturation=0.0,
        hue=0.0,
        gray=0.0,
        blur=0.3,
        blur_sigma=(0.1, 1.0),
        solarise=0.0,
        noise=0.02,
    ),
    "histology": Preset(
        reason="A section can lie any way round and every laboratory stains differently, so the amount "
        "of each stain changes; tissue colour never turns grey or inverts.",
        global_scale=(0.3, 1.0),
        flip_vertical=True,
        quarter_turns=True,
        min_content=0.1,
        background="bright",
        brightness=0.1,
        contrast=0.1,
        saturation=0.0,
        hue=0.0,
        gray=0.0,
        stain=0.3,
        blur=0.2,
        blur_sigma=(0.1, 1.0),
        solarise=0.0,
    ),
    "radiology": Preset(
        reason="Left and right are anatomy and density is the finding: no flips, nothing inverts, only "
        "mild exposure and a slight tilt of the patient.",
        global_scale=(0.3, 1.0),
        flip_horizontal=False,
        rotation=7.0,
        brightness=0.15,
        contrast=0.2,
        saturation=0.0,
        hue=0.0,
        gray=0.0,
        blur=0.2,
        blur_sigma=(0.1, 1.0),
        solarise=0.0,
        noise=0.01,
    ),
    "satellite": Preset(
        reason="Seen from above there is no up; season and haze change colour a little, and a band may "
        "be missing.",
        flip_vertical=True,
        quarter_turns=True,
        min_content=0.1,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0.02,
        gray=0.0,
        band_dropout=0.1,
        blur=0.1,
        solarise=0.0,
    ),
    "none": Preset(
        reason="Crops only: for data whose every change means something.",
        flip_horizontal=False,
        jitter=0.0,
        gray=0.0,
        blur=0.0,
        solarise=0.0,
    ),
}


def preset(name: str, changes: Mapping[str, Any] | None = None) -> Preset:
    """A preset by name, with some of its knobs changed. Raises ConfigError."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    known = PRESETS[name]
    checked = {knob: checked_knob(knob, value) for knob, value in (changes or {}).items()}
    return replace(known, **checked)


def checked_knob(knob: str, value: Any) -> Any:
    """The value in the knob's own type and range, or ConfigError."""
    types = {field.name: str(field.type) for field in fields(Preset) if field.name != "reason"}
    if knob not in types:
        near = difflib.get_close_matches(knob, types, 3)
        hint = f" Did you mean {', '.join(near)}?" if near else f" There are {', '.join(types)}."
        raise ConfigError(f"views have no knob called {knob!r}.{hint}")
    wanted = types[knob]
    if knob == "background":
        if value not in BACKGROUNDS:
            raise ConfigError(
                f"view.background is one of {', '.join(BACKGROUNDS)}, found {value!r}"
            )
        return value
    if wanted == "bool":
        if isinstance(value, (bool, int)) and value in (0, 1):
            return bool(value)
        raise ConfigError(f"view.{knob} takes true or false, found {value!r}")
    limit = RANGES.get(knob, SHARE)
    if wanted == "float":
        if limit.holds(value):
            return float(value)
        raise ConfigError(f"view.{knob} must be {limit}, found {value!r}")
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if pair and all(limit.holds(part) for part in value) and value[0] <= value[1]:
        return (float(value[0]), float(value[1]))
    raise ConfigError(f"view.{knob} takes [low, high], each {limit}, found {value!r}")

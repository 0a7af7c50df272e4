"""The resolved settings of a run, the recipes that make them, and the range of every number."""

from training.settings.config import TrainConfig
from training.settings.overrides import VIEW, override
from training.settings.presets import PRESETS, Preset, preset
from training.settings.recipes import RECIPES, quickstart, recipe

__all__ = [
    "PRESETS",
    "RECIPES",
    "VIEW",
    "Preset",
    "TrainConfig",
    "override",
    "preset",
    "quickstart",
    "recipe",
]

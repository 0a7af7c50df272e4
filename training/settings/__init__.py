"""The resolved settings of a run, the recipes that make them, and the range of every number."""

from training.settings.config import TrainConfig
from training.settings.groups import GROUPS, group_of
from training.settings.overrides import VIEW, override
from training.settings.presets import PRESETS, Preset, preset
from training.settings.recipes import RECIPES, quickstart, recipe

__all__ = [
    "GROUPS",
    "PRESETS",
    "RECIPES",
    "VIEW",
    "Preset",
    "TrainConfig",
    "group_of",
    "override",
    "preset",
    "quickstart",
    "recipe",
]

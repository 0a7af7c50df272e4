"""The range of every number in the settings, and the words of every choice. A typing error ends here."""

from __future__ import annotations

from typing import Any

from jepack.decoding import FITS
from jepack.terminal import SEED, SHARE, SIDE, Limit, positive, whole

# Upper ends are far beyond any use: they catch a slipped key before it becomes a full memory.
LIMITS: dict[str, Limit] = {
    "patch_size": whole(1, 1024),
    "depth": whole(1, 1024),
    "width": whole(64, 65_536),
    "projection_dims": whole(1, 65_536),
    "projector_hidden": whole(1, 262_144),
    "projector_layers": whole(1, 32),
    "tile": whole(0, SIDE),
    "tile_stride": whole(0, SIDE),
    "channels": whole(0, 65_536),
    "size": whole(8, 8192),
    "local_size": whole(8, 8192),
    "global_views": whole(0, 256),
    "local_views": whole(0, 256),
    "cache_side": whole(0, SIDE),
    "eval_size": whole(0, 8192),
    "images_per_step": whole(2, 1 << 24),
    "accumulate": whole(1, 1 << 20),
    "epochs": positive(1e6),
    "minutes": positive(1e7),
    "learning_rate": positive(1e3),
    "projector_first": Limit(0, 0.5),
    "backbone_rate": SHARE,
    "frozen_stages": Limit(0, 1, below=True),
    "final_lr_fraction": SHARE,
    "warmup_fraction": SHARE,
    "weight_decay": Limit(0, 1e3),
    "weight_decay_end": Limit(0, 1e3),
    "gradient_clip": Limit(0, 1e9),
    "sigreg_weight": Limit(0, 1, above=True, below=True),
    "slices": whole(1, 1 << 20),
    "ema_decay": Limit(0, 1, below=True),
    "predictor_width": whole(32, 65_536),
    "predictor_depth": whole(1, 256),
    "seed": whole(0, SEED),
    "workers": whole(0, 1024),
    "threads": whole(0, 1024),
    "checkpoint_minutes": Limit(0, 1e6),
    "keep_checkpoints": whole(1, 1_000_000),
    "evaluate_epochs": positive(1e6),
    "max_bad": SHARE,
    "validation_fraction": Limit(0, 1, below=True),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "method": ("lejepa", "ijepa"),
    "fit": tuple(FITS),
    "regulariser": ("sigreg", "visreg"),
    "target_norm": ("layer", "batch"),
    "precision": ("auto", "bf16", "fp32", "fp64"),
    "sharding": ("none", "fsdp"),
}
MAY_BE_NONE = ("fit", "patch_size", "depth", "width", "minutes", "weight_decay_end")


def out_of_range(settings: dict[str, Any]) -> list[str]:
    """A sentence for each value that is of no use whatever the others are."""
    problems = []
    for name, limit in LIMITS.items():
        value = settings[name]
        if not limit.holds(value) and not (value is None and name in MAY_BE_NONE):
            problems.append(f"{name} must be {limit}, found {value!r}")
    for name, words in CHOICES.items():
        value = settings[name]
        if value not in words and not (value is None and name in MAY_BE_NONE):
            problems.append(f"{name} must be {' or '.join(words)}, found {value!r}")
    ends = settings["target_ema"]
    if len(ends) != 2 or not all(SHARE.holds(end) for end in ends):
        problems.append(f"target_ema must be two numbers in [0, 1], found {list(ends)}")
    return problems

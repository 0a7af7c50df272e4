"""What makes two runs the same run, and what may change while one goes.

A checkpoint keeps a record of the settings and a digest of the images. Whoever continues it is compared
with that record as a whole: paths, places and machines do not count, contents do.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from jepack import bundle as bundles
from jepack.errors import ConfigError
from jepack.files import canonical_json
from training.data import Images, Split
from training.settings import PRESETS, TrainConfig, preset

Json = dict[str, Any]
Changes = dict[str, tuple[Any, Any]]  # what -> before, after

# How long a run goes: more of it continues the run.
LENGTH = ("epochs", "minutes")
# May change from one step to the next; the run's history keeps when. Of no use once it is finished.
RATES = (
    "learning_rate", "final_lr_fraction", "warmup_fraction", "weight_decay", "weight_decay_end",
    "gradient_clip",
)  # fmt: skip
# Another machine may need another; kept in the history too.
MACHINE = ("accumulate", "precision")
# Speed, memory, what is looked at and which weights are kept; none depends on them but by rounding. Not
# compared; a finished run whose bundle holds others than `keep_start` asks for writes it anew.
FREE = (
    "workers", "threads", "compile", "activation_checkpointing", "checkpoint_minutes", "keep_checkpoints",
    "evaluate_epochs", "max_bad", "keep_start",
)  # fmt: skip
# All other settings decide the run, also those that a later version adds.
NOT_STATED = "not stated"  # the licence of the data, where nobody has told it


def record(config: TrainConfig, images: Images, split: Split, license: str) -> Json:
    """What a checkpoint keeps of its run, to be compared by whoever continues it."""
    return {
        "settings": config.to_json(),
        "init": contents_of_init(config),
        "data": data_of(images, split),
        "license": license,
        "history": [],
    }


def contents_of_init(config: TrainConfig) -> Json | None:
    """The fingerprints of the bundle the run starts from: it may lie elsewhere on another machine."""
    return None if config.init is None else dict(bundles.load(Path(config.init)).fingerprints)


def data_of(images: Images, split: Split) -> Json:
    """The images by content, in order, and what is made of them; no path is in it."""
    labels = [file.label for file in images.files]
    return {
        "digest": images.digest,
        "images": len(images),
        "files": images.listed,
        "regions": images.outlines,
        "labels": hashlib.sha256(canonical_json(labels)).hexdigest(),
        "train": len(split.train),
        "held_out": len(split.held_out),
        "split": hashlib.sha256(canonical_json([list(map(int, split.held_out))])).hexdigest(),
    }


def earlier(run: Path, checkpoint: Json) -> Json:
    """The record in a checkpoint; of one written before there were records, what is known."""
    if "run" in checkpoint:
        return dict(checkpoint["run"])
    try:
        told = json.loads((run / "provenance.json").read_text())
        data = {name: told["data"][name] for name in ("digest", "images")}
        license = told.get("license", NOT_STATED)
    except (OSError, ValueError, KeyError, TypeError):
        data, license = {}, NOT_STATED
    return {"settings": checkpoint["config"], "data": data, "license": license, "history": []}


def decided(settings: Json) -> Json:
    """The settings with every default filled in that another setting gives."""
    known = {
        field.name: field.default if field.default is not MISSING else {}
        for field in fields(TrainConfig)
    }
    values = {name: settings.get(name, default) for name, default in known.items()}
    values["target_ema"] = list(values["target_ema"])
    values["eval_size"] = values["eval_size"] or values["size"]
    values["cache_side"] = values["cache_side"] or round(
        1.25 * max(values["size"], values["eval_size"])
    )
    values["fit"] = values["fit"] or "crop"
    values["tile_stride"] = values["tile_stride"] or values["tile"]
    overrides = values.pop("view_overrides")
    if values["preset"] in PRESETS:
        chosen = preset(values["preset"], overrides)
        overrides = {field.name: getattr(chosen, field.name) for field in fields(chosen)}
        overrides.pop("reason")
    return values | {f"view.{knob}": value for knob, value in overrides.items()}


def settings_changed(was: Json, now: Json) -> Changes:
    """Settings that differ, those that are not compared left out; channels still open count as equal."""
    before, after = decided(was), decided(now)
    names = [name for name in [*after, *(set(before) - set(after))] if name not in FREE]
    changed = {
        name: (before.get(name), after.get(name))
        for name in names
        if canonical_json(before.get(name)) != canonical_json(after.get(name))
    }
    if now.get("channels") == 0:
        changed.pop("channels", None)
    if "preset" in changed:  # it says enough
        changed = {name: ends for name, ends in changed.items() if not name.startswith("view.")}
    return changed


def changes(was: Json, now: Json) -> Changes:
    """All that differs between two records, settings and data; what one of them does not know is left out."""
    changed = settings_changed(was["settings"], now["settings"])
    if "init" in was and "init" in now:
        changed.pop("init", None)
        if was["init"] != now["init"]:
            paths = was["settings"].get("init"), now["settings"].get("init")
            changed["init"] = paths if paths[0] != paths[1] else (f"{paths[0]} as it was", paths[1])
    elif "init" in changed and all(changed["init"]):
        del changed["init"]  # a record from before contents were kept: only the path differs
    return changed | data_changed(was["data"], now.get("data", {}))


def data_changed(was: Json, now: Json) -> Changes:
    def differ(name: str) -> bool:
        return name in was and name in now and was[name] != now[name]

    changes: Changes = {}
    if differ("files") and "digest" not in now:  # before they are read
        changes["data"] = (f"{was['files']:,} image files", f"{now['files']:,} image files")
    if differ("digest"):
        changes["data"] = (
            f"{was['images']:,} images (SHA-256 {short(was['digest'])})",
            f"{now['images']:,} images (SHA-256 {short(now['digest'])})",
        )
        return changes  # the rest follows from it
    if differ("split"):
        changes["split"] = (
            f"{was['train']:,} + {was['held_out']:,} images",
            f"{now['train']:,} + {now['held_out']:,} images, others held out",
        )
    if differ("regions"):
        changes["boxes and masks"] = (short(was["regions"]), short(now["regions"]))
    if differ("labels"):
        changes["labels"] = (short(was["labels"]), short(now["labels"]))
    return changes


def short(digest: str) -> str:
    return f"{digest.removeprefix('names-')[:8]}…"


def may_change(name: str, ends: tuple[Any, Any]) -> bool:
    """Whether a run that goes on may differ in this. Labels judge a run; they teach it nothing."""
    if name == "precision":  # double precision is a run of its own
        return "fp64" not in ends
    return name in (*LENGTH, *RATES, *MACHINE, "labels")


def refuse_others(run: Path, changed: Changes, step: int, total: int) -> None:
    """ConfigError when `changed` holds what decides a run: it names all of it, and the ways out."""
    other = {name: ends for name, ends in changed.items() if not may_change(name, ends)}
    if not other:
        return
    lines = "\n".join(f"  {line}" for line in told(other))
    start = run / "bundle" if (run / "bundle").is_dir() else "BUNDLE"
    raise ConfigError(
        f"{run} holds another run (step {step} of {total}), nothing in it was changed. It differs in\n"
        f"{lines}\nGive this one a folder of its own with --out; or start over with --fresh, which moves "
        f"that run aside; or start from its weights with --init {start} and another --out."
    )


def told(changed: Changes) -> list[str]:
    """`preset: natural -> industrial`, a line each."""
    return [f"{name}: {text_of(was)} -> {text_of(now)}" for name, (was, now) in changed.items()]


def text_of(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def refuse_idle(run: Path, changed: Changes, step: int) -> None:
    """ConfigError for rates that differ from those of a run that has no step left to take."""
    idle = {name: ends for name, ends in changed.items() if name in RATES}
    if idle:
        raise ConfigError(
            f"{run}: this run is finished (step {step}), so {'; '.join(told(idle))} would change nothing. "
            "Leave it out, go on with more --epochs, or choose another --out."
        )

"""The work of `jepack probe`: what simple models get out of frozen features, by one protocol for all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from jepack import bundle as bundles
from jepack.bundle.card import PROBES
from jepack.decoding import Pixels, Preprocessing
from jepack.disk import check_writable
from jepack.encoder import Encoder
from jepack.errors import ConfigError
from jepack.names import kept, marked, marked_lines
from jepack.sources import ImageFile, Source
from training.commands.probe.keeping import check_keep, keep_probe, words_of
from training.commands.probe.opening import KINDS, is_checkpoint, opened
from training.commands.probe.picture import Seen, draw
from training.commands.probe.reading import find_labelled, read_images, read_labelled
from training.commands.probe.scoring import Floats, mean_of, probe_column, score
from training.commands.probe.splitting import seen_share, split_words, splits_of
from training.commands.probe.table import keep as keep_rows
from training.commands.probe.table import show
from training.data import Ints, column, copies_across
from training.parallel import choose_device
from training.watch import features


@dataclass(frozen=True)
class Task:
    """What every encoder is probed for."""

    files: list[ImageFile]
    classes: list[str]
    data: str  # its name in tables
    splits: list[tuple[Ints, Ints]]  # (train, test) of `seed`, `seed` + 1, ...
    seed: int
    tested_on: str  # how the test images were set apart
    control: str | None  # a column of the manifest, probed beside the label
    values: list[str]  # of that column, one per file


@dataclass(frozen=True)
class Probed:
    """One encoder, and which of its outputs is probed."""

    name: str  # in tables
    model: Encoder
    preprocessing: Preprocessing
    # Most baselines have no trained projection; their embedding is what there is to compare with.
    output: str = "embedding"
    bundle: bundles.Bundle | None = None  # which holds it, and knows what it was fitted on


def run_probe(
    encoder: str,
    data: str,
    *,
    classes: str | None,
    output: str,
    size: int,
    test_fraction: float,
    seed: int,
    seeds: int,
    group_by: str | None,
    control: str | None,
    baselines: list[str] | None,
    save: bool,
    keep: str | None,
    error_rate: float,
    picture: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """As `training.commands.scores.probe`, whose options say what each is."""
    if output not in bundles.OUTPUTS:
        raise ConfigError(f"--output must be {' or '.join(bundles.OUTPUTS)}, found {output}")
    target = choose_device(device)
    source = Source.of(data)
    files, wanted = find_labelled(source, classes)
    bundle = bundle_of(encoder, save=save or keep is not None)
    if keep is not None:
        check_keep(keep, bundle, encoder)
    model, preprocessing, name = opened(encoder, bundle, size)
    images, files = read_labelled(files, preprocessing, source, wanted)
    task = Task(
        files=files, classes=wanted, data=kept(source.path.stem),
        splits=splits_of(files, test_fraction, seed, seeds, group_by), seed=seed,
        tested_on=split_words(files, group_by),
        control=control, values=column(files, control) if control else [],
    )  # fmt: skip
    own = Probed(name, model, preprocessing, output, bundle)
    x = features_of(own, images, target)
    rows, shown, found = [measure(task, own, x, images)], images, [x]
    for other in baselines or ():
        model, preprocessing, name = opened(other, bundle, size)
        images = read_images(files, preprocessing)
        baseline = Probed(name, model, preprocessing)
        if other == encoder:
            baseline = replace(baseline, output=output, bundle=bundle)
        found.append(features_of(baseline, images, target))
        rows.append(measure(task, baseline, found[-1], images))
    if as_json:
        print(json.dumps({**rows[0], **({"baselines": rows[1:]} if baselines else {})}))
    else:
        show(rows)
    console = Console(stderr=True)
    if bundle is not None and save:
        keep_rows(bundle, rows)
        console.print(f"kept in {marked(bundle.folder / PROBES)} and its card", highlight=False)
    if picture is not None:
        seen = [seen_by(*one) for one in zip(rows, found, strict=True)]
        draw(picture, task.classes, shown, numbers_of(task), task.splits[0][1], seen)
        console.print(f"drawn in {marked(picture)}", highlight=False, soft_wrap=True)
    if bundle is not None and keep is not None:
        bundle = bundles.load(bundle.folder)  # with the rows that were kept just now
        head = keep_probe(keep, bundle, output, x, task.files, wanted, group_by, error_rate)
        told = marked_lines(words_of(head, bundle.folder))
        console.print(f"[green]✓[/] {told}", highlight=False, soft_wrap=True)


def bundle_of(encoder: str, *, save: bool) -> bundles.Bundle | None:
    """The bundle that is probed, None where the encoder is in none. With `save` it must be ours to change."""
    if encoder.startswith(KINDS) or is_checkpoint(encoder):
        return None
    bundle = bundles.load(Path(encoder))
    if save:
        bundles.refuse_cached(bundle.folder)
        mend = "Leave it as it is with --no-save, or probe a copy."
        check_writable(bundle.folder, mend, replaced=True)
    return bundle


def features_of(probed: Probed, images: Pixels, target: torch.device) -> Floats:
    """[N, E] of the output that is probed."""
    outputs = features(probed.model.to(target), images, probed.preprocessing)
    return outputs[bundles.OUTPUTS.index(probed.output)]


def numbers_of(task: Task) -> Ints:
    """[N]: the class of each image."""
    return np.array([task.classes.index(str(file.label)) for file in task.files])


def seen_by(row: dict[str, Any], features: Floats) -> Seen:
    return Seen(row["encoder"], features, (row["linear_low"], row["linear"], row["linear_high"]))


def measure(task: Task, probed: Probed, x: Floats, images: Pixels) -> dict[str, Any]:
    """One encoder's row: means over the task's splits, as tables, JSON and cards hold them."""
    y = numbers_of(task)
    scores = [score(x, y, *split, task.seed + n) for n, split in enumerate(task.splits)]
    copies = [copies_across(list(images), *split).share for split in task.splits]
    row: dict[str, Any] = {
        "encoder": probed.name, "output": probed.output, **asdict(mean_of(scores)),
        "seeds": len(task.splits), "linear_std": float(np.std([one.linear for one in scores])),
        "copies_across": float(np.mean(copies)), "data": task.data, "classes": task.classes,
        "size": probed.preprocessing.size, "tested_on": task.tested_on,
    }  # fmt: skip
    if probed.bundle is not None:
        row["seen_in_training"] = seen_share(probed.bundle, task.files, task.splits)
    if task.control:
        told = probe_column(x, task.values, task.splits)
        row["control"] = {"column": task.control, **told}
    return row

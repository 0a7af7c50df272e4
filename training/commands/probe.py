"""`jepack probe`: how much simple models get out of frozen features.

N images, E dims. One protocol for every encoder: features are standardised on the training part;
the linear probe's strength is chosen by cross-validation inside the training part alone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from jepack import bundle as bundles
from jepack.bundle.card import PROBES
from jepack.decoding import Pixels, Preprocessing, preprocess
from jepack.encoder import (
    Encoder,
    Projector,
    ProjectorConfig,
    embedding_dims,
    load_encoder,
)
from jepack.errors import ConfigError, DataError, listed
from jepack.files import check_writable
from jepack.names import examples, kept, marked, marked_lines, tell
from jepack.network import build_backbone
from jepack.sources import ImageFile, Source, find_images, record_of
from jepack.terminal import SEED, Limit, counter, options
from training.commands.probe_table import keep, show
from training.commands.weights import fetching
from training.data import check_groups, column, copies_across, one_thing, own_split, training_split
from training.parallel import choose_device
from training.run import encoder_of
from training.watch import features, knn_accuracy

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SHOTS = (1, 5, 10)
NEEDED = 20  # images of two classes
TESTED_ON = Limit(0, 1, above=True, below=True)
KINDS = ("timm:", "random:")


@dataclass(frozen=True)
class Score:
    """Accuracies on the test part, 0..1; few-shot figures are means over 20 draws."""

    linear: float
    linear_low: float  # 95 % bootstrap interval over test images
    linear_high: float
    balanced: float  # mean recall over the classes of the test part, of the linear probe
    knn: float
    few_shot: dict[int, float]  # labelled images per class -> accuracy
    majority: float
    train_images: int
    test_images: int


def score(x: Floats, y: Ints, train: Ints, test: Ints, seed: int = 0) -> Score:
    """Probe features x [N, E] with labels y [N] on index arrays train and test."""
    if len(np.unique(y[train])) < 2:
        raise DataError("a probe needs at least two classes in its training part")
    scaler = StandardScaler().fit(x[train])
    z = scaler.transform(x).astype(np.float32)
    answer = fit_linear(z[train], y[train], seed).predict(z[test])
    right = answer == y[test]
    generator = np.random.default_rng(seed)
    draws = right[generator.integers(0, len(right), (1000, len(right)))].mean(axis=1)
    return Score(
        linear=float(right.mean()),
        linear_low=float(np.quantile(draws, 0.025)),
        linear_high=float(np.quantile(draws, 0.975)),
        balanced=float(recall_score(y[test], answer, labels=np.unique(y[test]), average="macro")),
        knn=knn_accuracy(x[train], y[train], x[test], y[test]),
        few_shot={shots: few_shot(z, y, train, test, shots, seed) for shots in SHOTS},
        majority=float(np.bincount(y[test]).max() / len(test)),
        train_images=len(train),
        test_images=len(test),
    )


def fit_linear(z: Floats, y: Ints, seed: int) -> LogisticRegression:
    """Logistic regression whose strength does best in 3-fold cross-validation."""
    folds = min(3, int(np.bincount(y)[np.unique(y)].min()))
    best = STRENGTHS[2]
    if folds >= 2:
        splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(z, y))
        found = []
        for strength in STRENGTHS:
            parts = [logistic(z[a], y[a], strength).score(z[b], y[b]) for a, b in splits]
            found.append(np.mean(parts))
        best = STRENGTHS[int(np.argmax(found))]
    return logistic(z, y, best)


def logistic(z: Floats, y: Ints, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are plenty for a probe
        return LogisticRegression(C=strength, max_iter=300).fit(z, y)


def few_shot(z: Floats, y: Ints, train: Ints, test: Ints, shots: int, seed: int) -> float:
    """Nearest class mean from `shots` labelled images per class, mean over 20 draws."""
    generator = np.random.default_rng([seed, shots])
    classes = np.unique(y[train])
    found = []
    for _ in range(20):
        means = []
        for label in classes:
            members = train[y[train] == label]
            chosen = generator.choice(members, min(shots, len(members)), replace=False)
            means.append(z[chosen].mean(axis=0))
        distance = ((z[test][:, None] - np.stack(means)[None]) ** 2).sum(axis=2)
        found.append((classes[distance.argmin(axis=1)] == y[test]).mean())
    return float(np.mean(found))


def open_encoder(source: str, channels: int, size: int) -> tuple[Encoder, Preprocessing]:
    """A bundle's or checkpoint's folder, `timm:NAME` (published weights) or `random:NAME` (untrained)."""
    kind, _, name = source.partition(":")
    if is_checkpoint(source):
        return encoder_of(Path(source))
    if kind not in ("timm", "random") or not name:
        bundle = bundles.load(Path(source))
        return load_encoder(bundle)[0], bundle.preprocessing
    torch.manual_seed(0)
    backbone = build_backbone(name, channels=channels, size=size, pretrained=kind == "timm")
    known: Any = backbone
    mean, std = known.pretrained_cfg.get("mean", (0.5,)), known.pretrained_cfg.get("std", (0.5,))
    if len(mean) != channels:
        mean, std = (float(np.mean(mean)),) * channels, (float(np.mean(std)),) * channels
    width = embedding_dims(backbone, channels, size)
    head = Projector(ProjectorConfig(in_features=width, hidden=8, out_features=8, layers=1))
    look = Preprocessing(size=size, channels=channels, mean=tuple(mean), std=tuple(std))
    return Encoder(backbone, head).eval(), look


def is_checkpoint(source: str) -> bool:
    return (Path(source) / "state.pt").is_file()


def opened(
    source: str, bundle: bundles.Bundle | None, size: int
) -> tuple[Encoder, Preprocessing, str]:
    """The encoder of `source`, how it wants its images, and its name in tables.

    `random` alone is the bundle's own network, untrained, at the bundle's size and channels.
    """
    if source == "random":
        if bundle is None:
            raise ConfigError("--baseline random needs a bundle; else name one: random:resnet18")
        name = f"random:{bundle.config()['architecture']}"
        model, look = open_encoder(name, bundle.preprocessing.channels, bundle.preprocessing.size)
        return model, look, name
    with fetching(source) if source.startswith("timm:") else nullcontext():
        model, look = open_encoder(source, 3, size)
    named = source.startswith(KINDS) or is_checkpoint(source)
    return model, look, source if named else bundles.load(source).name


def read_images(files: Sequence[ImageFile], look: Preprocessing) -> Pixels:
    """[N, S, S, C] of all of them. Raises DataError naming those that cannot be read."""
    images, bad = read_those(files, look)
    if bad:
        raise DataError(f"{len(bad)} of {len(files)} images cannot be read:\n{listed(bad)}")
    return np.stack([image for image in images if image is not None])


def read_those(
    files: Sequence[ImageFile], look: Preprocessing
) -> tuple[list[Pixels | None], list[tuple[str, str]]]:
    """Each file's crop, None where it cannot be read, and the names and reasons of those."""
    images: list[Pixels | None] = []
    bad = []
    with counter("read") as show:
        for number, file in enumerate(files, start=1):
            try:
                images.append(preprocess.load(file.read(), look))
            except DataError as error:
                images.append(None)
                bad.append((file.name, str(error).removeprefix("image: ")))
            show(number, len(files))
    return images, bad


def read_labelled(
    files: list[ImageFile], look: Preprocessing, source: Source, wanted: list[str]
) -> tuple[Pixels, list[ImageFile]]:
    """The images that can be read, and which files they are; the others are listed and left out."""
    found, bad = read_those(files, look)
    kept = [file for file, image in zip(files, found, strict=True) if image is not None]
    if bad and len(kept) < NEEDED:
        raise DataError(
            f"{source}: {len(bad)} of {len(files)} images of {wanted} cannot be read, a probe needs "
            f"{NEEDED}:\n{listed(bad)}"
        )
    if bad:
        console = Console(stderr=True)
        console.print(
            f"[yellow]{len(bad)} images left out:[/]\n{marked_lines(listed(bad))}", soft_wrap=True
        )
    return np.stack([image for image in found if image is not None]), kept


def splits_of(
    files: Sequence[ImageFile], fraction: float, seed: int, seeds: int, group_by: str | None
) -> list[tuple[Ints, Ints]]:
    """(train, test) of each seed; the data's own split is one and stays as it is.

    Of that, the probe is fitted on train and tested on test, or on val where there is no test.
    """
    told = own_split(files)
    if told is not None:
        test = np.flatnonzero(told == ("test" if (told == "test").any() else "val"))
        train = np.flatnonzero((told != "val") & (told != "test"))
        if group_by:
            check_groups(column(files, group_by), train, test, group_by)
        return [(train, test)] * seeds
    found = []
    for number in range(seed, seed + seeds):
        if group_by is None and one_thing(files) is None:  # the order that earlier versions drew
            order = np.random.default_rng([number, 11]).permutation(len(files))
            cut = round(len(files) * fraction)
            found.append((order[cut:], order[:cut]))
        else:
            found.append(training_split(files, fraction, number, group_by))
    return found


def split_words(files: Sequence[ImageFile], group_by: str | None) -> str:
    """How the test images were set apart, for people."""
    told = own_split(files)
    if told is not None:
        return f"the data's own {'test' if (told == 'test').any() else 'val'} part"
    group_by = group_by or ("file" if one_thing(files) is not None else None)
    return f"drawn at random by {group_by}" if group_by else "drawn at random"


def seen_share(
    bundle: bundles.Bundle, files: Sequence[ImageFile], parts: list[tuple[Ints, Ints]]
) -> float | None:
    """The share of test images that the encoder was fitted on, without labels; None where its manifest
    does not say. A probe's split is its own: it does not know which images an encoder saw."""
    record = record_of(bundle.manifest)
    if not record.known:
        return None
    seen = np.array(record.fitted_on(files))
    return float(np.mean([seen[test].mean() for _, test in parts]))


def probe_column(
    x: Floats, values: Sequence[str], parts: list[tuple[Ints, Ints]]
) -> dict[str, Any]:
    """How well the features tell the control column: far above its majority means that it can leak."""
    names = sorted(set(values))
    y = np.array([names.index(value) for value in values])
    if len(names) < 2:
        return {"values": 1, "linear": 1.0, "majority": 1.0}
    linear, majority = [], []
    for train, test in parts:
        if len(np.unique(y[train])) < 2:
            continue
        scaler = StandardScaler().fit(x[train])
        z = scaler.transform(x).astype(np.float32)
        answer = fit_linear(z[train], y[train], 0).predict(z[test])
        linear.append(float((answer == y[test]).mean()))
        majority.append(float(np.bincount(y[test]).max() / len(test)))
    if not linear:
        raise DataError("--control: no split leaves two of its values in the training part")
    return {
        "values": len(names), "linear": float(np.mean(linear)), "majority": float(np.mean(majority)),
    }  # fmt: skip


def probe(
    encoder: Annotated[
        str, typer.Argument(help="Bundle or checkpoint folder, timm:NAME or random:NAME.")
    ],
    data: Annotated[str, typer.Option(help="Folder with one subfolder per class.")],
    classes: Annotated[
        str | None, typer.Option(help="Comma-separated classes to use; default all.")
    ] = None,
    output: Annotated[str, typer.Option(help="embedding or projection.")] = "embedding",
    size: Annotated[
        int, typer.Option(help="Side for timm: and random: encoders, px.", min=8, max=8192)
    ] = 224,
    test_fraction: Annotated[
        float,
        typer.Option(help="Share of images tested on.", callback=options.within(TESTED_ON)),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the split.", min=0, max=SEED)] = 0,
    seeds: Annotated[
        int,
        typer.Option(help="Splits, counted from --seed; the mean is told.", min=1, max=10_000),
    ] = 1,
    group_by: Annotated[
        str | None, typer.Option(help="Manifest column no split may cut through, such as patient.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="Manifest column probed beside the label, such as scanner.")
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="Also probe timm:NAME, random:NAME, or random (the same network untrained).",
        ),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Keep the results in the bundle and its card.")
    ] = True,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU if any.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Linear, kNN and few-shot probes on frozen features; the same protocol for every encoder.

    Examples:
      jepack probe runs/solar/bundle --data runs/data/solar --classes defect-0,defect-1
      jepack probe runs/solar/checkpoints/step-00000100 --data runs/data/solar
      jepack probe runs/earth/bundle --data runs/data/earth --group-by block --seeds 5
      jepack probe runs/photos/bundle --data photos/ --baseline random --baseline timm:convnext_tiny
    """
    if output not in bundles.OUTPUTS:
        raise ConfigError(f"--output must be {' or '.join(bundles.OUTPUTS)}, found {output}")
    target = choose_device(device)
    source, notes = Source.of(data), list[str]()
    files = [file for file in find_images(source, parts=True, notes=notes) if file.label]
    tell(Console(stderr=True), notes)
    wanted = classes.split(",") if classes else sorted({str(file.label) for file in files})
    files = [file for file in files if file.label in wanted]
    if len(files) < NEEDED or len(wanted) < 2:
        raise DataError(
            f"{source}: {len(files)} labelled images of {len(wanted)} classes ({examples(wanted)}); a probe "
            f"needs {NEEDED} of 2. A class is a folder, or the column `label` of a manifest"
        )
    bare = encoder.startswith(KINDS) or is_checkpoint(encoder)
    bundle = None if bare else bundles.load(Path(encoder))
    if bundle is not None and save:
        bundles.refuse_cached(bundle.folder)
        mend = "Leave it as it is with --no-save, or probe a copy."
        check_writable(bundle.folder, mend, replaced=True)
    model, look, name = opened(encoder, bundle, size)
    images, files = read_labelled(files, look, source, wanted)
    y = np.array([wanted.index(str(file.label)) for file in files])
    parts = splits_of(files, test_fraction, seed, seeds, group_by)
    controls = column(files, control) if control else []
    rows: list[dict[str, Any]] = []
    for one in (encoder, *(baselines or ())):
        # A baseline has no trained projection; its embedding is what there is to compare with.
        kind = output if one == encoder else "embedding"
        if rows:
            model, look, name = opened(one, bundle, size)
            images = read_images(files, look)
        x = features(model.to(target), images, look)[bundles.OUTPUTS.index(kind)]
        scores = [score(x, y, *part, seed + n) for n, part in enumerate(parts)]
        row: dict[str, Any] = {
            "encoder": name, "output": kind, **asdict(mean_of(scores)), "seeds": seeds,
            "linear_std": float(np.std([one.linear for one in scores])),
            "copies_across": float(
                np.mean([copies_across(list(images), *part).share for part in parts])
            ),
            "data": kept(source.path.stem), "classes": wanted, "size": look.size,
            "tested_on": split_words(files, group_by),
        }  # fmt: skip
        if one == encoder and bundle is not None:
            row["seen_in_training"] = seen_share(bundle, files, parts)
        if control:
            row["control"] = {"column": control, **probe_column(x, controls, parts)}
        rows.append(row)
    if as_json:
        print(json.dumps({**rows[0], **({"baselines": rows[1:]} if baselines else {})}))
    else:
        show(rows)
    if bundle is not None and save:
        keep(bundle, rows)
        console = Console(stderr=True)
        console.print(f"kept in {marked(bundle.folder / PROBES)} and its card", highlight=False)


def mean_of(scores: Sequence[Score]) -> Score:
    """Means over splits; the interval spans the splits' own intervals' means."""
    if len(scores) == 1:
        return scores[0]
    values: dict[str, Any] = {}
    for name, first in asdict(scores[0]).items():
        every = [asdict(one)[name] for one in scores]
        if isinstance(first, dict):
            values[name] = {key: float(np.mean([one[key] for one in every])) for key in first}
        else:
            values[name] = type(first)(np.mean(every))
    return Score(**values)

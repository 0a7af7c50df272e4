"""Faults planted in real images, and what finds them: `jepack check`, cleanlab, imagededup. One run.

Planted: copies (exact, re-encoded, resized, cropped, mirrored), flipped labels, foreign images, blank,
over-exposed, elongated and broken files. Told per kind: precision (of what was found, the share that was
planted) and recall (of what was planted, the share that was found). Real faults of a data set count against
precision.

    pip install cleanlab 'imagededup>=0.3.3'     (imagededup: optional, in an environment of its own)
    jepack train runs/data/earth --recipe quickstart --preset satellite --out runs/earth
    jepack export runs/earth/bundle
    python -m benchmarks.planting runs/data/earth runs/earth/bundle --other runs/data/solar
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from app.building import Plan, build
from app.checking.run import check
from app.engine import in_process
from app.lance import open_index
from jepack.files import write_json
from jepack.sources import ImageFile, Source, find_images

OUT = Path(__file__).parent / "results" / "planting.json"
COPIES = ("exact", "re-encoded", "resized", "cropped", "mirrored")
EACH = 10  # copies of each kind
FLIPPED = 0.05  # share of the labels
FOREIGN = 0.01  # share of the images
BAD = 6  # files of each kind of bad picture


@dataclass
class Planted:
    """What was planted, by image id."""

    copies: dict[frozenset[str], str] = field(default_factory=dict)  # pair: kind
    flipped: dict[str, str] = field(default_factory=dict)  # id: true label
    foreign: set[str] = field(default_factory=set)
    blank: set[str] = field(default_factory=set)
    bright: set[str] = field(default_factory=set)
    elongated: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


def plant(data: Path, out: Path, other: Path | None, seed: int, labels: list[str]) -> Planted:
    """A copy of `data` (class folders) at `out` with faults; of the classes `labels` alone, where named."""
    rng, planted = np.random.default_rng(seed), Planted()
    files = [one for one in find_images(data) if not labels or one.label in labels]
    classes = sorted({str(one.label) for one in files})
    for name in classes:
        (out / name).mkdir(parents=True)
    order = rng.permutation(len(files))
    flipped, rest = np.split(order, [round(FLIPPED * len(files))])
    for at in order:
        image, label = files[at], str(files[at].label)
        if at in set(flipped):
            label = str(rng.choice([one for one in classes if one != label]))
            planted.flipped[f"{label}/{image.path.name}"] = str(image.label)
        shutil.copyfile(image.path, out / label / image.path.name)
    taken = iter(rest)
    for kind in COPIES:
        for number in range(EACH):
            image = files[next(taken)]
            name = f"{image.label}/copy-{kind}-{number}"
            name = copy_of(image, kind, out, name)
            planted.copies[frozenset((f"{image.label}/{image.path.name}", name))] = kind
    plant_strangers(files, out, other, rng, planted, classes)
    plant_bad(files, taken, out, rng, planted)
    return planted


def copy_of(image: ImageFile, kind: str, out: Path, name: str) -> str:
    """Write a copy; its id."""
    if kind == "exact":
        name += image.path.suffix
        shutil.copyfile(image.path, out / name)
        return name
    with Image.open(image.path) as opened:
        picture = opened.convert("RGB" if opened.mode not in ("L", "I;16", "I") else opened.mode)
    width, height = picture.size
    if kind == "re-encoded":
        name += ".jpg"
        picture.convert("RGB").save(out / name, quality=60)
        return name
    if kind == "resized":
        picture = picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    elif kind == "cropped":  # 90 % of each side
        left, top = round(0.05 * width), round(0.05 * height)
        picture = picture.crop((left, top, width - left, height - top)).resize((width, height))
    else:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.save(out / f"{name}.png")
    return f"{name}.png"


def plant_strangers(
    files: list[ImageFile],
    out: Path,
    other: Path | None,
    rng: np.random.Generator,
    planted: Planted,
    classes: list[str],
) -> None:
    """Photographs, handwriting, and images of another data set."""
    from sklearn.datasets import load_digits, load_sample_images

    with Image.open(files[0].path) as opened:
        size, mode = opened.size, "L" if opened.mode in ("L", "I;16", "I") else "RGB"
    photographs, digits = load_sample_images().images, load_digits().images
    others = find_images(other) if other is not None else []
    for number in range(round(FOREIGN * len(files))):
        which = number % (3 if others else 2)
        if which == 0:
            picture = photographs[number // 3 % 2]
            top, left = rng.integers(0, 200), rng.integers(0, 400)
            made = Image.fromarray(picture[top : top + 220, left : left + 220])
        elif which == 1:
            made = Image.fromarray(
                (255 - 16 * digits[rng.integers(len(digits))]).clip(0, 255).astype(np.uint8)
            )
        else:
            with Image.open(others[rng.integers(len(others))].path) as opened:
                made = opened.convert("RGB")
        name = f"{rng.choice(classes)}/foreign-{number}.png"
        made.convert(mode).resize(size).save(out / name)
        planted.foreign.add(name)


def plant_bad(
    files: list[ImageFile], taken: Any, out: Path, rng: np.random.Generator, planted: Planted
) -> None:
    for number in range(BAD):
        image = files[next(taken)]
        with Image.open(image.path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        noise = rng.integers(-1, 2, pixels.shape)
        made = {
            "blank": np.full(pixels.shape, int(pixels.mean())) + noise,
            "bright": np.clip(pixels.astype(float) * 4 + 80, 0, 255),
            "elongated": pixels[: max(8, pixels.shape[0] // 5)],
        }
        for kind, array in made.items():
            name = f"{image.label}/{kind}-{number}.png"
            Image.fromarray(array.astype(np.uint8)).save(out / name)
            getattr(planted, kind).add(name)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        whole = stream.getvalue()
        name = f"{image.label}/broken-{number}.png"
        (out / name).write_bytes((whole[: len(whole) // 3], b"", b"no picture")[number % 3])
        planted.broken.add(name)


def rivals(out: Path, files: list[ImageFile], vectors_ND: Any, labels: list[str]) -> dict[str, Any]:
    """What cleanlab (on the same vectors) and imagededup (on the files) tell, each as it comes."""
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.preprocessing import StandardScaler

    names = [file.name_below(out) for file in files]
    y = np.unique(labels, return_inverse=True)[1]
    z = StandardScaler().fit_transform(vectors_ND)
    believed = cross_val_predict(
        LogisticRegression(C=0.01, max_iter=200), z, y, method="predict_proba", cv=5
    )
    found: dict[str, Any] = {}
    issues = find_label_issues(y, believed, n_jobs=1)
    found["labels", "cleanlab"] = {name for name, bad in zip(names, issues, strict=True) if bad}
    try:
        from cleanlab.outlier import OutOfDistribution

        score = OutOfDistribution().fit_score(features=vectors_ND, verbose=False)
        # Its scores need a threshold of the user's: as many as were planted, which favours it.
        found["unusual", "cleanlab (told how many)"] = [names[at] for at in np.argsort(score)]
    except ImportError:
        pass
    try:
        from imagededup.methods import PHash
    except ImportError:
        print("imagededup: not run")
        return found
    hasher = PHash(verbose=False)
    hashes = {name: hasher.encode_image(str(out / name)) for name in names}
    hashes = {name: one for name, one in hashes.items() if one}
    pairs = hasher.find_duplicates(encoding_map=hashes, max_distance_threshold=10)
    found["copies", "imagededup PHash"] = {
        frozenset((a, b)) for a, some in pairs.items() for b in some
    }
    return found


def score(found: set[Any], planted: set[Any]) -> dict[str, float]:
    right = len(found & planted)
    return {
        "told": len(found),
        "precision": round(right / max(1, len(found)), 3),
        "recall": round(right / max(1, len(planted)), 3),
    }


def measure(
    data: Path, bundle: Path, other: Path | None, labels: list[str], seed: int
) -> list[dict[str, Any]]:
    """A row for each kind of fault and each that looks for it."""

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "data"
        planted = plant(data, out, other, seed, labels)
        source = Source.of(str(out)).absolute()
        engine = in_process(bundle)
        build(
            Path(folder) / "index",
            Plan(named=source, images=find_images(source)),
            engine,
            Console(quiet=True),
        )
        store = open_index(Path(folder) / "index")
        report = check(store, engine.bundle)
        parts = list(store.vectors())
        names = [name for part in parts for name in part[0]]
        at = {file.name_below(out): file for file in find_images(source)}
        theirs = rivals(
            out, [at[name] for name in names], np.concatenate([part[2] for part in parts]),
            [str(label) for part in parts for label in part[1]],
        )  # fmt: skip
    return rows(data.name, planted, report, theirs)


def rows(name: str, planted: Planted, report: Any, theirs: dict[str, Any]) -> list[dict[str, Any]]:
    def ours(kind: str) -> set[str]:
        return {one for case in report.of(kind).cases for one in case.ids}

    groups = [case.ids for case in report.of("copies").cases]
    pairs = {frozenset((a, b)) for ids in groups for a in ids for b in ids if a != b}
    truth: dict[str, set[Any]] = {
        "copies": set(planted.copies), "labels": set(planted.flipped), "unusual": planted.foreign,
        "broken": planted.broken, "blank": planted.blank, "exposed": planted.bright,
        "elongated": planted.elongated,
    }  # fmt: skip
    told = {("copies", "jepack check"): pairs}
    told |= {
        (kind, "jepack check"): ours({"unusual": "strange"}.get(kind, kind))
        for kind in list(truth)[1:]
    }
    for (kind, who), found in theirs.items():
        told[kind, who] = set(found[: len(truth[kind])]) if isinstance(found, list) else found
    made = []
    for (kind, who), found in told.items():
        row = {
            "data": name,
            "fault": kind,
            "by": who,
            "planted": len(truth[kind]),
            **score(found, truth[kind]),
        }
        if kind == "copies":
            row["recall of"] = {
                one: sum(p in found for p, k in planted.copies.items() if k == one) / EACH
                for one in COPIES
            }
        made.append(row)
    return sorted(made, key=lambda row: list(truth).index(row["fault"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("data", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--other", type=Path, help="another data set, for foreign images")
    parser.add_argument("--label", action="append", default=[], help="only images of these labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="a row is added for each data set")
    options = parser.parse_args()
    found = measure(options.data, options.bundle, options.other, options.label, options.seed)
    table = Table("data", "fault", "by", "planted", "told", "precision", "recall", "of each kind")
    for row in found:
        kinds = ", ".join(f"{name} {share:.0%}" for name, share in row.get("recall of", {}).items())
        table.add_row(
            *(str(row[name]) for name in ("data", "fault", "by", "planted", "told")),
            f"{row['precision']:.2f}",
            f"{row['recall']:.2f}",
            kinds,
        )
    Console(width=150).print(table)
    before = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    kept = [row for row in before if row["data"] != options.data.name]
    write_json(
        options.out, {"seed": options.seed, "copies of each kind": EACH, "rows": kept + found}
    )


if __name__ == "__main__":
    main()

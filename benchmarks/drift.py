"""How soon is drift seen, and how often is it seen where there is none? Beside Evidently and DataEval.

    python -m benchmarks.drift runs/solar/bundle --other data/earth
    python -m benchmarks.drift runs/solar/bundle --other data/earth --rivals venv/bin/python  # after it

Images that the encoder never saw are the domain: nulls are made of `--null` images drawn from them, and a
server is shown images drawn from them, first unchanged, then changed. The delay counts changed images until
the alarm. All draws are independent and with replacement, as the promise supposes (`disjoint` counts the
alarms where null and stream share no image, so that the stream is itself only a sample of the domain).
Evidently and DataEval get the same images: half of those that make our null is their reference, and windows
drawn from the other half set their thresholds, at one false alarm in as many images (`--per`). Their windows
do not overlap, and the first holds changed images alone. What every side then alarms on unchanged images is
counted. `--rivals` is a Python with `evidently dataeval 'pandas<3'`: adds them to the result that is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.drift_images import ANEW, FAULT, KEPT, NEW, ORDINARY, OTHER, WRONG, Rows, embed
from jepack import bundle as bundles
from jepack.faults import FAULT_IMAGES
from jepack.files import write_json
from jepack.measures import Null, Watcher, fit_null
from jepack.measures.isotropy import kolmogorov
from jepack.measures.null import BLOCK

RESULTS = Path(__file__).parent / "results"
RIVALS = Path(__file__).with_name("drift_rivals.py")
LONGEST = 4096  # changed images after which a change counts as not seen
SHARE = 0.1  # of a mixture
MIXED, MIXED_NEW = "10 % of another domain", "10 % of a new class"
MIXTURES = {MIXED: OTHER, MIXED_NEW: NEW}
WITHIN_64 = (
    OTHER, "grey for colour", WRONG, "inverted", "JPEG quality 5", "blur of 3 px", "20 % darker",
)  # fmt: skip
WITHIN_1024 = ("blur of 1 px", MIXED, MIXED_NEW, KEPT, ANEW)
ROWS = (*WITHIN_64, *WITHIN_1024, "JPEG quality 30", "5 % darker")


def draws(found: dict[str, Rows], name: str, count: int, rng: np.random.Generator) -> Rows:
    """Images (any rows of them) as a server would see them, independent of each other."""

    def some(kind: str, number: int) -> Rows:
        return found[kind][rng.integers(len(found[kind]), size=number)]

    if name not in MIXTURES:
        return some(name, count)
    own, strange = some(ORDINARY, count), rng.random(count) < SHARE
    own[strange] = some(MIXTURES[name], int(strange.sum()))
    return own


def null_of(found: dict[str, Rows], rows: Any, kind: str, seed: int) -> Null:
    """The null of these rows. Of the first 256 images it is known what faults make of them."""
    rows = np.concatenate([rows[rows < FAULT_IMAGES], rows[rows >= FAULT_IMAGES]])
    shown = rows[rows < FAULT_IMAGES][:FAULT_IMAGES]
    faulted = {
        name.removeprefix(FAULT): values[shown]
        for name, values in found.items()
        if name.startswith(FAULT)
    }
    return fit_null(
        found[ORDINARY][rows],
        faulted={} if kind == "no faults" else faulted,
        gaussian=kind == "gaussian",
        looks_back=kind != "null alone",
        seed=seed,
    )


def delay(null: Null, features: dict[str, Rows], name: str, per: float, rng: Any) -> float:
    """Changed images until the alarm, after 4,096 ordinary ones that did not alarm; inf where none came.

    What a Watcher tells at every look, without its batches.
    """
    threshold = null.threshold(per)
    while True:
        stream = [draws(features, kind, LONGEST, rng) for kind in (ORDINARY, name)]
        z = np.nanmax(null.z_scores(null.along(np.concatenate(stream))), axis=(1, 2))
        if z[0] <= threshold:
            break
    over = np.flatnonzero(z > threshold)
    return float(over[0] * BLOCK) if len(over) else float("inf")


def alarms_in(null: Null, found: dict[str, Rows], images: int, per: float, rng: Any) -> int:
    watcher = Watcher(null, images_per_false_alarm=per)
    for _ in range(images // 1024):
        watcher.add(draws(found, ORDINARY, 1024, rng))
    return watcher.report().alarms


def rows_of(found: dict[str, Rows]) -> list[str]:
    return [name for name in ROWS if MIXTURES.get(name, name) in found]


def null_rows(
    found: dict[str, Rows], split: int, args: argparse.Namespace
) -> tuple[np.random.Generator, Any]:
    """Which images make a null, and the numbers that go on from there."""
    rng = np.random.default_rng([split, 3])
    return rng, rng.integers(len(found[ORDINARY]), size=args.null)


def measure(found: dict[str, Rows], args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Delays, false alarms and p-values of several nulls of one domain."""
    kinds, rows = args.kinds.split(","), rows_of(found)
    delays: dict[str, dict[str, list[float]]] = {k: {n: [] for n in rows} for k in kinds}
    alarms: dict[str, list[int]] = {kind: [] for kind in kinds}
    spent, watched = 0.0, 0
    for split in range(args.splits):
        rng, made = null_rows(found, split, args)
        for kind in kinds:
            null = null_of(found, made, kind, split)
            start = time.process_time()
            alarms[kind].append(alarms_in(null, found, args.replay, args.per, rng))
            spent, watched = spent + time.process_time() - start, watched + args.replay
            features = {
                name: null.features(values).astype(np.float32)
                for name, values in found.items()
                if not name.startswith(FAULT)
            }
            for name in rows:
                delays[kind][name] += [
                    delay(null, features, name, args.per, rng) for _ in range(args.trials)
                ]
        console.print(f"null {split + 1} of {args.splits}", highlight=False)
    return {
        "null_images": args.null,
        "promised_images_per_alarm": args.per,
        "microseconds_per_image": round(spent / watched * 1e6, 1),
        "kinds": {
            kind: {
                "unchanged_images": args.replay * args.splits,
                "false_alarms": alarms[kind],
                "allowed": args.replay * args.splits / args.per,
                "delays": {name: summary(values) for name, values in delays[kind].items()},
            }
            for kind in kinds
        },
        "disjoint": disjoint(found, args, kinds[0]),
        **needed(found, rows),
    }


def disjoint(found: dict[str, Rows], args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """p-values and alarms where null and stream share no image: two thirds make it, one third is watched."""
    count, alarms, p_values, atypical = len(found[ORDINARY]), 0, [], []
    strange = (name for name in (OTHER, NEW, "inverted", "20 % darker") if name in found)
    shares: dict[str, list[float]] = {name: [] for name in strange}
    for split in range(args.splits):
        rng = np.random.default_rng([split, 4])
        order = rng.permutation(count)
        null = null_of(found, order[: count * 2 // 3], kind, split)
        rest = {ORDINARY: found[ORDINARY][order[count * 2 // 3 :]]}
        alarms += alarms_in(null, rest, args.replay, args.per, rng)
        p_values.append(null.p_values(rest[ORDINARY]))
        atypical.append(float((p_values[-1] <= 0.05).mean()))
        for name, values in shares.items():
            values.append(float((null.p_values(found[name]) <= 0.05).mean()))
    return {
        "unchanged_images": args.replay * args.splits,
        "false_alarms": alarms,
        "allowed": args.replay * args.splits / args.per,
        "p_values": np.histogram(p_values[0], bins=20, range=(0, 1))[0].tolist(),
        "kolmogorov": [round(kolmogorov(p), 3) for p in p_values],
        # Both the calibrating images and those watched are samples.
        "kolmogorov_5_percent": round(
            1.358 * (1 / len(p_values[0]) + 1 / (count * 2 // 3)) ** 0.5, 3
        ),
        "atypical": {
            ORDINARY: round(float(np.mean(atypical)), 3),
            **{name: round(float(np.mean(values)), 3) for name, values in shares.items()},
        },
    }


def needed(found: dict[str, Rows], rows: list[str]) -> dict[str, Any]:
    """Images that somebody needs who knows the change and the domain exactly, by its best linear score.

    Half of streams reach z = 4 by then: a mean of N scores lies sqrt(N) times the discriminability from 0.
    """
    x = found[ORDINARY].astype(np.float64)
    plain = np.concatenate([x, x**2], axis=1)
    spread = np.cov(plain, rowvar=False)
    spread = 0.9 * spread + 0.1 * np.diag(np.diag(spread))
    told = {}
    for name in rows:
        y = found[MIXTURES.get(name, name)].astype(np.float64)
        moved = np.concatenate([y, y**2], axis=1).mean(axis=0) - plain.mean(axis=0)
        moved *= SHARE if name in MIXTURES else 1
        power = float(moved @ np.linalg.solve(spread, moved))  # squared discriminability
        told[name] = {"oracle_images": round(16 / power, 1) if power > 1e-6 else None}
    return {"oracle": told}


def summary(delays: list[float]) -> dict[str, Any]:
    """Median, 95 % point (None: not seen within 4,096) and the share seen."""
    values = np.sort(np.array(delays, float))

    def point(share: float) -> float | None:
        value = values[min(len(values) - 1, int(np.ceil(share * len(values))) - 1)]
        return float(value) if np.isfinite(value) else None

    return {"median": point(0.5), "p95": point(0.95), "seen": float(np.isfinite(values).mean())}


def rivals(found: dict[str, Rows], args: argparse.Namespace) -> dict[str, Any]:
    """The same images for Evidently and DataEval, in an environment of their own."""
    rng, rows = np.random.default_rng(9), rows_of(found)
    with TemporaryDirectory() as work:
        arrays: dict[str, Any] = {}
        for number in range(args.rival_splits):
            made = null_rows(found, number, args)[1]
            arrays[f"{number}/reference"] = found[ORDINARY][made[::2]]
            halves = {ORDINARY: found[ORDINARY][made[1::2]]}
            arrays[f"{number}/ordinary"] = draws(halves, ORDINARY, args.calibration, rng)
            arrays[f"{number}/{ORDINARY}"] = draws(found, ORDINARY, args.calibration, rng)
            for name in rows:
                arrays[f"{number}/{name}"] = draws(found, name, LONGEST * args.rival_trials, rng)
        np.savez(Path(work) / "streams.npz", **arrays)
        streams = Path(work) / "streams.npz"
        command = [args.rivals, RIVALS, streams, args.per, LONGEST, args.sides]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{args.rivals}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    for side in told.values():
        side["delays"] = {
            name: summary([float("inf") if v is None else v for v in values])
            for name, values in side["delays"].items()
        }
    return dict(told)


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="Changed images until the alarm: median (95 %), of 4,096 at most", box=None)
    sides = {name: kind["delays"] for name, kind in result["kinds"].items()}
    sides |= {name: side["delays"] for name, side in result.get("rivals", {}).items()}
    for heading in ("change", "aim", *sides, "oracle"):
        table.add_column(heading, justify="left" if heading == "change" else "right")
    for name, oracle in result["oracle"].items():
        aim = "64" if name in WITHIN_64 else "1,024" if name in WITHIN_1024 else ""
        cells = [cell(side[name]) for side in sides.values()]
        images = oracle["oracle_images"]
        table.add_row(name, aim, *cells, "no change" if images is None else f"{images:,.0f}")
    console.print(table)
    every = result["kinds"] | {"disjoint": result["disjoint"]}
    for name, kind in every.items():
        alarms = int(np.sum(kind["false_alarms"]))
        console.print(
            f"{name}: {alarms} alarms in {kind['unchanged_images']:,} unchanged images, "
            f"{kind['allowed']:.1f} allowed",
            highlight=False,
        )
    for name, side in result.get("rivals", {}).items():
        allowed = side["images"] / result["promised_images_per_alarm"]
        console.print(
            f"{name}: {side['alarms']} windows alarm in {side['images']:,} unchanged images, "
            f"{allowed:.1f} allowed; {side['microseconds']:.0f} us per image",
            highlight=False,
        )
    apart = result["disjoint"]
    console.print(
        f"{result['microseconds_per_image']} us of CPU per image. p-values of unseen images: Kolmogorov "
        f"{apart['kolmogorov']} (5 %: {apart['kolmogorov_5_percent']}); at .05 or less {apart['atypical']}",
        highlight=False,
    )


def cell(found: dict[str, Any]) -> str:
    if found["median"] is None:
        return "not seen" if not found["seen"] else f"{found['seen']:.0%} seen"
    last = "-" if found["p95"] is None else f"{found['p95']:.0f}"
    return f"{found['median']:.0f} ({last})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--other", type=Path, required=True, help="images of another domain")
    parser.add_argument("--new", type=Path, help="images of a class that the encoder never saw")
    parser.add_argument(
        "--pool", type=Path, help="images it never saw; default what its record held out"
    )
    parser.add_argument("--name", help="of the result; default the bundle's")
    parser.add_argument("--rivals", type=Path, help="a Python with evidently and dataeval")
    parser.add_argument("--images", type=int, default=1200, help="of the pool, at most")
    parser.add_argument("--embedded", type=Path, help=".npz that keeps the projections for reruns")
    parser.add_argument("--per", type=float, default=20_000, help="images to one false alarm")
    parser.add_argument("--null", type=int, default=600, help="images of a null")
    parser.add_argument(
        "--kinds", default="faults known,no faults", help="also: gaussian, null alone"
    )
    parser.add_argument("--splits", type=int, default=6, help="nulls")
    parser.add_argument("--trials", type=int, default=4, help="per null and change")
    parser.add_argument("--replay", type=int, default=81_920, help="unchanged images per null")
    parser.add_argument("--calibration", type=int, default=20_480, help="unchanged images, rivals")
    parser.add_argument("--rival-splits", type=int, default=2)
    parser.add_argument("--rival-trials", type=int, default=3)
    parser.add_argument("--sides", default="", help="rivals to run, by comma; default all four")
    args = parser.parse_args()
    console, bundle = Console(width=170), bundles.load(args.bundle)
    if args.embedded is not None and args.embedded.is_file():
        found = dict(np.load(args.embedded))
    else:
        found = embed(bundle, args.pool, args.other, args.new, args.images, console)
        if args.embedded is not None:
            np.savez(args.embedded, **found)
    path = RESULTS / f"drift_{args.name or bundle.name}.json"
    if args.rivals:
        result = json.loads(path.read_text())
        result["rivals"] = rivals(found, args)
    else:
        result = {
            "bundle": args.name or bundle.name,
            "encoder": bundle.config()["architecture"],
            "method": bundle.config()["jepack"]["method"],
            "pool": len(found[ORDINARY]),
            "dimensions": int(found[ORDINARY].shape[1]),
            **measure(found, args, console),
        }
    show(result, console)
    write_json(path, result)


if __name__ == "__main__":
    main()

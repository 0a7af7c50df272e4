"""`jepack sweep`: several short runs, ranked without labels.

The score is the training loss over lambda^0.4 (arXiv:2511.08544, section 6), lower is better. It is
taken on the same images, views and directions for every run, in batches as large as training's: SIGReg
grows with the batch, and 0.4 holds for batches of a few hundred. It compares runs of one projection width
and one regulariser only. V views.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.encoder import Encoder, load_encoder
from jepack.errors import ConfigError, TrainingError
from jepack.files import write_json
from jepack.names import marked
from training import regularisers
from training.batches import Cutter, Finisher, Views
from training.config import RECIPES, TrainConfig, override, recipe
from training.curves import read_log
from training.devices import choose_device
from training.distributed import Ranks
from training.lejepa import Embedder, frozen_statistics, lejepa_loss
from training.splits import training_split
from training.starting import check_sizes
from training.train import prepare_data, serving_preprocessing, train
from training.views import preset

LAMBDA_POWER = 0.4
SCORED_BATCHES = 4
# Settings that would make scores incomparable, or that only the score may fix.
NOT_SWEPT = ("method", "regulariser", "projection_dims", "channels", "preset", "minutes")


@dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    name: str
    changed: dict[str, Any]
    score: float | None = None  # loss / lambda^0.4 on fixed images; None when the run failed
    loss: float | None = None
    knn: float | None = (
        None  # of the run's last evaluation, when there are labels; not used to rank
    )
    embedding_rank: float | None = None
    failure: str | None = None


def sweep(
    data: Annotated[Path, typer.Argument(help="Folder of images.")],
    grid: Annotated[
        list[str], typer.Option("--grid", help="field=a,b,c; several give all combinations.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/sweep"),
    recipe_name: Annotated[
        str, typer.Option("--recipe", help=f"One of {', '.join(RECIPES)}.")
    ] = "small-domain",
    epochs: Annotated[
        float, typer.Option(help="Of every run; see docs/import.md on short ones.")
    ] = 50,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, for all runs.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ranking as JSON.")] = False,
) -> None:
    """Train a grid of short LeJEPA runs and rank them without labels.

    Runs that are already in --out are not trained again.

    Example: jepack sweep photos/ --grid sigreg_weight=0.01,0.02,0.05 --grid learning_rate=5e-4,2e-3
    """
    base = replace(override(recipe(recipe_name), settings or []), epochs=epochs, minutes=None)
    found = run_all(base, combinations(base, grid), data, out, device=device)
    if as_json:
        print(json.dumps([asdict(run) for run in found]))
        return
    show(found, out)


def combinations(base: TrainConfig, grid: list[str]) -> list[dict[str, Any]]:
    """Every combination of the `field=a,b,c` lists, as changes to `base`."""
    if base.method != "lejepa":
        raise ConfigError(f"the score is LeJEPA's; a sweep cannot rank {base.method} runs")
    axes = []
    for entry in grid:
        name, _, values = entry.partition("=")
        name = name.strip().replace("-", "_")
        if name in NOT_SWEPT:
            raise ConfigError(f"runs that differ in {name} cannot be ranked against each other")
        changes = []
        for value in values.split(","):
            changed = override(base, [f"{name}={value}"])
            changes.append({name: getattr(changed, name)})
        axes.append(changes)
    return [
        {key: value for change in chosen for key, value in change.items()}
        for chosen in itertools.product(*axes)
    ]


def run_all(
    base: TrainConfig,
    changes: list[dict[str, Any]],
    data: Path,
    out: Path,
    *,
    device: str | None = None,
    cache_root: Path | None = None,
    say: Callable[[str], None] = lambda text: Console(stderr=True).rule(marked(text)),
) -> list[Run]:
    """Train every change of `base`, score it, write `out`/sweep.json; best run first."""
    choose_device(device)  # told before every image is decoded
    views = fixed_views(base, data, cache_root)
    done: list[Run] = []
    for number, changed in enumerate(changes, start=1):
        name = "_".join(f"{key}={value}" for key, value in changed.items()).replace("/", "-")
        say(f"run {number} of {len(changes)}: {name}")
        folder, config = out / name, replace(base, **changed)
        try:
            encoder = trained(config, data, folder, device, cache_root)
        except TrainingError as error:
            done.append(Run(name, changed, failure=str(error)))
            continue
        loss = loss_on(encoder, views, config, base)
        last = read_log(folder)[1][-1]["evaluation"]
        score = loss / config.sigreg_weight**LAMBDA_POWER
        done.append(Run(name, changed, score, loss, last.get("knn"), last["embedding_rank"]))
    done.sort(key=lambda run: (run.score is None, run.score))
    write_json(out / "sweep.json", [asdict(run) for run in done])
    return done


def trained(
    config: TrainConfig, data: Path, folder: Path, device: str | None, cache_root: Path | None
) -> Encoder:
    """The encoder of a finished run, trained now if `folder` does not hold it."""
    kept = folder / "bundle" / "recipe.json"
    if kept.is_file():
        had = json.loads(kept.read_text())
        # The run wrote down the channels it found in the images; tuples come back as lists.
        wanted = replace(config, channels=config.channels or had["channels"])
        if config.precision == "auto":  # settled by the device
            wanted = replace(wanted, precision=had["precision"])
        if had == json.loads(json.dumps(wanted.to_json())):
            return load_encoder(bundles.load(folder / "bundle"))[0]
    bundle = train(config, data, folder, device=device, cache_root=cache_root, fresh=kept.is_file())
    assert bundle is not None
    return load_encoder(bundle)[0]


def fixed_views(base: TrainConfig, data: Path, cache_root: Path | None) -> list[Views]:
    """Some batches of views of training images, the same for every run of a sweep."""
    cpu = Ranks(0, 1, torch.device("cpu"))
    config, window, cache = prepare_data(base, data, cpu, cache_root)
    chosen, _ = training_split(
        cache.files, config.validation_fraction, config.seed, config.group_by
    )
    check_sizes(config, len(chosen), cpu)
    config = replace(config, accumulate=1, precision="fp32")
    look = preset(config.preset)
    settings = serving_preprocessing(config, cache, window)
    cutter = Cutter(cache, chosen, config, look)
    finisher = Finisher(config, look, settings.mean, settings.std, cpu.device)
    return [finisher.finish(cutter.cut(step)) for step in range(SCORED_BATCHES)]


@torch.no_grad()
def loss_on(
    encoder: Encoder, batches: list[Views], config: TrainConfig, base: TrainConfig
) -> float:
    """The run's loss, with its own lambda, on views and directions that all runs share.

    BatchNorm normalises by the batch, as in training: with its running statistics the projections of
    a short run are far from N(0, I) (SIGReg 138 against 49 on digits), and that gap would rank.
    """
    encoder = encoder.cpu().float().train()
    regulariser = regularisers.build(replace(config, seed=base.seed, slices=base.slices))
    found = []
    with frozen_statistics(encoder):
        embedder = Embedder(encoder.backbone)
        for views in batches:
            embedding = embedder(views.global_views, views.local_views)
            z = encoder.projector(embedding.flatten(0, 1)).unflatten(0, embedding.shape[:2])
            weight, count = config.sigreg_weight, len(views.global_views)
            found.append(lejepa_loss(z, count, regulariser, views.step, weight).loss)
    encoder.eval()
    return float(torch.stack(found).mean())


def show(found: list[Run], out: Path) -> None:
    table = Table(title=f"{len(found)} runs, best first", title_justify="left", box=None)
    for column in ("", "changed", "score", "loss", "kNN (not used)", "embedding rank"):
        table.add_column(column)
    for place, run in enumerate(found, start=1):
        changed = marked("  ".join(f"{key}={value}" for key, value in run.changed.items()))
        if run.score is None or run.loss is None:
            table.add_row(str(place), changed, "failed", marked((run.failure or "")[:60]), "", "")
            continue
        knn = f"{run.knn:.3f}" if run.knn is not None else "no labels"
        table.add_row(
            str(place), changed, f"{run.score:.3f}", f"{run.loss:.3f}", knn,
            f"{run.embedding_rank:.1f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    if len({run.changed.get("sigreg_weight") for run in found}) > 1:
        console.print(
            "[yellow]Lambda differs:[/] the score ranks short runs of one lambda; across lambdas it mostly "
            "follows lambda (docs/import.md).",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"score = loss / lambda^{LAMBDA_POWER:g} on the same views for all, lower is better\n"
        f"  all figures  {marked(out / 'sweep.json')}\n"
        f"  best bundle  {marked(out / found[0].name / 'bundle')}",
        highlight=False,
        soft_wrap=True,
    )

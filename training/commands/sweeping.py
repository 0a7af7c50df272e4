"""The work of `jepack sweep`: several short runs, ranked without labels.

The score is the training loss over lambda^0.4, lower is better; ranking.py takes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from jepack.encoder import load_encoder
from jepack.errors import ConfigError, TrainingError
from jepack.files import write_json
from jepack.names import marked
from jepack.sources import Source
from jepack.stages import page
from jepack.terminal.assignments import names_of, values_of
from training.commands.ranking import fixed_views, ranking_loss
from training.methods import building, check_encoder, trouble
from training.parallel import Ranks, choose_device, ranks
from training.run import (
    Prepared,
    check_start,
    prepare,
    refuse_another,
    refuse_inner_start,
    sameness,
    settle,
)
from training.settings import VIEW, TrainConfig, override, recipe
from training.train import train
from training.watch import LAMBDA_POWER, over_lambda, read_log

# Settings that would make scores incomparable (all runs are scored on the same views), or that only the
# score may fix; and any knob of the views.
NOT_SWEPT = (
    "method", "regulariser", "projection_dims", "channels", "preset", "view_overrides", "minutes",
    "window", "tile", "tile_stride", "group_by", "validation_fraction", "init", "keep_start",
)  # fmt: skip


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


def base_of(name: str, settings: list[str], epochs: float, grid: list[str]) -> TrainConfig:
    """What all runs share. Raises ConfigError for a field that two options set."""
    fixed, swept = names_of(settings, "--set"), names_of(grid, "--grid")
    for field in fixed:
        if field in ("epochs", "minutes"):
            raise ConfigError(
                f"a sweep's runs are as long as --epochs says; leave --set {field} out"
            )
        if field in swept:
            raise ConfigError(f"both --set and --grid name {field}; leave one of them out")
    base = override(recipe(name), settings)
    check_start(base)
    return replace(
        base, epochs=epochs, minutes=None, keep_start=False
    )  # runs are ranked, not starts


def combinations(base: TrainConfig, grid: list[str]) -> list[dict[str, Any]]:
    """Every combination of the `field=a,b,c` lists, as changes to `base`."""
    if base.method != "lejepa":
        raise ConfigError(f"the score is LeJEPA's; a sweep cannot rank {base.method} runs")
    names = names_of(grid, "--grid")
    axes = []
    for name, entry in zip(names, grid, strict=True):
        if name in NOT_SWEPT or name.startswith(VIEW):
            raise ConfigError(f"runs that differ in {name} cannot be ranked against each other")
        changes: list[dict[str, Any]] = []
        for text in values_of(entry.partition("=")[2]):
            if not text:
                raise ConfigError(f"--grid needs field=a,b,c, found {entry!r} with an empty value")
            change = {name: getattr(override(base, [f"{name}={text}"]), name)}
            if change in changes:
                raise ConfigError(f"--grid {entry} holds {text} twice; leave one of them out")
            changes.append(change)
        axes.append(changes)
    product = [
        {key: value for change in chosen for key, value in change.items()}
        for chosen in itertools.product(*axes)
    ]
    for changed in product:
        replace(
            base, **changed
        )  # a combination that cannot work is told before anything is trained
    return product


def name_of_run(changed: dict[str, Any]) -> str:
    return "_".join(f"{key}={value}" for key, value in changed.items()).replace("/", "-")


def run_all(
    base: TrainConfig,
    changes: list[dict[str, Any]],
    data: Source | Path,
    out: Path,
    *,
    device: str | None = None,
    cache_root: Path | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = lambda text: Console(stderr=True).rule(marked(text)),
) -> list[Run]:
    """Train every change of `base`, score it, write `out`/sweep.json; best run first.

    Raises ConfigError before anything is trained when a run cannot work, or when the folder of one holds
    another run.
    """
    choose_device(device)
    for changed in changes:
        refuse_inner_start(out / name_of_run(changed), base.init)
        check_run(replace(base, **changed), base)
    # The encoder may be what differs: that of `base` alone need not be one that can be built.
    cpu = Ranks(0, 1, torch.device("cpu"))
    prepared = prepare(base, Source.of(data), cpu, cache_root=cache_root, encodes=False)
    views = fixed_views(prepared)
    if not fresh:
        for changed in changes:
            refuse_other_run(prepared, replace(base, **changed), out / name_of_run(changed), device)
    done: list[Run] = []
    for number, changed in enumerate(changes, start=1):
        name = name_of_run(changed)
        say(f"run {number} of {len(changes)}: {name}")
        folder, config = out / name, replace(base, **changed)
        try:
            bundle = train(
                config, prepared.source, folder, device=device, cache_root=cache_root, fresh=fresh,
                listed=prepared.listed,
            )  # fmt: skip
            assert bundle is not None
        except TrainingError as error:
            done.append(Run(name, changed, failure=str(error)))
            continue
        encoder, _ = load_encoder(bundle, **config.building_options(any_size=True))
        loss = ranking_loss(encoder, views, config, base)
        last = read_log(folder)[1][-1]["evaluation"]
        score = over_lambda(loss, config.sigreg_weight)
        done.append(Run(name, changed, score, loss, last.get("knn"), last["embedding_rank"]))
    done.sort(key=lambda run: (run.score is None, run.score))
    write_json(out / "sweep.json", [asdict(run) for run in done])
    return done


def check_run(config: TrainConfig, base: TrainConfig) -> None:
    """ConfigError where a run's encoder cannot take its own views, or those all runs are scored on."""
    config = settle(config, Ranks(0, 1, torch.device("cpu")))
    check_encoder(config)
    shared = {base.size, base.local_size if base.local_views else base.size}
    for size in shared - {config.size}:
        reason = trouble(config, building(config, any_size=True), config.size, size)
        if reason:
            raise ConfigError(
                f"{config.encoder} at {config.size} px cannot be scored on the views of {size} px that all "
                f"runs share ({reason})"
            )


def refuse_other_run(
    prepared: Prepared, config: TrainConfig, folder: Path, device: str | None
) -> None:
    """ConfigError when the folder holds a run of other settings or images."""
    with ranks(device) as here:
        refuse_another(folder, prepared.under(config, here).record(sameness.NOT_STATED))


def show(ranked: list[Run], out: Path) -> None:
    table = Table(title=f"{len(ranked)} runs, best first", title_justify="left", box=None)
    for column in ("", "changed", "score", "loss", "kNN (not used)", "embedding rank"):
        table.add_column(column)
    for place, run in enumerate(ranked, start=1):
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
    if len({run.changed.get("sigreg_weight") for run in ranked}) > 1:
        console.print(
            "[yellow]Lambda differs:[/] the score ranks short runs of one lambda; across lambdas it mostly "
            f"follows lambda ({marked(page('import.md'))}).",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"score = loss / lambda^{LAMBDA_POWER:g} on the same views for all, lower is better\n"
        f"  all figures  {marked(out / 'sweep.json')}\n"
        f"  best bundle  {marked(out / ranked[0].name / 'bundle')}",
        highlight=False,
        soft_wrap=True,
    )

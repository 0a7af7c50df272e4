"""Is the isotropy test honest and does it see what it should? Simulated, not assumed.

False alarms: at N(0, I) the p-value must be below 1 % in 1 % of the draws. Power: how often it is below
1 % when the embeddings are wrong in a known way.

    python -m benchmarks.isotropy_power     (a quarter of an hour of one core)
    python -m benchmarks.isotropy_power --trials 1000 --power-trials 100
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from jepack.files import write_json
from jepack.measures import isotropy
from jepack.sigreg import sigreg

LEVELS = (0.05, 0.01, 0.001)
SAMPLES = (128, 512, 4096)
DIMENSIONS = (16, 64, 512)
POWER_DIMENSIONS = 64
CHUNK = 250
OUT = Path(__file__).parent / "results" / "isotropy_power.json"

# T trials, N samples, D dimensions: draws z_TND at N(0, I) and returns them spoilt.
Spoil = Callable[[Tensor, torch.Generator], Tensor]


def mean_shift(z: Tensor, generator: torch.Generator) -> Tensor:
    return z + 0.1


def scale(z: Tensor, generator: torch.Generator) -> Tensor:
    return z * 1.1


def dead(z: Tensor, generator: torch.Generator) -> Tensor:
    z = z.clone()
    z[..., :16] = 0
    return z


def heavy_tails(z: Tensor, generator: torch.Generator) -> Tensor:
    """Multivariate Student t, 5 degrees of freedom, unit covariance."""
    chi = torch.randn(*z.shape[:2], 5, generator=generator).square().sum(-1, keepdim=True)
    return z * (5 / chi).sqrt() * math.sqrt(3 / 5)


def correlated_pairs(z: Tensor, generator: torch.Generator) -> Tensor:
    """Neighbouring coordinates with correlation 0.5."""
    a, b = z[..., ::2], z[..., 1::2]
    return torch.cat([a, 0.5 * a + math.sqrt(0.75) * b], dim=-1)


SPOILERS: dict[str, Spoil] = {
    "mean shift 0.1 in each dimension": mean_shift,
    "scale 1.1": scale,
    "16 of 64 dimensions dead": dead,
    "heavy tails (t, 5 degrees of freedom)": heavy_tails,
    "correlated pairs (0.5)": correlated_pairs,
}


def statistics(
    samples: int, directions_DM: Tensor, trials: int, spoil: Spoil | None, seed: int
) -> np.ndarray:
    """The sliced statistic of `trials` draws, [trials]; the loss's own code."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(trials):
        z_1ND = torch.randn(1, samples, len(directions_DM), generator=generator)
        z_1ND = z_1ND if spoil is None else spoil(z_1ND, generator)
        result.append(float(sigreg(z_1ND, directions_DM)))
    return np.array(result)


def p_values(found: np.ndarray, directions_DM: np.ndarray) -> np.ndarray:
    mean, deviation, skew = isotropy.null_moments(directions_DM)
    return np.array([isotropy.gamma_tail((value - mean) / deviation, skew) for value in found])


def draw(samples: int, dimensions: int, trials: int, name: str | None, seed: int) -> np.ndarray:
    """One job of the pool: statistics of `trials` draws, spoilt as `name` says."""
    torch.set_num_threads(1)
    directions = torch.from_numpy(
        isotropy.random_directions(dimensions, isotropy.SLICES, 0)
    ).float()
    return statistics(samples, directions, trials, SPOILERS[name] if name else None, seed)


def draw_many(
    samples: int,
    dimensions: int,
    trials: int,
    name: str | None = None,
    pool: Executor | None = None,
) -> np.ndarray:
    """`trials` draws in jobs of 250, each with its own seed."""
    sizes = [min(CHUNK, trials - start) for start in range(0, trials, CHUNK)]
    jobs = [(samples, dimensions, size, name, seed) for seed, size in enumerate(sizes)]
    run = pool.map if pool else map
    return np.concatenate(list(run(draw, *zip(*jobs, strict=True))))


def false_alarms(
    samples: int, dimensions: int, trials: int, pool: Executor | None = None
) -> dict[str, Any]:
    """How often the p-value is below each level at N(0, I), and the null's moments."""
    directions = isotropy.random_directions(dimensions, isotropy.SLICES, 0)
    found = draw_many(samples, dimensions, trials, pool=pool)
    p = p_values(found, directions)
    mean, deviation, _ = isotropy.null_moments(directions)
    return {
        "samples": samples,
        "dimensions": dimensions,
        "trials": trials,
        "rates": {str(level): float((p <= level).mean()) for level in LEVELS},
        "mean": [float(found.mean()), mean],
        "deviation": [float(found.std()), deviation],
    }


def power(name: str, samples: int, trials: int, pool: Executor | None = None) -> float:
    """Share of draws that the test calls wrong at 1 %."""
    directions = isotropy.random_directions(POWER_DIMENSIONS, isotropy.SLICES, 0)
    found = draw_many(samples, POWER_DIMENSIONS, trials, name, pool)
    return float((p_values(found, directions) <= 0.01).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument(
        "--large-trials", type=int, default=6000, help="draws where N is 4096, the slow ones"
    )
    parser.add_argument("--power-trials", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    # spawn: a forked child of a process that used torch's threads may hang.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        run(options, Console(), pool)


def run(options: argparse.Namespace, console: Console, pool: Executor) -> None:
    started = time.perf_counter()

    # Written after every cell: a run that is stopped keeps what it has measured.
    kept: dict[str, Any] = {"false_alarms": [], "power": {}}
    table = Table(title="False alarms at N(0, I)")
    for heading in (
        "N",
        "D",
        "draws",
        *(f"at {level:.1%}" for level in LEVELS),
        "mean",
        "deviation",
    ):
        table.add_column(heading, justify="right")
    for samples in SAMPLES:
        for dimensions in DIMENSIONS:
            trials = options.large_trials if samples == max(SAMPLES) else options.trials
            with console.status(f"N = {samples}, D = {dimensions}"):
                cell = false_alarms(samples, dimensions, trials, pool)
            kept["false_alarms"].append(cell)
            write_json(options.out, kept)
            rates = [f"{cell['rates'][str(level)]:.2%}" for level in LEVELS]
            both = [f"{a:.4f} ({b:.4f})" for a, b in (cell["mean"], cell["deviation"])]
            table.add_row(str(samples), str(dimensions), str(trials), *rates, *both)
    console.print(table, "In brackets: computed, not simulated.")

    sizes = (64, 128, 256, 512, 1024, 2048)
    table = Table(title=f"Power at 1 %, D = {POWER_DIMENSIONS}, {options.power_trials} draws each")
    table.add_column("what is wrong")
    for samples in sizes:
        table.add_column(f"N = {samples}", justify="right")
    curves = kept["power"]
    for name in SPOILERS:
        with console.status(name):
            curves[name] = {str(n): power(name, n, options.power_trials, pool) for n in sizes}
        write_json(options.out, kept)
        table.add_row(name, *(f"{value:.0%}" for value in curves[name].values()))
    console.print(table)
    console.print(f"{time.perf_counter() - started:.0f} s; written to {options.out}")


if __name__ == "__main__":
    main()

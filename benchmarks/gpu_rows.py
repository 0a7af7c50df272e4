"""The rows of `python -m benchmarks.gpu`: each a function of a place that gives its figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import gpu_beside, gpu_runs, gpu_steps
from benchmarks.gpu_place import Figures, Place, machine, resnet_settings, vit_settings

ROWS: dict[str, Callable[[Place], Figures]] = {
    "machine": machine,
    "sigreg": gpu_beside.sigreg,
    "tests": gpu_runs.tests,
    "end-to-end": gpu_runs.end_to_end,
    "bundling": gpu_runs.bundling,
    "ranks": gpu_runs.two_ranks,
    "export": gpu_runs.export,
}
for network, settings in (("resnet", resnet_settings), ("vit", vit_settings)):
    for way in gpu_steps.WAYS:
        ROWS[f"{way}-{network}"] = partial(gpu_steps.steps, settings=settings, way=way)
    ROWS[f"beside-{network}"] = partial(gpu_beside.beside, settings=settings)

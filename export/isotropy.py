"""`jepack isotropy`: how close a set of embeddings is to N(0, I). torch only when given a bundle."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from jepack import bundle as bundles
from jepack.client import PARTS
from jepack.errors import ArtifactError, DataError
from jepack.measures import IsotropyReport, breadth
from jepack.measures import isotropy as measures
from jepack.names import marked
from jepack.terminal import idle, options

COLOURS = {"collapsed": "bold red", "few": "yellow", "fair": "green"}  # of Breadth
# field of IsotropyReport: (how it is called, its value at N(0, I), how it prints)
ROWS = {
    "samples": ("samples", "", "d"),
    "dimensions": ("dimensions", "", "d"),
    "statistic": ("sliced statistic T", "1.05", ".2f"),
    "z_score": ("  in standard deviations", "0 ± 1", ".1f"),
    "p_value": ("  chance at N(0, I)", "0..1", ".2g"),
    "worst_slice": ("  worst direction", "3-6", ".2f"),
    "mean_norm": ("norm of the mean", "0", ".3g"),
    "variance": ("mean variance", "1", ".3g"),
    "effective_rank": ("effective rank", "dimensions", ".1f"),
    "rankme": ("RankMe", "dimensions", ".1f"),
    "condition_number": ("condition number", "1", ".3g"),
    "dead_dimensions": ("coordinates without variance", "0", "d"),
    "silent_directions": ("directions without variance", "0", "d"),
    "uniformity": ("uniformity", "near -4", ".2f"),
    "norm_tail": ("norms beyond chi-square's 99 %", "0.01", ".3f"),
    "norm_distance": ("norms' distance to chi-square", "0", ".3f"),
}


def isotropy(
    source: Annotated[Path, typer.Argument(help="A bundle, or embeddings [N, D] as .npy or .npz.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of images to run a bundle on, not trained on.")
    ] = None,
    images: Annotated[int, typer.Option(min=8, max=1_000_000, help="Most images to run.")] = 512,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Draw spectrum, slices and norms into this PNG.",
            callback=options.picture_to_write,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how close embeddings are to an isotropic Gaussian N(0, I).

    Example: jepack isotropy runs/photos/bundle --picture isotropy.png
    """
    given = idle.changed(isotropy, locals())
    if not source.is_dir():
        idle.refuse(
            given, ["data", "images"], f"{source} is measured as it stands, with all its rows"
        )
    with Console(stderr=True).status("Measuring"):
        if source.is_dir():
            outputs, title = bundle_outputs(source, data, images)
        else:
            outputs, title = read_arrays(source), str(source)
        reports = {name: measures.report(values) for name, values in outputs.items()}
        if picture is not None:
            from export.picture import draw

            draw(outputs, title, picture)
    if as_json:
        told = {n: {**one.to_json(), "breadth": breadth(one).kind} for n, one in reports.items()}
        print(json.dumps(told))
        return
    console = Console()
    console.print(table(reports, title))
    for name, one in reports.items():
        found = breadth(one)
        mark = f"[{COLOURS[found.kind]}]{marked(name)}:[/]"
        console.print(f"{mark} its images {found.text}", highlight=False, soft_wrap=True)
    if picture is not None:
        console.print(f"[green]Wrote[/] {marked(picture)}", highlight=False)


def bundle_outputs(
    folder: Path, data: Path | None, images: int
) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """A bundle's outputs on held-out images, and what these images are."""
    from export.evaluation import find_evaluation
    from export.measure import measure_graph
    from jepack.encoder import EncoderGraph, load_encoder

    if not (folder / bundles.MANIFEST).exists():
        parts = any(folder.glob(PARTS))
        told = (
            "holds parts of `jepack embed`"
            if parts
            else f"no bundle (it has no {bundles.MANIFEST})"
        )
        todo = (
            f"Write them as one file: jepack embed DATA --out {folder}.npz, then jepack isotropy {folder}.npz"
            if parts
            else "It is an index: jepack isotropy BUNDLE --data IMAGES"
            if (folder / "index.json").exists()
            else f"Images are measured through a bundle: jepack isotropy BUNDLE --data {folder}"
        )
        raise ArtifactError(f"{folder}: {told}. {todo}")
    bundle = bundles.load(folder)
    evaluation = find_evaluation(bundle, data, images)
    encoder, calibration = load_encoder(bundle)
    graph = EncoderGraph(encoder, bundle.preprocessing, calibration).eval()
    measured = measure_graph(graph, encoder, evaluation).held_out(evaluation)
    outputs = {
        "embedding": measured.embedding,
        "raw projection": measured.raw_projection,
        "projection": measured.projection,
    }
    return outputs, f"{bundle.name} on {evaluation.source}"


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every two-dimensional array of numbers in a .npy or .npz file. Never unpickles."""
    try:
        content = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such bundle or file of embeddings") from None
    except (OSError, ValueError, EOFError) as error:
        # numpy's own words for any other file advise to unpickle it.
        reason = "" if "pickle" in str(error) else f" ({error})"
        raise DataError(f"{path}: not a .npy or .npz file of numbers{reason}") from error
    if isinstance(content, np.ndarray):
        content = {path.stem: content}
    arrays = {name: content[name] for name in content}
    arrays = {n: x for n, x in arrays.items() if x.ndim == 2 and x.dtype.kind in "fiu"}
    if not arrays:
        raise DataError(f"{path}: needs an array of numbers [N, D]; found none")
    return arrays


def table(reports: dict[str, IsotropyReport], title: str) -> Table:
    result = Table(
        title=marked(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    result.add_column("measure", no_wrap=True)
    result.add_column("at N(0, I)", justify="right")
    for name in reports:
        result.add_column(name, justify="right")
    for key, (label, target, shape) in ROWS.items():
        values = [getattr(report, key) for report in reports.values()]
        result.add_row(label, target, *(show(value, shape) for value in values))
    return result


def show(value: float, shape: str) -> str:
    return "singular" if math.isinf(value) else format(value, shape)

"""`jepack export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from export.choices import CHECKS, DEFAULT_FORMATS, FORMATS
from jepack import bundle as bundles
from jepack.bundle import OUTPUTS
from jepack.names import marked, marked_lines
from jepack.sources import Source

if TYPE_CHECKING:
    from export.run import ExportedFile, ExportResult

PLAIN: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "padding": 0}


def export(
    folder: Annotated[
        Path, typer.Argument(help="Bundle to export; the files are written into it.")
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Folder of images not trained on, to judge the exports by."),
    ] = None,
    formats: Annotated[
        str, typer.Option(help=f"Comma-separated: {', '.join(FORMATS)}; or all.")
    ] = ",".join(DEFAULT_FORMATS),
    images: Annotated[
        int, typer.Option(min=8, max=1_000_000, help="Most images to judge by.")
    ] = 512,
    normalized: Annotated[
        bool, typer.Option("--normalized", help="ONNX also gives both outputs at unit length.")
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="ONNX also gives the tokens, last_hidden_state.")
    ] = False,
    probes: Annotated[
        list[str] | None,
        typer.Option(
            "--probe", help="Kept in the bundle: ONNX also gives its probabilities. Repeatable."
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Bundle published before; refuse to be worse than it.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help=f"Check of --against that only warns: {', '.join(CHECKS)}. Repeatable."),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="name=value changes one limit of the gate; repeatable, recorded."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write what the gate refuses; the manifest records it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Judge and convert, say what would be written.")
    ] = False,
    timing: Annotated[bool, typer.Option(help="Time each export beside PyTorch.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export a bundle to ONNX and TorchScript, unless the gate refuses it (exit code 5).

    Examples:
      jepack export runs/photos/bundle --data photos/held-out
      jepack export runs/photos/bundle --against published/photos --allow neighbours
      jepack export runs/photos/bundle --formats all --threshold int8.recall=0.85
    """
    from export.overrides import parse
    from export.run import export_bundle

    limits = parse(threshold or [])
    bundle = bundles.load(folder)
    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    wanted = list(FORMATS) if wanted == ["all"] else wanted
    with Console(stderr=True).status("Loading the encoder") as status:
        result = export_bundle(
            bundle,
            formats=wanted,
            data=None if data is None else Source.of(data),
            max_images=images,
            thresholds=limits,
            extras=[*["normalized"] * normalized, *["tokens"] * tokens],
            probes=probes or (),
            against=bundles.load(against) if against else None,
            allow=allow or (),
            force=force,
            timing=timing,
            say=lambda text: status.update(marked(text)),
            dry_run=dry_run,
        )
    if as_json:
        print(json.dumps({**result.to_json(), **({"dry_run": True} if dry_run else {})}))
    else:
        show(result, Console(), dry_run=dry_run)


def show(result: ExportResult, console: Console, *, dry_run: bool = False) -> None:
    """The table of exports, what the encoder's outputs look like, and what was written."""
    console.print(encoder_table(result))
    console.print(export_table(result.exports))
    timed = [item for item in result.exports if "milliseconds" in item.facts]
    if timed:
        console.print(timing_table(timed))
    if "against" in result.gate:
        console.print(regression_table(result.gate["against"]))
    for name, change in result.gate["changed_thresholds"].items():
        console.print(
            f"[yellow]changed:[/] threshold {name} {change['value']:g} ({change['default']:g})",
            highlight=False,
        )
    for warning in result.gate["warnings"]:
        console.print(f"[yellow]warning:[/] {marked_lines(warning)}", highlight=False)
    for refusal in result.gate["refusals"]:
        console.print(f"[red]overridden by --force:[/] {marked_lines(refusal)}", highlight=False)
    for item in result.exports:
        if not item.written:
            reasons = "; ".join(item.verdict.refusals)
            console.print(f"[yellow]left out:[/] {marked_lines(reasons)}", highlight=False)
        elif item.facts.get("recommended") is False:
            wanted = result.gate["thresholds"]["min_int8_speedup"]
            console.print(
                f"[yellow]not recommended here:[/] {item.file} is {item.facts['over_float32']} times as "
                f"fast as the float32 graph at batch 8 ({wanted:g} wanted)",
                highlight=False,
            )
    switched_off = [name for name, kept in result.promises.items() if not kept]
    if switched_off:
        console.print(
            f"[yellow]not promised:[/] {', '.join(switched_off)} (the calibrated projection is not "
            "close enough to N(0, I) on held-out images, or there are too few of them)",
            highlight=False,
        )
    written = [item.file for item in result.exports if item.written]
    did = "Dry run, nothing written; it would write" if dry_run else "Wrote"
    console.print(
        f"[green]{did}[/] {', '.join(written) or 'no export'} and isotropy.json into "
        f"{marked(result.bundle.folder)}",
        highlight=False,
        soft_wrap=True,
    )


def encoder_table(result: ExportResult) -> Table:
    source = marked(result.images["source"])
    table = Table(title=f"{marked(result.bundle.name)} on {source}", **PLAIN)
    table.add_column("output", no_wrap=True)
    for name in ("dims", "effective rank", "dead", "T", "|mean|", "variance"):
        table.add_column(name, justify="right")
    for name, report in result.outputs.items():
        table.add_row(
            name.replace("_", " "),
            str(report.dimensions),
            f"{report.effective_rank:.1f}",
            str(report.dead_dimensions),
            f"{report.statistic:.2f}",
            f"{report.mean_norm:.3g}",
            f"{report.variance:.3g}",
        )
    return table


def export_table(exports: list[ExportedFile]) -> Table:
    table = Table(
        title="Exports against PyTorch (T: the sliced statistic, 1.05 at N(0, I))", **PLAIN
    )
    table.add_column("export", no_wrap=True)
    for name in ("MB", "output", "max abs", "cosine", "recall@10", "T"):
        table.add_column(name, justify="left" if name == "output" else "right", no_wrap=True)
    for item in exports:
        mark = "[red]✗[/]" if item.verdict.refusals else "[green]✓[/]"
        left = [f"{mark} {item.file}", f"{item.facts['bytes'] / 1e6:.1f}"]
        for output in OUTPUTS:
            table.add_row(*left, output, *figures(item.parity[output]))
            left = ["", ""]
    return table


def timing_table(exports: list[ExportedFile]) -> Table:
    table = Table(title="Milliseconds (times as fast as PyTorch eager), this machine", **PLAIN)
    table.add_column("export", no_wrap=True)
    batches = list(exports[0].facts["milliseconds"])
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right")
    for item in exports:
        spent, speed = item.facts["milliseconds"], item.facts["speed"]
        table.add_row(item.file, *(f"{spent[b]:.1f} ({speed[b]:.1f}x)" for b in batches))
    return table


def regression_table(comparison: dict[str, Any]) -> Table:
    """This encoder beside the one published before."""
    table = Table(
        title=f"Against {marked(comparison['name'])}, {comparison['images']} images", **PLAIN
    )
    for heading in ("figure", "now", "before"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    measured = comparison["figures"]
    for name, pair in measured["effective_rank"].items():
        table.add_row(f"effective rank, {name.replace('_', ' ')}", *(f"{v:.1f}" for v in pair))
    table.add_row("projection's excess per image", *(f"{v:.4f}" for v in measured["excess"]))
    table.add_row("neighbours in common", f"{measured['neighbour_agreement']:.3f}", "")
    for name in ("knn", "retrieval"):
        if name in measured:
            table.add_row(name, f"{measured[name]['now']:.3f}", f"{measured[name]['before']:.3f}")
    return table


def figures(parity: dict[str, Any]) -> list[str]:
    if "broken" in parity:
        return [marked(parity["broken"])]
    formats = {"max_abs": ".0e", "cosine": ".4f", "recall_at_10": ".3f", "statistic": ".1f"}
    return [format(parity[name], shape) for name, shape in formats.items()]

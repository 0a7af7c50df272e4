"""`jepack quickstart`: one real data set through every stage, each stage its own process."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.panel import Panel
from rich.rule import Rule

from jepack import bundle as bundles
from jepack.commands.walk import STOPS, Walk, console, interrupt
from jepack.decoding import FITS
from jepack.errors import ArtifactError, JepackError, ServerError
from jepack.names import marked, marked_lines
from jepack.sources import demo, find_images
from jepack.terminal import idle, options

MINUTES = options.positive(10_000)


def quickstart(
    dataset: Annotated[str, typer.Option(help="earth or solar.")] = "earth",
    data: Annotated[Path | None, typer.Option(help="Your own folder of images instead.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; default runs/<data set>.", callback=options.folder_to_write),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(help="Budget of the training steps.", callback=options.within(MINUTES)),
    ] = 6.0,
    preset: Annotated[str | None, typer.Option(help="View preset for --data.")] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            help=f"How an image fills the square: {', '.join(FITS)}.", callback=options.fit
        ),
    ] = None,
    app: Annotated[bool, typer.Option(help="Open the page; --no-app ends after the check.")] = True,
    port: Annotated[
        int, typer.Option(help="Port of the page; 0 picks one.", min=0, max=65535)
    ] = 7860,
    triton_port: Annotated[
        int, typer.Option(help="gRPC port of Triton; 0 picks one.", min=0, max=65535)
    ] = 8001,
    fresh: Annotated[bool, typer.Option(help="Do everything again.")] = False,
) -> None:
    """Train, export, serve, index and browse: the whole way on real images, in minutes.

    What is already done is reused. Ctrl-C stops everything it started.

    Examples:
      jepack quickstart
      jepack quickstart --data photos/ --preset natural
    """
    given = idle.changed(quickstart, locals())
    if data is not None:
        idle.refuse(given, ["dataset"], f"--data {data} takes the place of a data set of ours")
    if not app:
        idle.refuse(given, ["port"], "--no-app opens no page")
    walk = prepare(dataset, data, out, preset)
    for number in STOPS:  # a shell's background job ignores SIGINT
        signal.signal(number, interrupt)
    with walk.tidy():
        train(walk, minutes, fresh, fit)
        export(walk, fresh)
        serve(walk, triton_port)
        index(walk, fresh)
        self_check(walk)
        compare(walk, fresh)
        if app:
            open_page(walk, port)
        summary(walk)
        if app:
            walk.wait()


def prepare(dataset: str, data: Path | None, out: Path | None, preset: str | None) -> Walk:
    """The folder of images, the licence that goes with it, the run folder."""
    if data is not None:
        find_images(data)
        name, license = data.absolute().name, demo.license_of(data)
        walk = Walk(data, out or Path("runs") / name, name, license, preset or "natural")
    else:
        with console.status(f"laying out {dataset}"):
            folder = demo.prepare(dataset, Path("runs") / "data")
        known = demo.DATASETS[dataset]
        preset, out = preset or known.preset, out or Path("runs") / dataset
        walk = Walk(folder, out, dataset, known.license, preset, known.training, known.group)
    console.print(
        f"[bold]{marked(walk.name)}[/]: {marked(walk.data)}\n"
        f"licence of the data: [bold]{marked(walk.license)}[/] (goes into the bundle's card)",
        highlight=False,
        soft_wrap=True,
    )
    return walk


@contextmanager
def stage(walk: Walk, title: str) -> Iterator[None]:
    console.print(Rule(f"[bold]{title}[/]", align="left", style="dim"))
    started = time.monotonic()
    yield
    walk.seconds[title] = time.monotonic() - started


def train(walk: Walk, minutes: float, fresh: bool, fit: str | None = None) -> None:
    with stage(walk, "1 train"):
        sound(walk.bundle)  # whether it is of these images and settings, `train` says
        walk.run(
            "train", str(walk.data), "--recipe", "quickstart", "--preset", walk.preset,
            "--minutes", str(minutes), "--license", walk.license, "--out", str(walk.out),
            "--images-per-step", str(images_per_step(len(find_images(walk.data)))),
            *walk.training, *(["--fresh"] if fresh else []), *([] if fit is None else ["--fit", fit]),
        )  # fmt: skip


def images_per_step(images: int) -> int:
    """The recipe's 128, or about a third of a data set too small for that."""
    return 128 if images >= 400 else max(16, images // 3 // 16 * 16)


def sound(folder: Path) -> bool:
    """Whether a usable bundle lies there; a damaged one is told and made again."""
    if not folder.exists():
        return False
    problems = bundles.verify(folder)
    if problems:
        console.print(
            f"[yellow]{marked(folder)} is damaged, making it again:[/] {marked(problems[0])}"
        )
    return not problems


def export(walk: Walk, fresh: bool) -> None:
    with stage(walk, "2 export"):
        made = walk.bundle / "onnx" / "model.onnx", walk.bundle / "torchscript" / "model.pt"
        if not fresh and all(path.is_file() for path in made):
            console.print(f"reusing {marked(made[0])} and {marked(made[1])}")
            return
        walk.run("export", str(walk.bundle))


def serve(walk: Walk, port: int) -> None:
    with stage(walk, "3 serve"):
        child = walk.start(
            "serve", str(walk.bundle), "--port", str(port), "--http-port", "0",
            "--metrics-port", "0", "--log-file", str(walk.out / "triton.log"), "--json",
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        line = child.stdout.readline()  # printed once the golden images came back right
        if not line:
            child.wait()
            raise ServerError("Triton did not start; its message stands above")
        facts = json.loads(line)
        walk.url = facts["url"]
        console.print(f"Triton answers at [bold]{walk.url}[/] (gRPC) and {facts['http']}")


def index(walk: Walk, fresh: bool) -> None:
    with stage(walk, "4 index"):
        bundle = bundles.load(walk.bundle)
        want = bundle.fingerprints[bundle.default_output]
        if not fresh and indexed_fingerprint(walk.index) == want:
            console.print(f"reusing {marked(walk.index)}")
            return
        walk.run(
            "index", str(walk.data), "--url", walk.url, "--out", str(walk.index),
            "--name", walk.name, "--license", walk.license,
        )  # fmt: skip


def indexed_fingerprint(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "index.json").read_text())["fingerprint"])
    except (OSError, ValueError, KeyError):
        return None


def self_check(walk: Walk) -> None:
    """One query through Triton must return its own image first."""
    with stage(walk, "5 check"):
        images = find_images(walk.data)
        query = images[len(images) // 2].path
        answer = walk.output_of(
            "search", str(walk.index), str(query), "--url", walk.url, "--k", "5", "--json"
        )
        first = answer["neighbours"][0]
        if Path(first["path"]).resolve() != query.resolve() and first["distance"] > 1e-5:
            raise ArtifactError(
                f"self-check failed: {query} was sent through Triton and the nearest image was "
                f"{first['path']} at distance {first['distance']:.4f}. Run again with --fresh."
            )
        console.print(
            f"[green]✓[/] {marked(query.name)} through Triton finds "
            f"{marked(Path(first['path']).name)} first, "
            f"at distance {first['distance']:.6f}",
            highlight=False,
        )


def compare(walk: Walk, fresh: bool) -> None:
    """The encoder beside the same network untrained and ImageNet's, where images have labels to judge by."""
    if len({image.label for image in find_images(walk.data)} - {None}) < 2:
        return
    with stage(walk, "6 compare"):
        made = walk.picture
        if not fresh and made.is_file() and made.stat().st_mtime > weights_time(walk.bundle):
            console.print(
                f"reusing {marked(made)}; the table is in {marked(walk.bundle)}/README.md"
            )
            return
        words = ["--baseline", "random"]
        channels = bundles.load(walk.bundle).preprocessing.channels
        if channels == 3 and importlib.util.find_spec(demo.IMAGENET[0]) is not None:
            words += ["--baseline", "imagenet", "--size", "128"]
        if walk.group is not None:
            words += ["--group-by", walk.group, "--seeds", "3"]
        data = str(walk.data)
        try:
            walk.run("probe", str(walk.bundle), "--data", data, *words, "--picture", str(made))
        except JepackError:  # a class of two images, say; what was made is as good without
            console.print("[yellow]not compared[/]: why stands above")


def weights_time(bundle: Path) -> float:
    return (bundle / "model.safetensors").stat().st_mtime


def open_page(walk: Walk, port: int) -> None:
    with stage(walk, "7 app"):
        child = walk.start(
            "app", str(walk.index), "--url", walk.url, "--port", str(port), stdout=subprocess.PIPE
        )  # fmt: skip
        assert child.stdout is not None
        line = child.stdout.readline()  # "ADDRESS  (Ctrl-C stops it)", once it answers
        if not line.strip():
            child.wait()
            raise ServerError("the page did not open; its message stands above")
        walk.page = line.split()[0]


def summary(walk: Walk) -> None:
    """What was made, where, and the next command of each stage."""
    times = "  ".join(f"{name.split()[1]} {took:.0f} s" for name, took in walk.seconds.items())
    page = f"[bold]Open {walk.page}[/]\n\n" if walk.page else ""
    compared = f"compared  {walk.picture}\n" if walk.picture.is_file() else ""
    text = (
        f"curves    {walk.out / 'curves.png'}\n{compared}"
        f"bundle    {walk.bundle}      next: jepack push {walk.bundle} USER/REPO\n"
        f"exports   {walk.bundle / 'onnx'}, {walk.bundle / 'torchscript'}\n"
        f"endpoint  jepack serve {walk.bundle}\n"
        f"vectors   {walk.index}       next: jepack search {walk.index} IMAGE\n"
        f"page      jepack app {walk.index}\n"
        f"train     jepack train YOUR_IMAGES --recipe small-domain --out runs/mine\n\n{times}"
    )
    ending = " · Ctrl-C stops everything" if walk.page else ""
    title = f"{marked(walk.name)} is ready{ending}"
    console.print(Panel(page + marked_lines(text), title=title, border_style="green"))

"""The `jepack` command. Each subcommand lives in its stage and is imported only when it runs."""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import os
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from jepack import __version__, stages
from jepack.errors import ArtifactError, JepackError
from jepack.machine import loopback, tether, threads
from jepack.names import marked_lines, never_raise

# command: (module, Typer function, one line for --help)
COMMANDS = {
    "quickstart": (
        "jepack.commands.quickstart",
        "quickstart",
        "Walk a real data set through every stage.",
    ),
    "doctor": ("jepack.commands.doctor", "doctor", "Check this machine and say what to mend."),
    "inspect": (
        "training.commands.inspect",
        "inspect",
        "Show what a data set holds, and its bad files.",
    ),
    "views": (
        "training.commands.views",
        "views",
        "Draw the views the encoder will be told are the same.",
    ),
    "train": (
        "training.commands.train",
        "train",
        "Train an encoder on your images; writes a bundle.",
    ),
    "sweep": (
        "training.commands.sweep",
        "sweep",
        "Train a grid of short runs and rank them, no labels.",
    ),
    "probe": (
        "training.commands.scores",
        "probe",
        "Score a bundle or any timm model with simple probes.",
    ),
    "import": (
        "training.commands.importing",
        "import_encoder",
        "Wrap an existing timm encoder as a bundle.",
    ),
    "isotropy": ("export.isotropy", "isotropy", "Measure how isotropic a set of embeddings is."),
    "export": ("export.cli", "export", "Export a bundle to ONNX and TorchScript, behind gates."),
    "verify": ("jepack.commands.small", "verify", "Check a bundle and explain each failure."),
    "sign": ("jepack.bundle.signing", "sign", "Sign a bundle with a private key."),
    "push": ("jepack.hub.commands", "push", "Publish a bundle to the Hugging Face Hub."),
    "pull": ("jepack.hub.commands", "pull", "Fetch a bundle from the Hub at a pinned revision."),
    "serve": ("serving.cli", "serve", "Serve a bundle on NVIDIA Triton."),
    "embed": ("serving.embedding", "embed", "Embed a folder of images through the endpoint."),
    "drift": (
        "jepack.commands.drift",
        "drift",
        "Compare images with those a bundle was judged by.",
    ),
    "index": ("app.index_cli", "index", "Build a vector index of a folder of images."),
    "index move": ("app.move_cli", "move", "Bring an index to another place or engine."),
    "search": ("app.search_cli", "search", "Find the nearest images of an index."),
    "check": (
        "app.checking.cli",
        "check",
        "Find copies, leaks, wrong labels, bad pictures.",
    ),
    "app": ("app.cli", "app", "Open the Gradio page over an index."),
    "cache": ("jepack.commands.small", "cache", "Show what old caches take, and remove them."),
}
NO_RIGHT = "This user may not: choose a place that it may write to, or ask its owner"
FULL = "Free some space, or choose a place on another disk (TMPDIR for temporary files)"
SYSTEM_MENDS = {
    errno.EACCES: NO_RIGHT,
    errno.EPERM: NO_RIGHT,
    errno.EROFS: NO_RIGHT,
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EMFILE: "Allow more open files: ulimit -n 4096",
}
INTERRUPTED = 130  # exit code
SUMMARY = "From a folder of domain images to an embedding service you can trust."
EXAMPLE = """ Example:
   jepack train photos/ --out runs/photos
   jepack export runs/photos/bundle
   jepack serve runs/photos/bundle"""
HELP = {"help_option_names": ["-h", "--help"]}
# ClickException, of whichever click this typer is built on (newer ones carry their own).
USAGE_ERRORS: Any = typer.BadParameter.__mro__[2]


class LazyGroup(TyperGroup):
    """Lists commands from the table; imports the module of the one that runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command = typer.Typer(add_completion=False, rich_markup_mode="rich")
        made = getattr(importlib.import_module(module), function)
        command.command(cmd_name, help=flowing(inspect.getdoc(made) or "", cmd_name))(made)
        return typer.main.get_command(command)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if (name := " ".join(args[:2])) in COMMANDS:  # of two words
            return name, self.get_command(ctx, name), args[2:]
        try:
            return super().resolve_command(ctx, args)
        except USAGE_ERRORS as error:
            if near := difflib.get_close_matches(args[0], COMMANDS, n=1):
                error.message += f" Did you mean `jepack {near[0]}`?"
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Written from the table: asking every command for its line would import every stage."""
        console = Console()
        console.print(f"\n Usage: [bold]{ctx.command_path} COMMAND[/] ...\n\n {SUMMARY}\n")
        for name, (_, _, line) in COMMANDS.items():
            console.print(f"  [bold cyan]{name:<11}[/] {line}", highlight=False)
        console.print(
            f"\n{EXAMPLE}\n\n `jepack COMMAND --help` shows its options.", highlight=False
        )


def flowing(text: str, command: str) -> str:
    """A docstring for a terminal of any width: prose without its line ends, examples line by line."""
    parts = text.split("\n\n")
    return "\n\n".join(
        part if f"jepack {command}" in part else " ".join(part.split()) for part in parts
    )


app = typer.Typer(cls=LazyGroup, add_completion=False, context_settings=HELP)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """From a folder of domain images to an embedding service you can trust."""
    if version:
        print(f"jepack {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Entry point: errors meant for the user print in red and set their exit code."""
    never_raise()
    console = Console(stderr=True)
    stages.put_on_path()
    tether.heed()
    loopback.spare()
    threads.calm()
    try:
        code = typer.main.get_command(app).main(standalone_mode=False)
        flush()
        if code == INTERRUPTED:  # typer's word for Ctrl-C
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        console.print("[yellow]Stopped.[/]")
        sys.exit(INTERRUPTED)
    except USAGE_ERRORS as error:
        error.show()
        sys.exit(error.exit_code)
    except (JepackError, ModuleNotFoundError) as error:
        known = error if isinstance(error, JepackError) else lacking(error)
        if known is None:
            raise
        console.print(f"[bold red]error:[/] {marked_lines(known)}", highlight=False, soft_wrap=True)
        sys.exit(known.exit_code)
    except OSError as error:
        if error.errno is None:  # no word of the system's
            raise
        write_no_more()
        told = marked_lines(told_of_system(error))
        console.print(f"[bold red]error:[/] {told}", highlight=False, soft_wrap=True)
        sys.exit(ArtifactError.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def flush() -> None:
    """Write what is printed while an error can still be told. A reader who has gone away wants no more."""
    try:
        if sys.stdout is not None:  # None = closed before the start
            sys.stdout.flush()
    except BrokenPipeError:
        write_no_more()
        sys.exit(1)  # as for all that meets it earlier, in click and rich


def write_no_more() -> None:
    """Let what is left to print go nowhere: Python writes it once more at its exit."""
    with suppress(AttributeError, OSError, ValueError):  # no standard output, or not a file's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def told_of_system(error: OSError) -> str:
    """A sentence for what the system refused and no code has a word for."""
    place = f"{error.filename}: " if error.filename is not None else ""
    mend = SYSTEM_MENDS.get(error.errno or 0, "")
    return f"{place}{error.strerror or error}.{mend and ' '}{mend}"


def lacking(error: ModuleNotFoundError) -> JepackError | None:
    """The extra to install for the command that is running; a library may be missed long after its start."""
    name = next((word for word in sys.argv[1:] if word in COMMANDS), None)
    return stages.lacking(error, name, COMMANDS[name][0]) if name else None

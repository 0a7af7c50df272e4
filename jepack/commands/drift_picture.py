"""The plots of `jepack drift`: z of the windows as images come, p-values, and a gateway's windows now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from jepack.measures import Comparison, Null
from jepack.measures.null import ATYPICAL, BLOCK
from jepack.measures.scoring import Floats
from jepack.names import shown
from jepack.terminal import drawing

FOUND, LIMIT = "#20639b", "#d1495b"
INK = "#18191a"  # text and axes; in a page the reader's theme takes its place, and that of what follows
CHANNELS = {"distance_z": ("o", "any change of shape"), "mean_shift_z": ("s", "shift of the mean"),
            "surprise_z": ("^", "strange images"), "size_z": ("D", "size of the norms"),
            "fault_z": ("X", "a known fault"), "variance_z": ("v", "spread of the coordinates"),
            "change_z": ("P", "unlike the images before")}  # fmt: skip
MOST_SHADES = 16  # windows of a null


def draw(null: Null, found: Comparison, title: str, path: Path) -> None:
    """Write the picture. Blue is what was found, darker for longer windows; red what alarms."""
    figure = comparison(null, found)
    verdict = f"drift after {found.alarm_at:,} images" if found.drift else "ordinary"
    figure.suptitle(f"{shown(title)}: {verdict}", fontsize=10, parse_math=False)
    drawing.save(figure, path, dpi=110)


def comparison(null: Null, found: Comparison) -> Any:
    """A figure of a set of images beside a null."""
    figure, left, right = panels()
    full = null.windows <= found.images
    seen = (BLOCK * np.arange(1, len(found.looks_KW) + 1)).tolist()
    windows(left, null.windows[full].tolist(), seen, found.looks_KW[:, full], found.threshold)
    p_values(right, found)
    return figure


def live(told: dict[str, Any]) -> Any:
    """A figure of what a gateway tells of a model version (see drift_live)."""
    figure, left, right = panels()
    history = told["history"]
    lengths = [one["length"] for one in told["windows"]]
    z_KW = np.array(history["z"], np.float64).reshape(-1, len(lengths))
    windows(left, lengths, history["images"], z_KW, told["threshold"])
    channels(right, told["windows"], told["threshold"])
    return figure


def panels() -> tuple[Any, Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[5, 3])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, left, right


def shades(count: int, first: float = 0.35, last: float = 1) -> list[str]:
    """Hex colours, darker for longer windows."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(one) for one in colormaps["Blues"](np.linspace(first, last, count))]


def windows(
    axes: Any, lengths: Sequence[int], seen_K: Sequence[int], z_KW: Floats, threshold: float
) -> None:
    for place, (length, shade) in enumerate(zip(lengths, shades(len(lengths)), strict=True)):
        if np.isfinite(z_KW[:, place]).any():
            mark = "." if len(seen_K) < 20 else ""
            axes.plot(seen_K, z_KW[:, place], color=shade, marker=mark, label=f"{length:,}")
    axes.axhline(threshold, color=LIMIT, linestyle="--", linewidth=1)
    end = seen_K[-1] if len(seen_K) else 1
    axes.text(end, threshold, "alarm ", color=LIMIT, fontsize=8, ha="right", va="bottom")
    axes.set_title("largest z of each window; ordinary images stay about 0", fontsize=9)
    axes.set_xlabel("images watched", fontsize=8)
    if axes.get_lines()[1:]:
        axes.legend(title="window, images", frameon=False, fontsize=7, title_fontsize=7, loc="best")


def p_values(axes: Any, found: Comparison) -> None:
    shares, edges = np.histogram(found.p_values_N, bins=20, range=(0, 1))
    axes.stairs(shares / found.images, edges, fill=True, color=FOUND)
    axes.axhline(ATYPICAL, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_title("atypicality: share of images by p-value", fontsize=9)
    axes.set_xlabel(
        f"{found.atypical:.1%} at {ATYPICAL} or less; dashed: ordinary images", fontsize=8
    )


def channels(axes: Any, now: list[dict[str, Any]], threshold: float) -> None:
    """z of each full window as it is now, by what it is judged by."""
    full = [one for one in now if one["full"]]
    places = np.arange(len(full))
    for name, (mark, text) in CHANNELS.items():
        z = np.array([one.get(name) for one in full], np.float64)
        if np.isfinite(z).any():  # older nulls know fewer
            axes.plot(z, places, marker=mark, linestyle="", color=FOUND, alpha=0.8, label=text)
    axes.axvline(threshold, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_yticks(places, [f"{one['length']:,}" for one in full])
    axes.set_ylim(max(len(full), 1) - 0.5, -0.5)  # the shortest on top, as in the table
    axes.set_title("z of the windows now, by what changed", fontsize=9)
    axes.set_xlabel("z; dashed: alarm", fontsize=8)
    axes.set_ylabel("window, images", fontsize=8)
    if full:
        axes.legend(frameon=False, fontsize=7, loc="best")


@contextmanager
def for_page() -> Iterator[None]:
    """Figures made inside stand on a page: text that stays text, in colours that `svg` names."""
    from matplotlib import rc_context

    names: tuple[Any, ...] = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor",
                              "xtick.color", "ytick.color")  # fmt: skip
    look: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif"}
    with rc_context(look | dict.fromkeys(names, INK)):
        yield


def svg(figure: Any, count: int) -> str:
    """As an element of a page; its colours are the page's --ink, --found, --limit and --w0, --w1, ..."""
    stream = StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    swaps = {INK: "--ink", FOUND: "--found", LIMIT: "--limit"}
    last = MOST_SHADES - 1
    for place, shade in enumerate(shades(count)):
        swaps[shade] = f"--w{round(place * last / max(count - 1, 1))}"
    for colour, name in swaps.items():
        text = text.replace(colour, f"var({name})")
    return text

"""HTML of the Compare tab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.cards import Seen, file_name, label_chip, picture, safe
from app.desk import Desk
from app.store import Hit, Row
from app.tabs.compare.matching import Matching
from app.tabs.compare.measuring import Compared, Gap


@dataclass(frozen=True)
class Found:
    """What one encoder finds near an image."""

    title: str
    names: list[str]  # of the hits, by the first index's ids
    hits: list[Hit]
    milliseconds: float  # of this search


def titles(desks: Sequence[Desk]) -> list[str]:
    """A name for each encoder, all different: of its bundle, else of its index's folder, else the path."""
    infos = [desk.library.info for desk in desks]
    for told in (
        [info.bundle or desk.library.folder.name for info, desk in zip(infos, desks, strict=True)],
        [desk.library.folder.name for desk in desks],
    ):
        if len(set(told)) == len(told):
            return told
    return [str(desk.library.folder) for desk in desks]


def welcome() -> str:
    return (
        '<div class="jp-welcome"><b>Choose an image.</b>'
        "<span>What each encoder finds near it appears here, row by row.</span></div>"
    )


def matched(matching: Matching, names: Sequence[str]) -> str:
    """How many images can be compared at all."""
    count = len(matching.names)
    held = ", ".join(f"{name} {n:,}" for name, n in zip(names, matching.counts, strict=True))
    if not count:
        text = (
            f"These indexes share no image ({held}): neither an id nor a file name is the same, so nothing "
            "can be compared. Index the same folder with each encoder: jepack app BUNDLE BUNDLE --data DIR"
        )
    elif matching.share == 1:
        text = f"All {count:,} images are in each index."
    else:
        text = (
            f"{count:,} images are in each index, {matching.share:.0%} of the largest ({held}); the others "
            "are left out here."
        )
    return f'<p class="jp-compare-matched" data-matched="{count}">{safe(text)}</p>'


def query(row: Row, seen: Seen, colours: dict[str, str], found: Sequence[Found]) -> str:
    return (
        f'<div class="jp-query"><div class="jp-frame">{picture(row, seen)}</div><div class="jp-about">'
        f'<span class="jp-over">Query</span><strong>{safe(file_name(row))}</strong>'
        f"{label_chip(row.label, colours)}<p>{safe(overlap(found))}</p></div></div>"
    )


def overlap(found: Sequence[Found]) -> str:
    """In words and a number: the neighbours that all rows have."""
    k = max((len(one.names) for one in found), default=0)
    same = len(set.intersection(*(set(one.names) for one in found))) if found else 0
    if not k:
        return "There is no other image to find."
    words = (
        "They see different likenesses" if same == 0
        else "They agree" if same == k
        else "They largely agree" if same >= 0.7 * k
        else "They agree in part" if same >= 0.3 * k
        else "They mostly see different likenesses"
    )  # fmt: skip
    whom = "both" if len(found) == 2 else f"all {len(found)}"
    return f"{words}: {same} of the {k} nearest are the same images in {whom} rows."


def rows(found: Sequence[Found], label: str | None, seen: Seen, colours: dict[str, str]) -> str:
    """A row of neighbours for each encoder; what all have is marked."""
    common = set.intersection(*(set(one.names) for one in found))
    return "".join(row(one, common, label, seen, colours) for one in found)


def row(
    found: Found, common: set[str], label: str | None, seen: Seen, colours: dict[str, str]
) -> str:
    told = f"searched in {found.milliseconds:.0f} ms"
    if label is not None and found.hits:
        same = sum(hit.row.label == label for hit in found.hits)
        told = f"{same} of {len(found.hits)} have the label “{label}”, {told}"
    cards = "".join(
        card(rank, name, hit, name in common, seen, colours)
        for rank, (name, hit) in enumerate(zip(found.names, found.hits, strict=True), start=1)
    )
    return (
        f'<section class="jp-compare-row" data-encoder="{safe(found.title)}"><h2>{safe(found.title)} '
        f'<small>{safe(told)}</small></h2><div class="jp-cards">{cards}</div></section>'
    )


def card(rank: int, name: str, hit: Hit, common: bool, seen: Seen, colours: dict[str, str]) -> str:
    mark = ' <span class="jp-compare-mark">in each</span>' if common else ""
    kind = "jp-card jp-compare-common" if common else "jp-card"
    return (
        f'<button type="button" class="{kind}" data-id="{safe(name)}" title="{safe(name)}">'
        f'<span class="jp-frame">{picture(hit.row, seen)}<em>{rank}</em></span>'
        f'<span class="jp-caption">{label_chip(hit.row.label, colours)}{mark}</span></button>'
    )


def facts(desks: Sequence[Desk], names: Sequence[str], found: Compared | None) -> str:
    """A table: what each encoder finds, how large and how fast it is."""
    columns = ["Encoder", "Finds the label", "Beside the first", "In common with the first",
               "Dimensions", "Index", "Encoder’s file", "One image"]  # fmt: skip
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = ""
    for at, (desk, name) in enumerate(zip(desks, names, strict=True)):
        cells = [*found_by(at, found), *size_of(desk)]
        items = "".join(f"<td>{safe(cell)}</td>" for cell in cells)
        body += f'<tr><th scope="row">{safe(name)}</th>{items}</tr>'
    meaning = (
        "“Finds the label”: the share of an image’s ten nearest that have its label, with its 95 % interval. "
        "“Index”: its vectors on disk. “One image”: the time to embed it, as export measured it on its own "
        "machine; a dash where the bundle is not at hand."
    )
    return (
        f'<div class="jp-compare-scroll" tabindex="0"><table class="jp-compare-facts">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="jp-compare-meaning">{safe(meaning)}</p>'
    )


def found_by(at: int, found: Compared | None) -> list[str]:
    if found is None:
        return ["…"] * 3
    own = "–"
    if found.figures:
        figures = found.figures[at]
        own = f"{figures.precision:.1%} ({figures.low:.0%}–{figures.high:.0%})"
    if at == 0:
        return [own, "–", "–"]
    gap = points(found.gaps[at - 1]) if found.gaps else "–"
    both = f"{found.overlaps[at - 1]:.0%} of the ten nearest" if found.overlaps else "–"
    return [own, gap, both]


def points(gap: Gap) -> str:
    low, high = 100 * gap.low, 100 * gap.high
    return f"{100 * gap.difference:+.1f} points ({low:+.1f} to {high:+.1f})"


def size_of(desk: Desk) -> list[str]:
    info, bundle = desk.library.info, desk.engine.bundle
    megabytes = desk.library.store.count() * info.dimension * 4 / 1e6
    file, speed = "–", "–"
    exports = bundle.isotropy().get("exports") if bundle is not None else None
    facts = exports.get("onnx/model.onnx") if isinstance(exports, dict) else None
    if isinstance(facts, dict):
        size, times = facts.get("bytes"), facts.get("milliseconds")
        file = f"{size / 1e6:.1f} MB" if isinstance(size, (int, float)) else "–"
        one = times.get("1") if isinstance(times, dict) else None
        speed = f"{one:.1f} ms" if isinstance(one, (int, float)) else "–"
    return [f"{info.dimension:,} ({info.output})", f"{megabytes:.1f} MB", file, speed]


def verdict(found: Compared, names: Sequence[str]) -> str:
    """Which finds better, in words."""
    if not found.images:
        return told(["Too few images are the same: all that they find is compared from 20 on."])
    lines = [
        f"On average {10 * share:.1f} of the ten nearest are the same images in {name} and {names[0]}."
        for name, share in zip(names[1:], found.overlaps, strict=True)
    ]
    if not found.figures:
        return told([*lines, "Which finds better is not told: the images have no two labels."])
    better = [
        difference(name, names[0], gap) for name, gap in zip(names[1:], found.gaps, strict=True)
    ]
    basis = (
        f"From {found.labelled:,} images that asked all encoders alike; at random {found.chance:.0%} would "
        "have the label. Training may have seen these images."
    )
    return told([*better, *lines, basis])


def difference(name: str, first: str, gap: Gap) -> str:
    size = f"{points(gap)}, 95 % interval"
    if gap.low > 0:
        return f"{name} finds the label better than {first}: {size}."
    if gap.high < 0:
        return f"{name} finds the label worse than {first}: {size}."
    return f"No difference between {name} and {first} can be told: {size}."


def told(lines: Sequence[str]) -> str:
    first, *rest = lines
    more = "".join(f"<p>{safe(one)}</p>" for one in rest)
    return f'<div class="jp-compare-verdict" role="status"><b>{safe(first)}</b>{more}</div>'

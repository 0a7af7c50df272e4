"""HTML of the Map tab: what lies under the pointer, the legend, the groups, what is going on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.cards import Seen, file_name, label_chip, picture, safe
from app.colouring import Colouring
from app.layout import Layout
from app.store import Row

MOST_NAMES = 60  # in the legend
MOST_GROUPS = 24  # with a picture
# Fixed: the page's script owns what is inside, see page.js.
TEMPLATE = """
<div class="jp-map-frame">
  <canvas class="jp-map-canvas" tabindex="0" role="application"
    aria-label="Map of all images. Arrow keys move, plus and minus zoom, Enter looks at the image in the
 middle, V chooses what is in view, L draws a line around images, Escape shows all again."></canvas>
  <i class="jp-map-mark" title="What Search looks at" hidden></i><i class="jp-map-cross" hidden></i>
  <div class="jp-map-card" role="status" hidden></div>
  <p class="jp-map-said" role="status">Reading the places of the images…</p>
  <div class="jp-map-tools" role="toolbar" aria-label="Map">
    <button type="button" data-do="lasso" aria-pressed="false"
      title="Draw a line around images (L, or hold Shift)">Lasso</button>
    <button type="button" data-do="in" title="Nearer (+)" aria-label="Nearer">+</button>
    <button type="button" data-do="out" title="Farther (-)" aria-label="Farther">−</button>
    <button type="button" data-do="all" title="The whole map (0)">Whole</button>
  </div>
</div>
"""
ON_LOAD = """
jpMap.mount(element, props, watch, {
  open: () => trigger('open'),
  pick: row => trigger('pick', {row}),
  choose: mask => trigger('choose', {mask}),
  drawn: layout => trigger('drawn', {layout}),
});
"""


def about(row: Row, seen: Seen, colours: dict[str, str]) -> str:
    """The card under the pointer."""
    return (
        f'<span class="jp-frame">{picture(row, seen)}</span><b>{safe(file_name(row))}</b>'
        f"{label_chip(row.label, colours)}"
    )


def legend(coloured: Colouring | None) -> str:
    """A button for each category, with how many images it has; a click chooses them."""
    if coloured is None:
        return ""
    counts = np.bincount(coloured.codes_N, minlength=len(coloured.names))
    codes = [code for code in range(len(coloured.names)) if counts[code]]
    more = ""
    if len(codes) > MOST_NAMES:
        codes = sorted(codes, key=lambda code: -counts[code])[:MOST_NAMES]
        more = f"<em>and {len(coloured.names) - MOST_NAMES:,} smaller ones</em>"
    items = "".join(
        f'<button type="button" data-id="{code}" title="Choose these images">'
        f'<i style="background:{coloured.colours[code]}"></i>{safe(coloured.names[code])} '
        f"<span>{counts[code]:,}</span></button>"
        for code in codes
    )
    said = f"<p>{safe(coloured.said)}</p>" if coloured.said else ""
    return f'<div class="jp-map-legend">{items}{more}</div>{said}'


def groups(rows: Sequence[Row], sizes: Sequence[int], seen: Seen, colours: Sequence[str]) -> str:
    """The representative image of each group, the largest first; a click chooses the group."""
    if not rows:
        return ""
    items = "".join(
        f'<button type="button" class="jp-map-group" data-id="{at}" '
        f'title="Choose the {sizes[at]:,} images of group {at + 1}">'
        f'<span class="jp-frame">{picture(row, seen)}</span>'
        f'<span><i style="background:{colours[at]}"></i>Group {at + 1}<b>{sizes[at]:,}</b></span></button>'
        for at, row in enumerate(rows)
    )
    more = f"<em>and {len(sizes) - len(rows):,} smaller ones</em>" if len(sizes) > len(rows) else ""
    return (
        "<h2>Groups</h2><p>Each by the image that is nearest to all others of its group.</p>"
        f'<div class="jp-map-groups">{items}{more}</div>'
    )


def told(layout: Layout) -> str:
    """What nearness means on this layout."""
    if layout.kind == "pca":
        return (
            "The two directions in which the images differ most. What lies apart here is different; what "
            "lies together may still differ in other ways."
        )
    share = (
        f" {layout.kept:.0%} of an image's ten nearest are among its ten nearest here;"
        if layout.kept
        else ""
    )
    return (
        f"Images lie beside their neighbours:{share} how far apart two groups lie, and how large they look, "
        "means little."
    )


def state(text: str, share: float | None = None) -> str:
    """A sentence, and how far the work is where there is one."""
    bar = ""
    if share is not None:
        bar = (
            f'<progress max="1" value="{share:.3f}" aria-label="{safe(text)}"></progress>'
            f"<b>{share:.0%}</b> "
        )
    return f'<p class="jp-map-state" role="status">{bar}{safe(text)}</p>'

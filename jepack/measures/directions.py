"""How many directions the images of an output differ along, in words: one verdict for all who tell it."""

from __future__ import annotations

from dataclasses import dataclass

from jepack.measures.isotropy import IsotropyReport

COLLAPSED = 1.5  # effective directions; below it nearly everything lies on one line
FEW = 3.0  # below it as of an encoder that was hardly trained
# Of all directions there could be. Embeddings of encoders that were trained to the end had 1.0 to 7.5 %
# (benchmarks/results/gates.json and label_free_earth.json: 4.8 of 64, 5.3 of 320, 5.3 to 33 of 512).
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Breadth:
    """`kind`: "collapsed", "few" or "fair"; `text` goes on after whose images they are."""

    kind: str
    text: str


def breadth(report: IsotropyReport) -> Breadth:
    """The verdict on a report's effective rank. So many samples span a direction less than they are."""
    rank, dims = report.effective_rank, report.dimensions
    most = max(1, min(dims, report.samples - 1))
    if rank < COLLAPSED:
        return Breadth(
            "collapsed",
            f"differ along about one direction of {dims}: the encoder has collapsed",
        )
    text = f"differ along about {rank:.0f} of {dims} directions"
    if rank < min(FEW, dims / 2):
        return Breadth("few", f"{text}: few for telling images apart; it may be undertrained")
    if rank < LEAST_SHARE * most:
        return Breadth(
            "few",
            f"{text}, {rank / most:.1%} of what there could be: few for telling images apart. Encoders "
            f"that were trained to the end had {LEAST_SHARE:.0%} and more",
        )
    return Breadth("fair", f"{text} (effective rank)")

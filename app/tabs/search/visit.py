"""What one visitor has asked and brought; lives in a gr.State of their page alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from app.store import Row, Vectors
from app.tabs.search.question import Example, Question

MOST_OWN = 8  # images of one's own that stay at hand
TRAIL = 12


@dataclass(frozen=True, eq=False)  # arrays have no hash, by which Gradio tells that a state changed
class Query:
    """What the page looks at, for the other tabs too."""

    vector: Vectors  # [D]
    fingerprint: str
    row: Row  # of the first image that asks; an uploaded one's id ends with its file name
    stored: bool  # whether it is an image of the index, whole and alone
    atypicality: float | None = None  # of an uploaded one, where the bundle's null is at hand


@dataclass(frozen=True, eq=False)
class Known:
    """An example with its vector [D] in the space of `fingerprint`."""

    example: Example
    row: Row
    vector: Vectors
    fingerprint: str
    atypicality: float | None = (
        None  # of an image that is not in the index, where a null is at hand
    )
    spaces: dict[str, Vectors] = field(
        default_factory=dict
    )  # {fingerprint: vector}, of such an image


@dataclass(frozen=True, eq=False)
class Own:
    """An image that the visitor brought."""

    known: Known
    data: bytes = b""  # its file, of the last one alone
    full: bytes = b""  # WebP, for looking at


@dataclass(frozen=True)
class Step:
    """Where the visitor was."""

    address: str
    row: Row  # of the first image that asked
    more: str = ""  # " and 2 more"


@dataclass(frozen=True, eq=False)
class Visit:
    question: Question | None = None  # answered now, with its k
    known: tuple[Known, ...] = ()  # its examples
    own: dict[str, Own] = field(default_factory=dict)
    brought: int = 0  # images so far
    trail: tuple[Step, ...] = ()  # oldest first

    def with_own(self, name: str, own: Own) -> Visit:
        """The files of earlier ones are let go; their vectors stay at hand for MOST_OWN."""
        rest = {key: replace(one, data=b"") for key, one in list(self.own.items())[1 - MOST_OWN :]}
        return replace(self, own={**rest, name: own}, brought=self.brought + 1)

    def answered(self, question: Question, known: tuple[Known, ...]) -> Visit:
        trail = self.trail
        where = replace(question, k=None, only=()).address
        if not trail or trail[-1].address != where:
            kept = tuple(step for step in trail if step.address != where)
            row = replace(known[0].row, vector=None)
            more = f" and {len(known) - 1} more" if len(known) > 1 else ""
            trail = (*kept, Step(where, row, more))[-TRAIL:]
        return replace(self, question=question, known=known, trail=trail)

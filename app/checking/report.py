"""What a check found: findings, each a list of cases with a sentence of why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to look at: an image, or several that belong together."""

    ids: tuple[str, ...]  # of what is not in the index its path below the data folder
    why: str  # a sentence
    figure: float  # what the finding is ordered by: a p-value, a q-value or a measure, see Finding.measure
    label: str | None = None  # the label that fits better, of a suspect label
    extra: tuple[str, ...] = ()  # of `ids` those that may be left out


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault over a whole index."""

    kind: str  # of KINDS
    title: str
    method: str  # how it was judged, and its limits; sentences
    measure: str  # what `Case.figure` is
    cases: tuple[Case, ...] = ()
    fault: bool = True  # counts for the exit code
    price: str = ""  # what it costs, where that was measured
    skipped: str = ""  # why it could not be judged here

    @property
    def images(self) -> int:
        return len({name for case in self.cases for name in case.ids})

    @property
    def headline(self) -> str:
        """ "12 groups of copies", "No copies" or "Not judged"."""
        if self.skipped:
            return f"{self.title}: not judged"
        if not self.cases:
            return f"{self.title}: none found"
        return f"{self.title}: {len(self.cases):,}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings over one index."""

    index: str
    images: int
    findings: tuple[Finding, ...] = ()
    version: str = field(default="")  # of the index: when it was built

    @property
    def faults(self) -> int:
        return sum(len(one.cases) for one in self.findings if one.fault)

    @property
    def verdict(self) -> str:
        """In words first."""
        bad = [one for one in self.findings if one.fault and one.cases]
        if not bad:
            return f"Nothing to mend was found among {self.images:,} images."
        told = ", ".join(
            f"{len(one.cases):,} × {one.title[:1].lower()}{one.title[1:]}" for one in bad
        )
        return f"To look at among {self.images:,} images: {told}."

    def of(self, kind: str) -> Finding:
        return next(one for one in self.findings if one.kind == kind)

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "images": self.images,
            "verdict": self.verdict,
            "faults": self.faults,
            "findings": [{**asdict(one), "headline": one.headline} for one in self.findings],
        }


def named(names: Iterable[str], most: int = 3) -> str:
    """Some names in a sentence."""
    names = list(names)
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")

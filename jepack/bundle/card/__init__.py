"""The model card: a README made from what was measured, with metadata the Hub reads."""

from jepack.bundle.card.page import NOTES, PROBES, is_ours, make, refresh, write

__all__ = [
    "NOTES",
    "PROBES",
    "is_ours",
    "make",
    "refresh",
    "write",
]

"""The probes of the bundle at hand, as they are kept now; those that read the index's own vectors."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from weakref import WeakKeyDictionary

from app.desk import Desk
from app.store import Vectors
from jepack.bundle import MANIFEST, Bundle, Probe, read_manifest
from jepack.errors import JepackError

Kept = tuple[int, dict[str, Probe]]  # of which manifest, and by name
_kept: WeakKeyDictionary[Desk, Kept] = WeakKeyDictionary()
_reading = threading.Lock()


def kept_probes(desk: Desk) -> dict[str, Probe]:
    """{name: probe} of those that read the index's vectors."""
    fingerprint = desk.library.info.fingerprint
    return {k: v for k, v in all_probes(desk).items() if v.fingerprint == fingerprint}


def all_probes(desk: Desk) -> dict[str, Probe]:
    """{name: probe}; none where no bundle is at hand. The page, and other pages, add to them."""
    bundle = desk.engine.bundle
    if bundle is None:
        return {}
    try:
        stamp = (bundle.folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return {}
    with _reading:
        known = _kept.get(desk)
        if known is None or known[0] != stamp:
            known = stamp, {}
            with suppress(JepackError):  # a bundle that is being changed, or was damaged since
                now = Bundle(bundle.folder, read_manifest(bundle.folder))
                known = stamp, {name: now.probe(name) for name in now.probes}
            _kept[desk] = known
        return known[1]


def said_of(desk: Desk, spaces: Mapping[str, Vectors]) -> list[str]:
    """A sentence of each probe about one image, by its vector [D] in the spaces of these fingerprints.

    Of an indexed image the index's own vector alone is known: a probe of the other output says so.
    """
    found = []
    for name, probe in all_probes(desk).items():
        vector_D = spaces.get(probe.fingerprint)
        if vector_D is None:
            found.append(
                f"Probe {name} reads the {probe.output}, which this index does not hold: it answers for an "
                "image that is dropped here."
            )
            continue
        shares = probe.probabilities(vector_D)
        [given] = probe.named_by(shares)
        order = (-shares[0]).argsort(kind="stable")[:2]
        told = [f"{probe.classes[at]} ({shares[0, at]:.0%})" for at in order]
        found.append(f"Probe {name}: {told[0] if given else f'unsure, {told[0]} or {told[1]}'}.")
    return found

"""The probes of the bundle at hand that read the index's own vectors, as they are kept now."""

from __future__ import annotations

import threading
from contextlib import suppress
from weakref import WeakKeyDictionary

from app.desk import Desk
from app.store import Vectors
from jepack.bundle import MANIFEST, Bundle, Probe, read_manifest
from jepack.errors import JepackError

Kept = tuple[tuple[int, str], dict[str, Probe]]  # of which manifest and space, and by name
_kept: WeakKeyDictionary[Desk, Kept] = WeakKeyDictionary()
_reading = threading.Lock()


def kept_probes(desk: Desk) -> dict[str, Probe]:
    """{name: probe}; none where no bundle is at hand. The page, and other pages, add to them."""
    bundle = desk.engine.bundle
    if bundle is None:
        return {}
    fingerprint = desk.library.info.fingerprint
    try:
        stamp = (bundle.folder / MANIFEST).stat().st_mtime_ns, fingerprint
    except OSError:
        return {}
    with _reading:
        known = _kept.get(desk)
        if known is None or known[0] != stamp:
            known = stamp, {}
            with suppress(JepackError):  # a bundle that is being changed, or was damaged since
                now = Bundle(bundle.folder, read_manifest(bundle.folder))
                own = {name: now.probe(name) for name in now.probes}
                known = stamp, {k: v for k, v in own.items() if v.fingerprint == fingerprint}
            _kept[desk] = known
        return known[1]


def said_of(desk: Desk, vector_D: Vectors, fingerprint: str) -> list[str]:
    """A sentence of each kept probe about one image, by its vector in the space of `fingerprint`."""
    found = []
    for name, probe in kept_probes(desk).items():
        if probe.fingerprint == fingerprint:
            shares = probe.probabilities(vector_D)
            [given] = probe.named_by(shares)
            order = (-shares[0]).argsort(kind="stable")[:2]
            told = [f"{probe.classes[at]} ({shares[0, at]:.0%})" for at in order]
            found.append(
                f"Probe {name}: {told[0] if given else f'unsure, {told[0]} or {told[1]}'}."
            )
    return found

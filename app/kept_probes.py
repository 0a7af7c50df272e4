"""The probes of the bundle at hand that read the index's own vectors, as they are kept now."""

from __future__ import annotations

import threading
from contextlib import suppress
from weakref import WeakKeyDictionary

from app.desk import Desk
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

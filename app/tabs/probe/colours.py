"""The map's colours by what a probe says: of the labels as they are, and of the probes that the bundle keeps.

N images, C classes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from app import cards
from app.colouring import STEPS, Colouring, Source, with_rest
from app.desk import Desk
from app.kept_probes import kept_probes
from app.layout import Layout
from app.tabs.probe.bench import bench_of
from app.tabs.probe.view import RATE
from jepack.bundle import Probe
from jepack.probing import UNSURE, named, threshold

Given = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]  # class or UNSURE, probability, [N]
SURE = (0.95, 0.8, 0.5)
SURE_NAMES = ("surer than 95 %", "80 to 95 %", "50 to 80 %", "less than 50 %")
_given: WeakKeyDictionary[Probe, tuple[int, Given]] = WeakKeyDictionary()
_working = threading.Lock()


def by_class(desk: Desk, labels: Sequence[str | None], layout: Layout | None) -> Colouring | None:
    """What the probe of the Probe tab names, once it was fitted there."""
    found = bench_of(desk).newest()
    if found is None or found.shares_NC is None:
        return None
    most = threshold(found.scores, RATE)
    given = named(found.shares_NC, most) if most is not None else found.shares_NC.argmax(axis=1)
    said = unsure_said(RATE if most is not None else None)
    return of_classes(desk, found.classes, given, f"The probe of the labels as they are. {said}")


def by_sureness(
    desk: Desk, labels: Sequence[str | None], layout: Layout | None
) -> Colouring | None:
    """How probable it finds its likeliest class."""
    found = bench_of(desk).newest()
    if found is None or found.shares_NC is None:
        return None
    return of_sureness(found.shares_NC.max(axis=1))


def kept(desk: Desk) -> dict[str, Source]:
    """Two ways for each probe of the bundle that reads the index's vectors."""
    found = {}
    for name, probe in kept_probes(desk).items():
        found[f"class:{name}"] = Source(f"Probe {name}: class", partial(by_kept_class, probe))
        found[f"sure:{name}"] = Source(f"Probe {name}: how sure", partial(by_kept_sureness, probe))
    return found


def by_kept_class(
    probe: Probe, desk: Desk, labels: Sequence[str | None], layout: Layout | None
) -> Colouring:
    said = unsure_said(probe.error_rate)
    return of_classes(
        desk, probe.classes, given_by(probe, desk)[0], f"The bundle's own probe. {said}"
    )


def by_kept_sureness(
    probe: Probe, desk: Desk, labels: Sequence[str | None], layout: Layout | None
) -> Colouring:
    return of_sureness(given_by(probe, desk)[1])


def given_by(probe: Probe, desk: Desk) -> Given:
    """Of all stored vectors, once for each index."""
    store = desk.library.store
    with _working:
        known = _given.get(probe)
        if known is None or known[0] != id(store):
            classes, sure = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
            for _, _, x_BD in store.vectors():
                shares = probe.probabilities(x_BD)
                sets = probe.sets_by(shares)
                best = shares.argmax(axis=1)
                if sets is not None:
                    best = np.where(sets.sum(axis=1) == 1, sets.argmax(axis=1), UNSURE)
                classes.append(best)
                sure.append(shares.max(axis=1).astype(np.float32))
            known = id(store), (np.concatenate(classes), np.concatenate(sure))
            _given[probe] = known
        return known[1]


def unsure_said(rate: float | None) -> str:
    if rate is None:
        return "Each image by its likeliest class."
    return f"Of images like the labelled ones at most {rate:.0%} get a wrong name; the others are “unsure”."


def of_classes(
    desk: Desk, classes: Sequence[str], given_N: npt.NDArray[np.int64], said: str
) -> Colouring:
    """In the colours of all tabs; UNSURE is a category of its own."""
    known = desk.colours
    every = cards.colours_of([*known, *(name for name in classes if name not in known)])
    codes = np.where(given_N == UNSURE, len(classes), given_N)
    return with_rest(codes, tuple(classes), tuple(every[name] for name in classes), "unsure", said)


def of_sureness(share_N: npt.NDArray[np.float32]) -> Colouring:
    codes = sum((share_N < edge).astype(np.int64) for edge in SURE)
    said = "The probability of the likeliest class."
    return Colouring(np.asarray(codes, np.uint16), SURE_NAMES, STEPS, said)

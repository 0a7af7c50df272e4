"""The probes that answer beside the rows: which are served, and what they say of a request's images.

A probe is a head that was kept in a bundle. It is applied here, to the rows that the engine gave, so that
every engine answers alike. N images, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.bundle import Bundle, Probe
from jepack.errors import ConfigError
from jepack.names import shown
from serving.gateway.engines import Engine
from serving.gateway.errors import invalid

Probes = Mapping[str, Probe]  # by name
KEEP = "the tab Probe of `jepack app`, or `jepack probe BUNDLE --data LABELLED --keep NAME`"
SERVE = f"Keep one ({KEEP}) and serve it: jepack serve BUNDLE --probe NAME"


@dataclass(frozen=True)
class Said:
    """What one probe says of a request's images."""

    probe: Probe
    shares_NC: npt.NDArray[np.float64]  # rows add up to 1

    def to_json(self) -> dict[str, Any]:
        """Lists in the order of the rows. `named` is null where it is unsure; `sets` holds every class that
        an image may be at `error_rate`, and is missing where the probe was kept without one."""
        probe = self.probe
        names = np.array(probe.classes, object)
        told = {
            "classes": list(probe.classes),
            "probabilities": self.shares_NC.tolist(),
            "named": probe.named_by(self.shares_NC),
        }
        sets_NC = probe.sets_by(self.shares_NC)
        if sets_NC is not None:
            told["sets"] = [names[row].tolist() for row in sets_NC]
            told["error_rate"] = probe.error_rate
        return told


def kept_in(bundles: Sequence[Bundle], names: Sequence[str]) -> list[dict[str, Probe]]:
    """For each bundle those of the named probes that it keeps.

    Raises ConfigError for a name that none of them keeps, ArtifactError for a probe that is not sound.
    """
    for name in names:
        if not any(name in one.probes for one in bundles):
            there = [
                f"{shown(one.name)} keeps {', '.join(one.probes)}" for one in bundles if one.probes
            ]
            told = "; ".join(there) or f"no bundle that is served keeps any. Keep one: {KEEP}"
            raise ConfigError(f"--probe {name:.70}: no probe of this name; {told}")
    return [{name: one.probe(name) for name in names if name in one.probes} for one in bundles]


def by_engine(
    engines: Sequence[Engine], probes: Sequence[Probes]
) -> Iterator[tuple[Engine, Probes]]:
    """Each engine and its probes. Raises ConfigError for a probe that was made for another encoder."""
    for engine, own in zip(engines, probes or [{}] * len(engines), strict=True):
        for probe in own.values():
            given = engine.endpoint.fingerprints.get(probe.output)
            if given != probe.fingerprint:
                raise ConfigError(
                    f"the probe {probe.name} reads {probe.output} {probe.fingerprint}, "
                    f"{engine.endpoint.bundle} gives {given}: another encoder. Keep it again with this one: "
                    f"{KEEP}"
                )
        yield engine, own


def asked_of(value: Any, served: Probes) -> tuple[str, ...]:
    """The probes that a request's field `probe` names: a name, several (a list, or commas between), true for
    all, false for none; all where it says nothing. Raises Refusal for one that is not served."""
    if value in (None, ""):
        return tuple(served)
    names = value.split(",") if isinstance(value, str) else value
    names = names if isinstance(names, list) else [names]
    chosen: list[str] = []
    for one in names:
        name = one.strip() if isinstance(one, str) else one
        if isinstance(name, str) and name in served:
            chosen.append(name)
        elif name in (True, "true") and served:
            chosen += served
        elif name not in (False, "false"):
            there = f"there are {', '.join(served)}" if served else f"none is served. {SERVE}"
            raise invalid("unknown_probe", f"no probe {name!r:.80}; {there}", "probe")
    return tuple(dict.fromkeys(chosen))


def said_by(
    served: Probes, names: Sequence[str], rows: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, Said]:
    """What these probes say of both outputs' rows, [N, D] each."""
    chosen = [served[name] for name in names]
    return {one.name: Said(one, one.probabilities(rows[one.output])) for one in chosen}

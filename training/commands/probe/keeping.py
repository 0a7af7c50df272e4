"""`jepack probe --keep`: a head on the labelled images, kept in the bundle to be served.

N images, E dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jepack import bundle as bundles
from jepack.encoder import load_encoder
from jepack.errors import ConfigError, DataError
from jepack.probing import as_probe, fit_some, judge, keep, usable
from jepack.probing.heads import Floats
from jepack.sources import ImageFile
from training.data import column, one_thing, own_split


def check_keep(name: str, bundle: bundles.Bundle | None, encoder: str) -> None:
    """Raise ConfigError before any work where nothing could be kept."""
    bundles.check_probe_name(name)
    if bundle is None:
        raise ConfigError(f"--keep needs a bundle to keep the probe in, and {encoder} is none")


def keep_probe(
    name: str,
    bundle: bundles.Bundle,
    output: str,
    x_NE: Floats,
    files: Sequence[ImageFile],
    classes: Sequence[str],
    group_by: str | None,
    error_rate: float,
) -> bundles.Probe:
    """Fit on all images but those that the data's own split holds out, judge by cross-validation, write.

    `x_NE`: of the output as training measures it, without the bundle's calibration. Raises DataError where
    fewer than two classes can be judged.
    """
    rows = np.arange(len(files))
    if (told := own_split(files)) is not None:
        rows = np.flatnonzero((told != "val") & (told != "test"))
    files = [files[row] for row in rows.tolist()]
    x = x_NE[rows]
    if output == "projection":
        x = load_encoder(bundle)[1].apply(x).astype(np.float32)
    y = np.array([classes.index(str(file.label)) for file in files])
    named = column(files, group_by) if group_by else one_thing(files)
    groups = None if named is None else np.unique(named, return_inverse=True)[1]
    good = usable(y, groups)
    if len(np.unique(y[good])) < 2:
        raise DataError(
            "--keep: a probe is judged on images that it did not see, so two classes need two images each"
            + (f", of two values of {group_by}" if group_by else ", of two files" if named else "")
        )
    own = None if groups is None else groups[good]
    judged = judge(x[good], y[good], classes, own, shares=())
    probe = as_probe(
        name, bundle, output, fit_some(x, y, classes, groups), judged, error_rate,
        labels=len(y), kept_together_by=(group_by or "file") if groups is not None else "",
    )  # fmt: skip
    keep(bundle, probe)
    return probe


def words_of(probe: bundles.Probe, folder: Path) -> str:
    """What was kept, how good it is, and what to do with it."""
    told = probe.figures
    unsure = (
        f"at most {probe.error_rate:.0%} get a wrong name, the others are unsure"
        if probe.error_rate is not None
        else "too few labels to say when it is unsure: the likeliest class is named"
    )
    return (
        f"probe {probe.name} kept in {folder}: {len(probe.classes)} classes from {told['labels']} labels, "
        f"{told['accuracy']:.1%} right in cross-validation ({told['accuracy_low']:.1%} to "
        f"{told['accuracy_high']:.1%}); {unsure}.\nServe it: jepack serve {folder} --probe {probe.name}"
    )

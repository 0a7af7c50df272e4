"""Pictures that are broken, blank, over-exposed or elongated beside the others of the same index.

No level is fixed but what has a meaning of its own (a picture of one grey level is blank anywhere): what is
far outside the middle half of this data set, counted in its own spread, is told.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.checking.material import Floats, Material
from app.checking.pictures import BRIGHT, DARK, Pictures
from app.checking.report import Case, Finding
from jepack.decoding import preprocess
from jepack.errors import JepackError
from jepack.sources import ImageFile

FENCE = 3.0  # interquartile ranges beyond the quartile (Tukey's "far out")
ONE_LEVEL = 1.1  # grey levels of 255: what the thumbnail's compression makes of an even picture
SHARE = 0.25  # of the pixels; fewer at an end of the scale are highlights and shadows
LEAST = 10  # images of a label that are judged among themselves
LONG = 1.1  # to 1; a range of shapes that is nothing still allows so much


def find(
    material: Material, pictures: Pictures, folder: Sequence[ImageFile] | None, names: Sequence[str]
) -> list[Finding]:
    """`folder`: the images that lie in the data folder now, None where it is out of reach; `names`:
    their ids."""
    exposed = far_out_of_its_own(pictures.bright, material) | far_out_of_its_own(
        pictures.dark, material
    )
    at_an_end = far_out(pictures.bright, SHARE) | far_out(pictures.dark, SHARE)
    even = blank(pictures) & ~at_an_end
    return [
        broken(material, folder, names),
        finding(
            "blank", "Blank pictures", material, even, pictures.contrast,
            "Hardly any contrast: its grey levels spread by {:.1f} of 255.",
            "Pictures of one grey level, or with far less contrast than this data set's (beyond "
            f"{FENCE:g} times the range between its quartiles, in logarithms).",
            "standard deviation of the grey levels, of 255",
        ),
        finding(
            "exposed", "Over- or under-exposed pictures", material,
            exposed, -np.maximum(pictures.bright, pictures.dark),
            "{:.0%} of its pixels are at an end of the scale and tell nothing more.",
            f"A quarter or more of the pixels at {BRIGHT} and above, or {DARK} and below, of 255, "
            f"and far more than "
            "in the other images here, and in those of the same label.",
            "share of the pixels at an end of the scale, negative",
        ),
        finding(
            "elongated", "Elongated pictures", material,
            far_out(np.log(pictures.longer), np.log(LONG)), -pictures.longer,
            "{:.1f} to 1, longer than the others here: an encoder that crops sees its middle alone.",
            f"Sides whose ratio lies beyond {FENCE:g} times the range between this data set's "
            f"quartiles, in logarithms. An encoder of `jepack train --fit pad` sees whole pictures.",
            "longer side over shorter, negative",
        ),
    ]  # fmt: skip


def far_out(values: Floats, least: float) -> np.typing.NDArray[np.bool_]:
    """Beyond the upper quartile by FENCE interquartile ranges, and by `least`."""
    low, high = np.quantile(values, [0.25, 0.75])
    return np.asarray(values > high + max(FENCE * (high - low), least))


def far_out_of_its_own(values: Floats, material: Material) -> np.typing.NDArray[np.bool_]:
    """Of the shares at an end of the scale: far out in the index, and among the images of the same label
    (snow is white)."""
    told = far_out(values, SHARE)
    for label in np.unique(material.codes_N[told & (material.codes_N >= 0)]):
        own = np.flatnonzero(material.codes_N == label)
        if len(own) >= LEAST:
            told[own] &= far_out(values[own], SHARE)
    return told


def blank(pictures: Pictures) -> np.typing.NDArray[np.bool_]:
    levels = np.log(np.maximum(pictures.contrast, 0.1))
    return far_out(-levels, 0.5) | (pictures.contrast < ONE_LEVEL)


def finding(
    kind: str,
    title: str,
    material: Material,
    told: np.typing.NDArray[np.bool_],
    figures: Floats,
    why: str,
    method: str,
    measure: str,
) -> Finding:
    cases = [
        Case(ids=(material.ids[at],), why=why.format(abs(figures[at])), figure=float(figures[at]))
        for at in np.flatnonzero(told)
    ]
    return Finding(
        kind=kind, title=title, method=method, measure=measure,
        cases=tuple(sorted(cases, key=lambda case: (case.figure, case.ids))),
    )  # fmt: skip


def broken(material: Material, folder: Sequence[ImageFile] | None, names: Sequence[str]) -> Finding:
    """Files that are not in the index because they cannot be read, and images whose file went."""
    told = Finding(
        kind="broken", title="Broken files", measure="1 for a broken file, 0 for one that is gone",
        method="Files of the data folder that are not in the index are read again; what fails is told, "
        "and why. A file that can be read came after the index was built.",
    )  # fmt: skip
    if folder is None:
        why = "The folder that the images came from is not at hand."
        return Finding(**{**vars(told), "skipped": why, "fault": False})
    cases = []
    for image, name in zip(folder, names, strict=True):
        if name in material.place:
            continue
        try:
            preprocess.read_raw(image.read(), 3)
        except (JepackError, OSError) as error:
            cases.append(
                Case(
                    ids=(name,),
                    why=f"Cannot be read: {str(error).removeprefix('image: ')}.",
                    figure=1.0,
                )
            )
    there = set(names)
    cases += [
        Case(ids=(name,), why="Its file is no longer in the data folder.", figure=0.0)
        for name in material.ids
        if name not in there
    ]
    return Finding(**{**vars(told), "cases": tuple(cases)})

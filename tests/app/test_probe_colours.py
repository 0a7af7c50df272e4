"""The map's colours by columns and by what probes say."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixel_embedder import NobodyThere

from app.desk import Desk
from app.engine import Engine, at_endpoint
from app.kept_probes import kept_probes, said_of
from app.lance import building
from app.library import Library
from app.store import IndexInfo, Row
from app.tabs.map.answer import Answers as MapAnswers
from app.tabs.map.by_column import of_categories, of_steps
from app.tabs.probe.answer import Answers
from app.thumbnail import make_thumbnail
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.probing import keep
from jepack.sources import find_images

COUNT = 60


@pytest.fixture
def desk(small_bundle: Bundle, digits_folder: Path, tmp_path: Path) -> Desk:
    """An index with a column of each kind over two clouds, and its bundle at hand."""
    from app.columns import columns_of

    shutil.copytree(small_bundle.folder, tmp_path / "bundle")
    bundle = bundles.load(tmp_path / "bundle")
    cells = [
        {"scanner": "AB"[at % 2], "hours": str(at), "taken": f"2026-01-{at % 28 + 1:02d}"}
        for at in range(COUNT)
    ]
    columns = columns_of(cells)
    space, width = bundle.fingerprints["embedding"], bundle.dimensions["embedding"]
    info = IndexInfo(
        name="clouds", output="embedding", dimension=width, fingerprint=space,
        data=str(digits_folder), columns=tuple(columns),
    )  # fmt: skip
    generator = np.random.default_rng(0)
    picture = make_thumbnail(find_images(digits_folder)[0].path.read_bytes())
    with building(tmp_path / "clouds", info) as store:
        rows = [
            Row(
                id=f"{at}.png", label="ab"[at % 2], thumbnail=picture,
                vector=(generator.normal(size=width) + 4 * (at % 2)).astype(np.float32),
                columns={one.name: one.value(cells[at][one.name]) for one in columns},
            )
            for at in range(COUNT)
        ]  # fmt: skip
        store.upsert(rows, fingerprint=space)
    return Desk(Library(tmp_path / "clouds"), Engine("127.0.0.1:9", NobodyThere, bundle))


def board(desk: Desk, by: str) -> Any:
    return MapAnswers(desk).show_again("pca", by)


def offered(desk: Desk) -> dict[str, str]:
    return dict(MapAnswers(desk)._offered())


def test_every_column_is_a_way_to_colour(desk: Desk) -> None:
    found = offered(desk)
    assert {"Column scanner", "Column hours", "Column taken"} <= set(found)
    answers = MapAnswers(desk)
    by_scanner = answers.atlas.coloured(desk, "column:scanner")
    assert by_scanner is not None
    assert by_scanner.names == ("A", "B")
    chosen = answers.choose_category(1, "column:scanner")
    assert {int(Path(name).stem) % 2 for name in chosen.ids} == {1}
    by_hours = answers.atlas.coloured(desk, "column:hours")
    assert by_hours is not None
    assert np.bincount(by_hours.codes_N).tolist() == [10] * 6  # as many images in each step
    hours = {name: int(Path(name).stem) for name, _ in desk.library.catalogue}
    ordered = sorted(zip(hours.values(), by_hours.codes_N, strict=True))
    assert all(one[1] <= other[1] for one, other in zip(ordered, ordered[1:], strict=False))
    assert board(desk, "column:taken").view["by"] == "column:taken"
    assert "2026-01-01 to 2026-01-" in board(desk, "column:taken").legend


def test_few_numbers_have_a_colour_each_and_what_is_missing_is_told() -> None:
    found = of_steps([3.0, None, 0.5, 3.0], "number")
    assert found.names == ("0.5", "3", "no value")
    assert found.codes_N.tolist() == [1, 2, 0, 1]
    assert len(set(found.colours)) == 3
    assert of_steps([None, None], "number").names == ("no value",)
    dates = [f"2026-01-01T{hour:02d}:30:00+00:00" for hour in range(24)]
    assert of_steps(dates, "date").names[0] == "2026-01-01 00:30 to 2026-01-01 03:30"


def test_rare_values_of_a_category_share_a_colour() -> None:
    values = [*["much"] * 3, *(f"{at:03d}" for at in range(60)), None]
    found = of_categories(values)
    assert found.names[-2:] == ("another value", "no value")
    assert len(found.names) == 52
    assert found.names[found.codes_N[0]] == "much"
    assert found.codes_N[-1] == 51


def test_what_the_probe_says_is_offered_once_it_was_fitted(desk: Desk) -> None:
    assert not {"Probe: class", "Probe: how sure"} & set(offered(desk))
    answers = Answers(desk)
    shown, until = answers.show(answers.first()), time.monotonic() + 120
    while shown.working and time.monotonic() < until:
        time.sleep(0.05)
        shown = answers.show(shown.view)
    found, _ = answers.work.look(shown.view.question)
    assert found is not None
    assert found.shares_NC is not None
    atlas = MapAnswers(desk).atlas
    given = atlas.coloured(desk, "prediction")
    assert given is not None
    assert given.names[:2] == ("a", "b")
    assert given.colours[:2] == tuple(desk.colours[name] for name in "ab")
    clear = given.codes_N < 2
    assert np.array_equal(given.codes_N[clear], found.shares_NC.argmax(axis=1)[clear])
    sure = atlas.coloured(desk, "sureness")
    assert sure is not None
    assert np.array_equal(sure.codes_N == 0, found.shares_NC.max(axis=1) >= 0.95)

    # The same of a probe that is kept, for this page and for one that is opened later.
    answers.keep(shown.view, "halves")
    later = Desk(Library(desk.library.folder), at_endpoint("127.0.0.1:9", NobodyThere))
    assert kept_probes(later) == {}
    for one in (desk, Desk(Library(desk.library.folder), desk.engine)):
        assert set(kept_probes(one)) == {"halves"}
        kept = MapAnswers(one).atlas.coloured(one, "class:halves")
        assert kept is not None
        assert (kept.codes_N == given.codes_N).mean() >= 0.95  # one image lies at the threshold
        assert {"Probe halves: class", "Probe halves: how sure"} <= set(offered(one))
    [row] = desk.library.store.get([found.ids[0]])
    assert row.vector is not None
    label = desk.library.catalogue[0][1]
    own = {desk.library.info.fingerprint: row.vector}
    [sentence] = said_of(desk, own)
    assert sentence.startswith(f"Probe halves: {label} (")
    # One of the other output answers where its vector is at hand, and says so where it is not.
    assert desk.engine.bundle is not None
    bundle = bundles.load(desk.engine.bundle.folder)
    width = bundle.dimensions["projection"]
    keep(bundle, of_projection(bundle, width))
    assert said_of(desk, own) == [
        sentence,
        "Probe side reads the projection, which this index does not hold: it answers for an image that is "
        "dropped here.",
    ]
    both = said_of(desk, {**own, bundle.fingerprints["projection"]: np.full(width, 9, np.float32)})
    assert both == [sentence, "Probe side: right (100%)."]
    assert set(kept_probes(desk)) == {"halves"}  # the map's colours are of stored vectors
    card = (bundle.folder / "README.md").read_text()
    assert "| side | `projection` | left, right | not told |" in card
    assert "| halves | `embedding` | a, b | 1.000 (" in card


def of_projection(bundle: Bundle, width: int) -> bundles.Probe:
    """Left or right of 0."""
    return bundles.Probe(
        name="side", output="projection", fingerprint=bundle.fingerprints["projection"],
        classes=("left", "right"), mean_D=np.zeros(width, np.float32), scale_D=np.ones(width, np.float32),
        weight_CD=np.array([[-1] * width, [1] * width], np.float32), bias_C=np.zeros(2, np.float32),
    )  # fmt: skip


def test_a_probe_that_cannot_be_read_any_more_is_not_offered(desk: Desk) -> None:
    assert desk.engine.bundle is not None
    (desk.engine.bundle.folder / "manifest.json").write_text("{")
    assert kept_probes(desk) == {}
    assert board(desk, "label").view["by"] == "label"

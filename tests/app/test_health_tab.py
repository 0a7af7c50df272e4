"""The Health tab: its verdict, what that rests on, and whether today's images are like the ordinary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixel_embedder import PIXELS, NobodyThere, PixelEmbedder, page_of
from typer.testing import CliRunner

from app.desk import Desk
from app.engine import Engine, at_endpoint, in_process
from app.library import Library
from app.screenshot import WAIT_S, wait_for
from app.tabs.health import pieces
from app.tabs.health.answer import Answers
from app.tabs.health.measuring import measure, of_label, standard
from app.tabs.health.occlusion import Occlusion, occlude
from app.tabs.health.verdict import Sentence, headline, of_bundle, of_directions, sentences
from app.tabs.health.watching import is_gateway, of_images, tail
from app.toolkit import Upload
from app.work import Work
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.cli import app as jepack
from jepack.client import Embeddings, Endpoint
from jepack.measures import fit_null
from serving.gateway import Gateway, Watch

LONG = 300  # s, on a machine however busy


@pytest.fixture(scope="module")
def measured(digits_index: Path) -> Any:
    found: list[Any] = []
    work = Work("Measuring", lambda one: found.append(measure(Library(digits_index).store, one)))
    work.wait(LONG)
    assert work.problem is None
    return found[0]


@pytest.fixture(scope="module")
def watched_bundle(tmp_path_factory: pytest.TempPathFactory, exported_bundle: Bundle) -> Bundle:
    """With a null of ordinary images."""
    folder = tmp_path_factory.mktemp("watched") / "bundle"
    shutil.copytree(exported_bundle.folder, folder)
    width = exported_bundle.dimensions["projection"]
    ordinary = np.random.default_rng(0).standard_normal((400, width))
    with bundles.editing(bundles.load(folder)) as stage:
        bundles.write_null(stage, fit_null(ordinary, runs=24))
    return bundles.load(folder)


def test_each_label_is_told_with_its_interval_the_weakest_first(
    measured: Any, digits_index: Path
) -> None:
    counts = Library(digits_index).labels()
    assert {one.label: one.images for one in measured.labels} == counts
    found = [one.share for one in measured.labels]
    assert found == sorted(found)
    for one in [*measured.labels, measured.overall]:
        assert one.low < one.share < one.high or one.share in (one.low, one.high)
    assert measured.overall.share > 3 * measured.chance  # pixels of digits find digits


def test_the_densities_are_those_of_all_images(measured: Any) -> None:
    for density in (measured.bells, measured.worst):
        assert density.sum() * 0.2 == pytest.approx(1)
    first, last = measured.ends
    assert len({row.id for row in (*first, *last)}) == 10


def test_an_embedding_is_scaled_by_one_number_and_a_projection_not_at_all() -> None:
    x = np.random.default_rng(0).normal(5, [1, 3], (500, 2))
    scaled = standard(x, "embedding")
    assert scaled.var(axis=0).mean() == pytest.approx(1)
    assert scaled.std(axis=0)[1] / scaled.std(axis=0)[0] == pytest.approx(
        x.std(axis=0)[1] / x.std(axis=0)[0]
    )
    assert standard(x, "projection") is x


def test_the_verdict_is_the_worst_of_what_is_known() -> None:
    good, limit, bad = (Sentence(kind, "") for kind in ("good", "limit", "bad"))
    assert headline([good, bad, limit])[0] == "bad"
    assert headline([good, limit])[0] == "limit"
    assert headline([good])[1] == "Healthy in all that was measured"
    assert headline([]) == ("unknown", "Not known yet")


def test_what_the_gate_refused_comes_first(exported_bundle: Bundle) -> None:
    gate = {"passed": False, "forced": True, "refusals": ["it has collapsed"]}
    refused = Bundle(exported_bundle.folder, {**exported_bundle.manifest, "gate": gate})
    found = of_bundle(refused, "embedding", null=False)
    assert found[0].kind == "bad"
    assert "it has collapsed" in found[0].text
    assert not any("passed the gate" in one.text for one in found)


def test_a_collapsed_index_is_called_so(measured: Any) -> None:
    from dataclasses import replace

    assert of_directions(measured)[0].kind == "good"
    thin = replace(measured, report=replace(measured.report, effective_rank=1.1))
    assert of_directions(thin)[0].kind == "bad"
    few = replace(measured.report, effective_rank=4.0, dimensions=512, samples=2000)
    [sentence] = of_directions(replace(measured, report=few))
    assert sentence.kind == "limit"
    assert "The images here differ along about 4 of 512 directions, 0.8% of what" in sentence.text


def test_without_a_bundle_it_says_how_to_bring_one(digits_index: Path) -> None:
    desk = Desk(Library(digits_index), at_endpoint("127.0.0.1:9"))
    [told] = sentences(desk, None)
    assert told.kind == "unknown"
    assert "--bundle BUNDLE" in told.text
    assert "not at hand" in Answers(desk).watch(None)


def test_an_index_that_went_away_is_a_note(digits_index: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    shutil.copytree(digits_index, index)
    answers = Answers(Desk(Library(index), at_endpoint("127.0.0.1:9")))
    shutil.rmtree(index)
    answers.begin()
    verdict, pictures = answers.shown()
    assert "index is gone" in verdict
    assert not pictures
    assert not answers.job.running


NULL = fit_null(np.random.default_rng(0).standard_normal((400, 8)), runs=24)


def normal(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 8))


def test_ordinary_images_do_not_drift_and_shifted_ones_do() -> None:
    assert of_images(NULL, normal(200))[0] == "good"
    assert of_images(NULL, normal(200) + 1.5)[0] == "bad"


def test_of_few_images_only_the_atypical_are_counted() -> None:
    kind, _, told = of_images(NULL, normal(1) * 0.5)
    assert kind == "unknown"
    assert told[0].startswith("0 of 1 image ")
    assert "from 64 images" in told[-1]
    assert of_images(NULL, normal(5) * 9)[0] == "bad"
    assert tail(5, 0) == 1
    assert tail(2, 2) == pytest.approx(0.05**2)


def test_a_visitors_images_are_judged_together_and_their_files_deleted(
    watched_bundle: Bundle, digits_index: Path, digits_folder: Path, tmp_path: Path
) -> None:
    answers = Answers(Desk(Library(digits_index), in_process(watched_bundle.folder)))

    def brought(name: str, data: bytes) -> Upload:
        (tmp_path / name).write_bytes(data)
        return Upload(tmp_path / name, name)

    images = sorted(digits_folder.rglob("*.png"))[:3]
    first, kept = answers.bring(
        [brought(f"{n}.png", one.read_bytes()) for n, one in enumerate(images)], None
    )
    assert "of 3 images" in first
    second, kept = answers.bring(
        [brought("more.png", images[0].read_bytes()), brought("broken.png", b"no image")], kept
    )
    assert "of 4 images" in second
    assert "broken.png: " in second
    assert sum(map(len, kept.projections)) == 4
    assert not any(tmp_path.iterdir())
    assert "No file arrived" in answers.bring([], kept)[0]


@pytest.mark.parametrize(
    ("place", "is_one"),
    [("http://127.0.0.1:8080", True), ("127.0.0.1:8001", False), ("/data/bundle", False)],
)
def test_only_a_web_address_is_asked_for_its_drift(place: str, is_one: bool) -> None:
    assert is_gateway(place) is is_one


class Numbers:
    """An engine of a gateway, of which only the name is asked here."""

    endpoint = Endpoint("<numbers>", {"embedding": "0" * 16, "projection": "1" * 16},
                        {"embedding": 4, "projection": 8}, 16)  # fmt: skip

    def embed(self, images: Any, *, limit_s: float, skip_bad: bool = False) -> Any:
        raise AssertionError

    def problem(self) -> str | None:
        return None

    def close(self) -> None: ...


def test_a_gateway_that_watches_is_asked_and_told_in_its_words(digits_index: Path) -> None:
    watch = Watch(Numbers.endpoint, NULL)
    with Gateway(Numbers(), port=0, watches=[watch]) as one:
        answers = Answers(Desk(Library(digits_index), Engine(one.url, NobodyThere)))
        for rows, kind in ((normal(128), "good"), (normal(2048) + 3, "bad")):
            watch.see(rows.astype(np.float32))
            told = answers.watch(None)
            assert f'data-kind="{kind}"' in told
            assert "&lt;numbers&gt;" in told
            assert "images watched since" in told


def test_a_gateway_that_does_not_answer_is_a_note(digits_index: Path) -> None:
    engine = Engine("http://127.0.0.1:9", NobodyThere)
    told = Answers(Desk(Library(digits_index), engine)).watch(None)
    assert "jp-note" in told
    assert "no answer" in told


def test_a_single_image_of_a_label_says_little() -> None:
    one = of_label("rare", np.array([1.0]))
    assert one.low < 0.3
    assert one.high == 1


class Corner(PixelEmbedder):
    """Sees the upper left quarter of the pixels alone; they become 49 of them at 7 x 7."""

    def embed(self, items: Sequence[Path | bytes], *, skip_bad: bool = False) -> Embeddings:
        found = super().embed(items, skip_bad=skip_bad)
        seen = np.zeros((8, 8), np.float32)
        seen[:4, :4] = 1
        rows = (found.embedding * seen.reshape(-1)).astype(np.float32)
        return Embeddings(rows, rows[:, :8], found.fingerprints, found.errors)


def test_covering_matters_only_where_the_encoder_looks(
    digits_index: Path, exported_bundle: Bundle
) -> None:
    manifest = {**exported_bundle.manifest, "preprocessing": PIXELS.to_json()}
    bundle = Bundle(exported_bundle.folder, manifest)
    desk = Desk(Library(digits_index), Engine(str(bundle.folder), Corner, bundle))
    name = next(row.id for part in desk.library.store.scan() for row in part)
    *shares, found = occlude(desk, name)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert isinstance(found, Occlusion)
    assert found.covered.shape == (7, 7)
    unseen = np.ones((7, 7), bool)
    unseen[:4, :4] = False
    assert found.covered[unseen] == pytest.approx(found.distance, abs=1e-6)
    assert np.abs(found.covered[~unseen] - found.distance).max() > 1e-3
    assert "data-change" in pieces.occlusion(found, desk.library.scale, desk.seen)


def test_what_cannot_be_covered_says_why(
    digits_index: Path, exported_bundle: Bundle, tmp_path: Path
) -> None:
    remote = Answers(Desk(Library(digits_index), at_endpoint("127.0.0.1:9")))
    assert remote.gallery(0) == ""
    assert "--bundle BUNDLE" in "".join(remote.cover("any.png"))
    moved = tmp_path / "moved"
    shutil.copytree(digits_index, moved)
    told = json.loads((moved / "index.json").read_text())
    (moved / "index.json").write_text(json.dumps({**told, "data": str(tmp_path)}))
    engine = Engine(str(exported_bundle.folder), Corner, exported_bundle)
    here = Answers(Desk(Library(moved), engine))
    name = next(row.id for part in here.desk.library.store.scan() for row in part)
    assert "own file is not there" in "".join(here.cover(name))


@pytest.mark.browser
def test_the_tab_says_the_verdict_measures_and_judges_images(
    driver: Any, watched_bundle: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    index = tmp_path / "index"
    words = ["index", str(digits_folder), "--out", str(index), "--bundle"]
    done = CliRunner().invoke(jepack, [*words, str(watched_bundle.folder)], catch_exceptions=False)
    assert done.exit_code == 0
    with page_of(index, bundle=watched_bundle.folder) as url:
        driver.get(url)
        open_tab(driver, "Health")
        assert wait_for(driver, ".jp-health-verdict h2")[0].text
        rows = wait_for(driver, ".jp-health-labels li", count=10)
        assert all(0 <= float(row.get_attribute("data-share")) <= 1 for row in rows)
        assert len(wait_for(driver, ".jp-health-svg", count=3)) == 3
        images = [str(path) for path in sorted(digits_folder.rglob("*.png"))[:3]]
        upload = wait_for(driver, "#jp-health-upload input[type=file]")[0]
        upload.send_keys("\n".join(images))
        assert "of 3 images" in wait_for(driver, ".jp-health-drift")[0].text
        driver.execute_script(
            "arguments[0].click()", wait_for(driver, "#jp-health-gallery [data-id]")[0]
        )
        assert len(wait_for(driver, ".jp-health-covered rect", count=49)) == 49
        end = wait_for(driver, ".jp-health-end [data-id]")[0]
        name = end.get_attribute("data-id")
        driver.execute_script("arguments[0].click()", end)
        WebDriverWait(driver, WAIT_S).until(
            lambda d: Path(name).name in d.find_element("css selector", "#jp-strip").text
        )


@pytest.mark.browser
def test_without_bundle_or_labels_the_tab_explains_itself(driver: Any, digits_index: Path) -> None:
    with page_of(digits_index) as url:
        driver.get(url)
        open_tab(driver, "Health")
        told = [one.text for one in wait_for(driver, ".jp-health-verdict li")]
        assert any("--bundle BUNDLE" in one for one in told)
        assert "not at hand" in wait_for(driver, "#jp-health-watched .jp-health-empty")[0].text


def open_tab(driver: Any, title: str) -> None:
    wait_for(driver, "#jp-gallery [data-id]")  # the page answers from then on
    driver.execute_script(
        "[...document.querySelectorAll('button[role=tab]')]"
        ".find(one => one.textContent.trim() === arguments[0]).click()",
        title,
    )

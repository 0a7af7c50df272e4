"""`jepack embed --engine ray` on a real cluster of two nodes of this machine."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_bundle import write_digits
from typer.testing import CliRunner

from jepack.bundle import Bundle
from jepack.cli import app
from jepack.client import Embeddings
from jepack.errors import ServerError
from jepack.sources import ENDED, ImageFile
from serving.bulk.over_ray import Actor

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'jepack[ray]'")
pytestmark = [
    pytest.mark.slow,
    # Ray's own: sockets and log files left to the collector, a future change of its defaults.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    small = {"object_store_memory": 100 << 20}
    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    try:
        yield one, [one.add_node(num_cpus=1, **small) for _ in range(2)]
    finally:
        ray.shutdown()
        one.shutdown()


def rows(out: Path) -> dict[str, dict[str, Any]]:
    files = sorted(out.glob("part-*.parquet")) if out.is_dir() else [out]
    found = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert max(Counter(row["path"] for row in found).values()) == 1
    return {row["path"]: row for row in found}


def test_a_node_that_is_killed_loses_no_row_and_rows_are_those_of_the_local_engine(
    cluster: Any, exported_bundle: Bundle, tmp_path: Path
) -> None:
    images = write_digits(tmp_path / "images", 1200)
    (images / "torn.png").write_bytes(b"torn")
    common = ("--bundle", str(exported_bundle.folder), "--batch-size", "4", "--part-rows", "40")
    out, local = tmp_path / "vectors", tmp_path / "local.parquet"
    whole, nodes = cluster
    killed = threading.Event()

    def kill() -> None:
        while len(list(out.glob("part-*.parquet"))) < 4:
            time.sleep(0.02)
        whole.remove_node(nodes[0], allow_graceful=False)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    line = ("embed", str(images), "--out", str(out), "--engine", "ray", "--address", whole.address)
    done = CliRunner().invoke(app, [*line, *common, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert killed.is_set()
    told = json.loads(done.stdout)
    assert (told["images"], told["bad_images"]) == (1200, 1)
    assert "is lost, the others go on" in done.stderr

    words = ("embed", str(images), "--out", str(local), "--engine", "local")
    assert CliRunner().invoke(app, [*words, *common]).exit_code == 0
    one, other = rows(out), rows(local)
    assert one.keys() == other.keys()
    for name in one:
        for column in ("embedding", "projection"):
            np.testing.assert_allclose(one[name][column], other[name][column], atol=1e-6)


def test_an_image_that_ends_every_actor_is_a_bad_one_and_its_neighbours_are_not(
    cluster: Any, tmp_path: Path
) -> None:
    whole, _ = cluster
    ray.init(address=whole.address, log_to_driver=False, logging_level="ERROR")

    class Fragile:
        def diagnose(self) -> None:
            """It is well."""

        def embed(self, items: list[Path], skip_bad: bool) -> Embeddings:
            import os

            if any(item.read_bytes() == b"kill" for item in items):
                os._exit(1)
            rows = np.array([[len(item.read_bytes())] for item in items], np.float32)
            return Embeddings(rows, rows, {})

    files = [ImageFile(tmp_path / f"{n}.png") for n in range(4)]
    for file, content in zip(files, (b"1", b"22", b"kill", b"333"), strict=True):
        file.path.write_bytes(content)
    make = ray.remote(num_cpus=1)(Fragile).remote
    actor = Actor("one", ray, make, Counter(), make())
    for _ in range(2):
        with pytest.raises(ServerError, match="one ended"):
            actor.embed(files)
    found = actor.embed(files)
    assert found.errors == {2: ENDED}
    np.testing.assert_array_equal(found.embedding[[0, 1, 3], 0], [1, 2, 3])

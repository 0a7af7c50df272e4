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

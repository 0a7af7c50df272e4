"""The process that arranges a map by neighbourhoods: python -m app.arranging INDEX OUT.npz

It reads the index, finds each image's nearest others, lays them out with UMAP, groups what shows with
HDBSCAN and writes the layout. It prints a line `share sentence` with every step, and ends when its standard
input does. A process of its own, because compiling for UMAP holds the interpreter for seconds, and so that
it can be stopped at any moment.

N images, D dimensions, K neighbours, C clusters.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.engines import open_index
from app.layout import BATCH, Clusters, Layout, directions, order_of, packed, within
from app.store import Vectors, VectorStore
from jepack.files import write_bytes
from jepack.measures import unit

LEAST = 20  # images of which neighbourhoods can be told
NEIGHBOURS = 15  # UMAP's own choice
EXACT = 20_000  # images up to which every pair is compared: 0.3 TFLOP for 384 dimensions
SAMPLE = 20_000  # images of which clusters are found; HDBSCAN compares every pair of places
ASKED = 1000  # images that tell how well a layout keeps neighbours
TEN = 10

Tell = Callable[[float, str], None]  # (share done, what is being done)


def arrange(store: VectorStore, tell: Tell) -> Layout:
    """The "umap" layout of an index. The same vectors give the same layout."""
    tell(0.0, "Reading the vectors")
    ids, vectors_ND = all_of(store)
    start_N2 = directions(store).xy_N2
    tell(0.05, "Finding each image's neighbours")
    index_NK, distance_NK = neighbours(vectors_ND, tell)
    tell(0.35, "Preparing the arrangement")
    xy_N2 = within(umap(vectors_ND, start_N2, index_NK, distance_NK, tell))
    tell(0.9, "Finding clusters")
    clusters = clusters_of(xy_N2, vectors_ND)
    return Layout(
        kind="umap",
        fingerprint=store.info.fingerprint,
        order=order_of(ids),
        xy_N2=xy_N2,
        clusters=clusters,
        nearest_N=np.maximum(0, distance_NK[:, 1]).astype(np.float32),
        kept=kept(xy_N2, index_NK),
    )


def all_of(store: VectorStore) -> tuple[list[str], Vectors]:
    """Ids and unit vectors [N, D] in stored order."""
    ids: list[str] = []
    parts = []
    for names, _, vectors_BD in store.vectors(BATCH):
        ids += names
        parts.append(unit(vectors_BD).astype(np.float32))
    return ids, np.concatenate(parts)


def neighbours(vectors_ND: Vectors, tell: Tell) -> tuple[npt.NDArray[np.int32], Vectors]:
    """(rows, cosine distances) [N, K] of the nearest, each image itself first.

    Exact up to EXACT images; beyond, by descent through neighbours of neighbours, which misses some.
    """
    count = len(vectors_ND)
    k = min(NEIGHBOURS, count)
    if count > EXACT:
        from umap.umap_ import nearest_neighbors

        index_NK, distance_NK, _ = nearest_neighbors(
            vectors_ND, k, "cosine", {}, False, np.random.RandomState(0)
        )
        return index_NK, distance_NK
    index_NK, distance_NK = np.empty((count, k), np.int32), np.empty((count, k), np.float32)
    for start in range(0, count, 1024):
        apart = 1 - vectors_ND[start : start + 1024] @ vectors_ND.T
        own = np.arange(len(apart))
        apart[own, start + own] = -1  # itself comes first, whatever its copies are
        near = np.argpartition(apart, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(apart, near, axis=1)
        order = np.argsort(found, axis=1, kind="stable")
        index_NK[start + own] = np.take_along_axis(near, order, axis=1)
        distance_NK[start + own] = np.maximum(0, np.take_along_axis(found, order, axis=1))
        tell(0.05 + 0.2 * start / count, "Finding each image's neighbours")
    return index_NK, distance_NK


def umap(
    vectors_ND: Vectors,
    start_N2: Vectors,
    index_NK: npt.NDArray[np.int32],
    distance_NK: Vectors,
    tell: Tell,
) -> Vectors:
    """Places [N, 2], begun at the principal components, so that both maps point the same way."""
    from umap import UMAP

    method = UMAP(
        n_neighbors=index_NK.shape[1],
        metric="cosine",
        init=10 * start_N2,
        precomputed_knn=(index_NK, distance_NK),
        force_approximation_algorithm=True,  # a small index too takes the neighbours it is given
        random_state=0,
        n_jobs=1,  # what a fixed random state asks for
        verbose=True,  # else it tells no progress
        tqdm_kwds={"file": Epochs(tell), "bar_format": "{n_fmt}/{total_fmt}", "mininterval": 0.3},
    )
    placed: Vectors = method.fit_transform(vectors_ND)
    return placed


class Epochs:
    """What UMAP writes its progress to: "12/500"."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def write(self, text: str) -> None:
        done, _, total = text.strip().partition("/")
        if done.isdigit() and total.isdigit():
            self.tell(0.4 + 0.5 * int(done) / int(total), "Arranging")

    def flush(self) -> None:
        pass


def clusters_of(xy_N2: Vectors, vectors_ND: Vectors) -> Clusters:
    """Dense groups of the layout, by HDBSCAN; of many images a sample is grouped, and each other image
    follows the nearest sampled one."""
    from sklearn.neighbors import NearestNeighbors

    count = len(xy_N2)
    sampled = np.arange(count)
    if count > SAMPLE:
        sampled = np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))
    least = max(5, round(len(sampled) ** 0.5 / 2))
    found = grouped(xy_N2[sampled], least, "eom")
    if np.bincount(found + 1)[1:].max(initial=0) > len(sampled) / 2:
        # One connected cloud: its dense places say more than that it is one.
        found = grouped(xy_N2[sampled], least, "leaf")
    if count > SAMPLE:
        to_sample = NearestNeighbors(n_neighbors=1).fit(xy_N2[sampled])
        found = found[to_sample.kneighbors(xy_N2, return_distance=False)[:, 0]]
    sizes = np.bincount(found[found >= 0])
    rank = np.empty(len(sizes), np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    of_N = np.where(found >= 0, rank[found] if len(rank) else -1, -1).astype(np.int32)
    medoids = [medoid(vectors_ND, np.flatnonzero(of_N == one)) for one in range(len(sizes))]
    return Clusters(of_N=of_N, medoid_C=np.array(medoids, np.int32))


def grouped(xy_N2: Vectors, least: int, choice: str) -> npt.NDArray[np.int64]:
    """The number of each place's group of `least` or more, -1 for none; `choice` of HDBSCAN's two."""
    from sklearn.cluster import HDBSCAN

    method = HDBSCAN(
        min_cluster_size=least, min_samples=5, cluster_selection_method=choice, copy=True
    )
    found: npt.NDArray[np.int64] = method.fit_predict(xy_N2)
    return found


def medoid(vectors_ND: Vectors, members: npt.NDArray[np.int64]) -> int:
    """The member with the least mean cosine distance to the others: of unit vectors, the one most along
    their mean."""
    mean_D = vectors_ND[members].mean(axis=0)
    return int(members[np.argmax(vectors_ND[members] @ mean_D)])


def kept(xy_N2: Vectors, index_NK: npt.NDArray[np.int32]) -> float:
    """The share of the ten nearest that are among the ten nearest on the map, over a sample of images."""
    from sklearn.neighbors import NearestNeighbors

    k = min(TEN, index_NK.shape[1] - 1)
    rng = np.random.default_rng(0)
    asked = rng.choice(len(xy_N2), min(ASKED, len(xy_N2)), replace=False)
    tree = NearestNeighbors(n_neighbors=k + 1).fit(xy_N2)
    on_map = tree.kneighbors(xy_N2[asked], return_distance=False)
    shared = [
        len(set(index_NK[row, 1 : k + 1]) & set(there) - {row})
        for row, there in zip(asked, on_map, strict=True)
    ]
    return float(np.mean(shared)) / k


def end_with_owner() -> None:
    """Whoever started this holds the other end of standard input."""

    def wait() -> None:
        os.read(0, 1)  # nothing is ever written
        os._exit(1)

    threading.Thread(target=wait, name="owner", daemon=True).start()


def main(index: str, out: str) -> None:
    end_with_owner()
    lines = sys.stdout

    def tell(share: float, said: str) -> None:
        print(f"{share:.3f} {said}", file=lines, flush=True)

    warnings.simplefilter("ignore")  # numba's and UMAP's, about their own ways
    with contextlib.redirect_stdout(sys.stderr):  # UMAP prints
        layout = arrange(open_index(Path(index)), tell)
    write_bytes(Path(out), packed(layout))


if __name__ == "__main__":
    main(*sys.argv[1:])

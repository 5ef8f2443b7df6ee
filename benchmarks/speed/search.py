"""Search among many vectors: time to build, time of a query, memory, and recall against brute force.

The vectors are those of the crystals of a table, each mixed with another one and changed by noise until there are as
many as asked for; the queries are made in the same way. With `--usearch` the same vectors are searched with the graph
of the package usearch at its default settings, in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import (
    RESULTS,
    parser,
    peak_memory,
    print_table,
    shared,
    spread,
    write_results,
)
from crystalformers.crystal import Crystal
from crystalformers.io import read_structures
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import network_outputs
from crystalformers.screening.engines import usable_cores
from crystalformers.search.nearest import VECTORS, Neighbours, write_projections

NOISE = 0.1
"""Standard deviation of the noise, in units of that of all numbers of the vectors."""

AT_ONCE = 50_000


def real_vectors(table: Path, count: int) -> NDArray[np.float32]:
    """Vectors of the first crystals of a table."""
    crystals = [one for one in islice(read_structures([table]), count) if isinstance(one, Crystal)]
    (found,) = network_outputs([load_model()], crystals, vectors=True)
    return np.concatenate(found.vectors, axis=1).astype(np.float32)


def mixed(real: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """As many vectors between real ones."""
    i, j = rng.integers(0, len(real), (2, count))
    share = rng.uniform(0, 0.5, (count, 1)).astype(np.float32)
    noise = rng.normal(0, NOISE * real.std(), (count, real.shape[1])).astype(np.float32)
    return np.asarray(real[i] + share * (real[j] - real[i]) + noise)


def brute_force(path: Path, width: int, point: NDArray[np.float32], k: int) -> set[int]:
    """The nearest vectors by all distances, in blocks."""
    vectors = np.memmap(path, np.float32, "r").reshape(-1, width)
    blocks = (vectors[start : start + AT_ONCE] for start in range(0, len(vectors), AT_ONCE))
    distances = np.concatenate([np.linalg.norm(block.astype(float) - point, axis=1) for block in blocks])
    return set(np.argsort(distances)[:k].tolist())


def with_usearch(path: Path, points: NDArray[np.float32], k: int, exact: list[set[int]]) -> dict[str, Any]:
    """Build and search a graph of usearch in this process; memory is what is added to that of the packages."""
    from usearch.index import Index

    width, before = points.shape[1], peak_memory()
    vectors = np.fromfile(path, np.float32).reshape(-1, width)
    index, begin = Index(ndim=width, metric="l2sq", dtype="f32"), time.perf_counter()
    index.add(np.arange(len(vectors)), vectors, threads=usable_cores())
    build, seconds, found = time.perf_counter() - begin, [], []
    for point in points:
        begin = time.perf_counter()
        matches = index.search(point, k)
        seconds.append(time.perf_counter() - begin)
        found.append(set(matches.keys.tolist()))
    memory = peak_memory() - before - vectors.nbytes
    about = {"version": version("usearch"), "build_seconds": build, "query_seconds": spread(seconds)}
    return about | {"recall": recall_of(found, exact, k), "memory_bytes": memory, "file_bytes": index.serialized_length}


def recall_of(found: list[set[int]], exact: list[set[int]], k: int) -> float:
    """Mean share of the nearest that are found."""
    return float(np.mean([len(one & other) / k for one, other in zip(found, exact, strict=True)]))


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--table", type=Path, default=shared() / "data" / "mp2025_structures_20k.parquet")
    made.add_argument("--crystals", type=int, default=3_000, help="first crystals of the table")
    made.add_argument("--vectors", type=int, default=1_000_000)
    made.add_argument("--queries", type=int, default=50)
    made.add_argument("-k", type=int, default=10)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--usearch", action="store_true", help="compare with usearch, which must be installed")
    made.add_argument("--output", type=Path, default=RESULTS / "search.json")
    return made.parse_args()


def main() -> None:
    given = options()
    rng, real = np.random.default_rng(given.seed), real_vectors(given.table, given.crystals)
    width = real.shape[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (folder / VECTORS).open("wb") as file:
            for start in range(0, given.vectors, AT_ONCE):
                file.write(mixed(real, min(AT_ONCE, given.vectors - start), rng).tobytes())
        begin = time.perf_counter()
        write_projections(folder, width)
        build = time.perf_counter() - begin
        index, seconds, found = Neighbours(folder), [], []
        points = mixed(real, given.queries, rng)
        index.nearest(points[0], given.k)
        for point in points:
            begin = time.perf_counter()
            rows, _ = index.nearest(point, given.k)
            seconds.append(time.perf_counter() - begin)
            found.append(set(rows.tolist()))
        exact = [brute_force(folder / VECTORS, width, point, given.k) for point in points]
        other: dict[str, Any] = {}
        if given.usearch:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                other = {"usearch": pool.submit(with_usearch, folder / VECTORS, points, given.k, exact).result()}
    recall = recall_of(found, exact, given.k)
    results = {
        "vectors": given.vectors,
        "width": width,
        "made_from_crystals": len(real),
        "k": given.k,
        "seed": given.seed,
        "build_seconds": build,
        "query_seconds": spread(seconds),
        "recall": recall,
        "memory_bytes": index.table_NQ.nbytes,
        "peak_bytes": peak_memory(),
        **other,
    }
    write_results(given.output, results)
    cells = [
        (
            name,
            f"{given.vectors:,}",
            f"{one['build_seconds']:.1f}",
            f"{1e3 * one['query_seconds']['median']:.1f}",
            f"{one['recall']:.3f}",
            f"{one['memory_bytes'] / 1e6:.0f}",
        )
        for name, one in {"projections": results, **other}.items()
    ]
    print_table(("search", "vectors", "build (s)", "query (ms)", f"recall at {given.k}", "memory (MB)"), cells)


if __name__ == "__main__":
    main()

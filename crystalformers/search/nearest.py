"""Exact nearest neighbours among millions of vectors: distances along few axes exclude nearly all of them.

A projection onto orthonormal axes never makes a distance longer, so a vector whose projection is farther away than the
k-th nearest found so far is not among the k nearest. With the axes of largest variance some hundreds of a million
vectors are left, whose distances are computed in full. Only the projections are built, and a filter costs nothing.

Shapes: N vectors of V numbers, P axes, Q = P + 1: projections and their squared length.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import TableError

AXES = 32
"""Axes of the projection; the vectors of the bundled model have 98 % of their variance along them."""

BLOCK = 65_536
"""Vectors that are read at once while the projections are computed."""

SAMPLE = 131_072
"""Vectors of which the nearest are looked for first."""

FIRST = 256
"""Vectors nearest along the axes whose distances give the first bound."""

ROUNDING = 2e-5
"""What squared distances in float32 may be wrong by, relative to the squared lengths they are differences of."""

Floats = NDArray[np.float32]

VECTORS, PROJECTED, SHAPE = "vectors.f32", "projected.f32", "vectors.json"
"""Files: the vectors (N, V), their projections (N, P), both float32; mean and axes."""


def write_projections(folder: Path, width: int) -> None:
    """Write the projections of the vectors that are in a folder.

    Args:
        folder: holds `VECTORS`.
        width: V.

    Raises:
        TableError: if there are no vectors.
    """
    vectors_NV = _mapped(folder / VECTORS, width)
    if not len(vectors_NV):
        raise TableError("there are no crystals to search", where=str(folder))
    blocks = [slice(start, start + BLOCK) for start in range(0, len(vectors_NV), BLOCK)]
    mean_V = sum(vectors_NV[block].sum(axis=0, dtype=np.float64) for block in blocks) / len(vectors_NV)
    covariance_VV = np.zeros((width, width))
    for block in blocks:
        centred = vectors_NV[block] - mean_V
        covariance_VV += centred.T @ centred
    axes_VP = np.linalg.eigh(covariance_VV)[1][:, ::-1][:, :AXES]
    with (folder / PROJECTED).open("wb") as file:
        for block in blocks:
            file.write(((vectors_NV[block] - mean_V) @ axes_VP).astype(np.float32).tobytes())
    (folder / SHAPE).write_text(json.dumps({"mean": mean_V.tolist(), "axes": axes_VP.tolist()}), encoding="utf-8")


class Neighbours:
    """The vectors of a folder, mapped into memory.

    Args:
        folder: as `write_projections` left it.
    """

    def __init__(self, folder: Path) -> None:
        shape = json.loads((folder / SHAPE).read_text(encoding="utf-8"))
        self.mean_V, self.axes_VP = np.array(shape["mean"]), np.array(shape["axes"])
        self.vectors_NV = _mapped(folder / VECTORS, len(self.mean_V))
        projected_NP = np.fromfile(folder / PROJECTED, np.float32).reshape(len(self.vectors_NV), -1)
        squares_N = np.einsum("np,np->n", projected_NP, projected_NP)
        self.largest = float(squares_N.max())
        self.table_NQ = np.column_stack([projected_NP, squares_N])

    def __len__(self) -> int:
        return len(self.vectors_NV)

    def nearest(
        self, vector_V: Floats, k: int, rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The nearest vectors, the nearest first, and their Euclidean distances.

        Args:
            vector_V: what to look for.
            k: number of vectors; fewer are given if there are fewer.
            rows: among these only.
        """
        point_P = ((vector_V - self.mean_V) @ self.axes_VP).astype(np.float32)
        length = float(point_P @ point_P)
        # |x - y|^2 = |x|^2 - 2 x.y + |y|^2 along the axes: with |y|^2 not more than the squared distance.
        bound = (self.table_NQ if rows is None else self.table_NQ[rows]) @ np.append(-2 * point_P, np.float32(1))
        chosen = np.arange(len(bound))
        if len(bound) > max(k, FIRST):
            step = max(1, len(bound) // max(k, SAMPLE))  # the nearest of a sample give a bound that is good enough
            first = step * np.argpartition(bound[::step], max(k, FIRST) - 1)[: max(k, FIRST)]
            farthest = np.partition(self._squared(vector_V, rows, first), k - 1)[k - 1]
            chosen = np.flatnonzero(bound <= farthest - length + ROUNDING * (length + self.largest))
        found = self._squared(vector_V, rows, chosen)
        best = np.argsort(found, kind="stable")[:k]
        return chosen[best] if rows is None else rows[chosen[best]], np.sqrt(found[best])

    def _squared(
        self, vector_V: Floats, rows: NDArray[np.int64] | None, chosen: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Squared distances of the chosen ones of the rows."""
        difference = self.vectors_NV[chosen if rows is None else rows[chosen]].astype(np.float64) - vector_V
        return np.asarray(np.einsum("nv,nv->n", difference, difference))


def _mapped(path: Path, width: int) -> Floats:
    if path.stat().st_size == 0:
        return np.zeros((0, width), np.float32)
    return np.memmap(path, np.float32, "r").reshape(-1, width)

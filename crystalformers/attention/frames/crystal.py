"""Frames that are the same for all atoms of a crystal (CrystalFramer, ICLR 2025): principal axes and lattice vectors.

The published ones refer to the cell as it is given. Here they refer to the lattice of all translations of the crystal,
so that they depend on the crystal alone. Tied ones are averaged, see `frames.local`.

Shapes: C crystals, P pairs of atoms of one crystal, F frames of all rows together, V lattice vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from crystalformers.attention.frames.local import (
    AXIS_DECIMALS,
    Frames,
    PrincipalAxes,
    principal_axes,
)
from crystalformers.attention.frames.symmetry import nearest_differences, shortest_vectors, translation_lattice
from crystalformers.images import CrystalBatch, smooth_step


def pca_axes(batch: CrystalBatch, tie_width: float) -> PrincipalAxes:
    """The PCA frame of each crystal: principal axes of the differences between its atoms, (C,) rows.

    The difference of a pair is that between nearest images in the lattice of all translations of the crystal (that of
    the primitive cell). For a molecule in a box these are the principal axes of its atoms, as published.

    Args:
        batch: the crystals.
        tie_width: see `frames.local.TIE_WIDTH`; also, in Å, of images at nearly the same distance.
    """
    moments = []
    for numbers, frac, lattice in _cells(batch):
        parts = nearest_differences(frac @ lattice, translation_lattice(numbers, frac, lattice), tie_width)
        parts_33 = [torch.einsum("p,px,py->xy", share_P, r_P3, r_P3) for r_P3, share_P in parts]
        moments.append(torch.stack(parts_33).sum(0))
    axes = principal_axes(torch.stack(moments), tie_width)
    return PrincipalAxes(axes.axes.to(batch.positions), axes.distinct.to(batch.positions))


def lattice_frames(batch: CrystalBatch, tie_width: float) -> Frames:
    """The lattice frame of each crystal, (C,) rows; see `shortest_vector_frames`."""
    lattices = (translation_lattice(numbers, frac, lattice) for numbers, frac, lattice in _cells(batch))
    return shortest_vector_frames(lattices, batch.positions, tie_width)


def shortest_vector_frames(lattices: Iterable[Tensor], like: Tensor, tie_width: float) -> Frames:
    """Unit vectors along the shortest vectors of each lattice, not orthogonal, (C,) rows.

    e_1 is the shortest; e_2 the shortest not parallel to it, with e_1 . e_2 >= 0; e_3 the shortest out of their plane,
    with e_3 . e_1 >= 0; a left-handed triple is negated.

    Args:
        lattices: each (3, 3), float64 on the CPU.
        like: a tensor of the type and on the device of the frames.
        tie_width: see `frames.local.TIE_WIDTH`.
    """
    axes, owner, weight = [], [], []
    for row, lattice in enumerate(lattices):
        triples, shares = _lattice_triples(shortest_vectors(lattice), tie_width)
        axes.append(triples)
        weight.append(shares)
        owner.append(torch.full((len(shares),), row))
    return Frames(torch.cat(axes).to(like), torch.cat(owner).to(like.device), torch.cat(weight).to(like))


def _cells(batch: CrystalBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Numbers, fractional coordinates and lattice of each crystal, float64 on the CPU."""
    exact = batch.in_float64()
    numbers, positions = exact.numbers.cpu(), exact.positions.cpu()
    for lattice, (first, last) in zip(exact.lattice.cpu(), pairwise(batch.ptr.tolist()), strict=True):
        yield numbers[first:last], torch.linalg.solve(lattice.mT, positions[first:last].mT).mT, lattice


def _lattice_triples(vectors_V3: Tensor, tie_width: float) -> tuple[Tensor, Tensor]:
    """Unit vectors (F, 3, 3) of every triple that may be the three shortest, and the share of each."""
    lengths = vectors_V3.norm(dim=1)
    units = vectors_V3 / lengths[:, None]
    triples, shares = [], []
    for a, share_a in _shortest(lengths, torch.ones_like(lengths), tie_width):
        cosine = units @ units[a]
        out_of_line = (cosine.abs() < 1 - 1e-6).to(lengths)
        for b, share_b in _shortest(lengths, out_of_line * _towards(cosine, tie_width), tie_width):
            volume = units @ torch.linalg.cross(units[a], units[b])
            out_of_plane = (volume.abs() > 1e-6).to(lengths)
            for c, share_c in _shortest(lengths, out_of_plane * _towards(cosine, tie_width), tie_width):
                handed = 1.0 if volume[c] > 0 else -1.0
                triples.append(handed * units[[a, b, c]])
                shares.append(share_a * share_b * share_c)
    # A triple and its negative give the same frame, up to rounding.
    found = torch.stack(triples)
    rounded, same = torch.unique(found.round(decimals=AXIS_DECIMALS) + 0.0, dim=0, return_inverse=True)
    times = lengths.new_zeros(len(rounded)).index_add(0, same, torch.ones_like(found[:, 0, 0]))
    distinct = torch.zeros_like(rounded).index_add(0, same, found) / times[:, None, None]
    return distinct, lengths.new_zeros(len(rounded)).index_add(0, same, torch.stack(shares))


def _shortest(lengths: Tensor, allowed: Tensor, tie_width: float) -> Iterator[tuple[int, Tensor]]:
    """The shortest of the allowed vectors and those that tie with it, each with its share."""
    behind = lengths - lengths[allowed > 0].min()
    share = allowed * smooth_step(1 - behind / tie_width)
    share = share / share.sum()
    for index in share.nonzero().flatten().tolist():
        yield index, share[index]


def _towards(cosine: Tensor, tie_width: float) -> Tensor:
    """1 for a direction on the side of e_1, 0 for one on the other, with a smooth step at the right angle."""
    return smooth_step(0.5 + cosine / (2 * tie_width))

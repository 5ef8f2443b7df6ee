"""Building the periodic images of a batch: how far to look, and the lists themselves. Lengths in Angstrom."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from crystalformers.csrc.kernels import library
from crystalformers.errors import ConfigError
from crystalformers.images.batch import ENVELOPE_WIDTH, CrystalBatch, Images
from crystalformers.images.checks import SMALLEST_RADIUS, check_geometry, check_shapes
from crystalformers.images.enumeration import BinnedAtoms, Bins, enumerate_compiled, enumerate_torch

REFERENCE_DENSITY = 0.1
"""Number density for which a tolerance is translated into a radius (atoms/Å³); most crystals are less dense."""


def tail(radius: float, sigma: float, density: float = REFERENCE_DENSITY) -> float:
    """Gaussian mass beyond `radius` around an atom, relative to the atom's own weight of 1.

    tail = 4 pi rho [ sigma^2 R exp(-R^2 / 2 sigma^2) + sigma^3 sqrt(pi/2) erfc(R / (sigma sqrt 2)) ],
    the integral of exp(-d^2 / 2 sigma^2) over a continuum of `density` atoms/Å³. Lengths in Angstrom.
    """
    gauss = sigma**2 * radius * math.exp(-(radius**2) / (2 * sigma**2))
    error = sigma**3 * math.sqrt(math.pi / 2) * math.erfc(radius / (sigma * math.sqrt(2)))
    return 4 * math.pi * density * (gauss + error)


def radius_for(tolerance: float, sigma: float) -> float:
    """Radius (Angstrom) beyond which the Gaussians of width `sigma` hold at most `tolerance` of an atom's weight.

    The envelope begins inside, at `radius - ENVELOPE_WIDTH`, so the tail is counted from there.
    """
    return radius_of_tail(tolerance, sigma) + ENVELOPE_WIDTH


def radius_of_tail(tolerance: float, sigma: float, density: float = REFERENCE_DENSITY) -> float:
    """The inverse of `tail` by bisection: the radius at which it falls to `tolerance`."""
    low, high = 0.0, 60 * sigma
    while high - low > max(1e-9, 4 * math.ulp(high)):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, sigma, density) > tolerance else (low, middle)
    return high


def tolerance_of(radius: float, sigma: float) -> float:
    """The tolerance that a radius (Angstrom) keeps to: the inverse of `radius_for`."""
    return tail(max(radius - ENVELOPE_WIDTH, 0.0), sigma)


def with_images(batch: CrystalBatch, radius: float, *, directions: bool = False) -> CrystalBatch:
    """The batch with its images within `radius` (Angstrom); see `build_images`."""
    return replace(batch, images=build_images(batch, radius, directions=directions))


def build_images(batch: CrystalBatch, radius: float, *, directions: bool = False) -> Images:
    """Enumerate every image within `radius` of every atom, exactly, for any cell.

    With L = T Q (T lower triangular, Q orthogonal) the coordinates of an image in the frame Q are

        z = f_3 T_33,   y = f_2 T_22 + f_3 T_32,   x = f_1 T_11 + f_2 T_21 + f_3 T_31,   f = f_j - f_i + n.

    |z| <= R bounds n_3; then y^2 <= R^2 - z^2 bounds n_2; then x bounds n_1. The last loop visits nothing outside
    the sphere, however tiny, needle-shaped, sheared or left-handed the cell, and wherever the atoms lie. On a CPU the
    compiled library does it where it is installed, otherwise PyTorch.

    Args:
        batch: crystals; geometry is computed in float64 and returned in the type of its positions.
        radius: Angstrom.
        directions: also give the vectors and lattice translations.

    Raises:
        ConfigError: if the radius is not a positive number, or smaller than `SMALLEST_RADIUS`.
        StructureError: if the tensors of the batch do not fit together, there are no atoms, numbers are not finite,
            coordinates too large to have decimals, or a cell has no volume.
        BatchMemoryError: if more than `MOST_IMAGES` are to be expected.
    """
    if not SMALLEST_RADIUS <= radius < math.inf:
        raise ConfigError(
            f"The radius of the image list must be finite and at least {SMALLEST_RADIUS:g} Å, not {radius:g} Å."
        )
    check_shapes(batch)
    exact = batch.in_float64()
    positions, lattice = exact.positions.detach().contiguous(), exact.lattice.detach().contiguous()
    triangle = torch.linalg.qr(lattice.mT, mode="r").R.mT.contiguous()
    crystal, ptr = batch.crystal_of_atom, batch.ptr.contiguous()
    frac = torch.linalg.solve_ex(lattice[crystal].mT, positions.unsqueeze(-1)).result.squeeze(-1).contiguous()
    check_geometry(lattice, triangle, frac, ptr, radius)
    bins = Bins.of(frac, triangle, crystal, ptr, radius)
    binned = BinnedAtoms(positions, lattice, frac, triangle, crystal, ptr, bins, radius)
    compiled = positions.device.type == "cpu" and library() is not None
    images = enumerate_compiled(binned, directions) if compiled else enumerate_torch(binned)
    if directions and images.vectors is None:
        images = images.moved(replace(exact, positions=positions, lattice=lattice))
    elif not directions and images.shift is not None:
        images = replace(images, shift=None)
    return images.to(batch.positions.dtype)

"""Building the periodic images of a batch: how far to look, and the lists themselves. Lengths in Angstrom."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from crystalformers.crystal import MAX_COORDINATE
from crystalformers.csrc.kernels import library
from crystalformers.errors import BatchMemoryError, ConfigError, StructureError
from crystalformers.images.batch import ENVELOPE_WIDTH, CrystalBatch, Images
from crystalformers.images.enumeration import BinnedAtoms, enumerate_compiled, enumerate_torch

REFERENCE_DENSITY = 0.1
"""Number density for which a tolerance is translated into a radius (atoms/Å³); most crystals are less dense."""

SMALLEST_RADIUS = 1e-6
"""Smallest radius of a list of images, Angstrom: far below any distance, far above what rounding leaves of it."""

MOST_IMAGES = 1e9
"""Images that a batch is expected to have at most; pairs are numbered with 31 bits, and 1e9 images take 12 GB."""

FLATTEST = 1e-14
"""Volume of a cell in units of the product of its edges below which it is rounding."""


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
    _check_batch(batch, radius)
    positions, lattice = batch.positions.detach().double(), batch.lattice.detach().double()
    binned = BinnedAtoms.of(positions, lattice, batch.crystal_of_atom, batch.ptr, radius)
    _check_coordinates(binned)
    compiled = batch.positions.device.type == "cpu" and library() is not None
    found = enumerate_compiled(binned, directions) if compiled else enumerate_torch(binned)
    images = Images(**found._asdict(), radius=radius)
    if directions and images.vectors is None:
        images = images.moved(replace(batch, positions=positions, lattice=lattice))
    elif not directions:
        images = replace(images, shift=None)
    return images.to(batch.positions.dtype)


def _check_batch(batch: CrystalBatch, radius: float) -> None:
    """Refuse what no image can be built of; all numbers are looked at in one pass.

    Raises:
        StructureError: naming what is wrong.
        BatchMemoryError: if there would be more than `MOST_IMAGES`.
    """
    atoms, crystals = batch.n_atoms, len(batch.lattice)
    shapes = {"positions": (atoms, 3), "lattice": (crystals, 3, 3), "ptr": (crystals + 1,)}
    for name, shape in shapes.items():
        tensor = getattr(batch, name)
        if tuple(tensor.shape) != shape or tensor.device != batch.numbers.device:
            raise StructureError(
                f"{name} has shape {tuple(tensor.shape)} on {tensor.device}",
                where="batch",
                remedy=f"with these atoms and cells it must be {shape} on {batch.numbers.device}",
            )
    if not atoms or not crystals:
        raise StructureError("there are no atoms", where="batch")
    if batch.ptr.dtype != torch.int64 or not (
        batch.positions.is_floating_point() and batch.lattice.is_floating_point()
    ):
        raise StructureError("ptr must be int64, positions and lattice floating-point numbers", where="batch")
    # In NumPy: for some dozens of cells its operations cost a tenth of PyTorch's.
    lattice, ptr = batch.lattice.detach().double().cpu().numpy(), batch.ptr.cpu().numpy()
    sizes = np.diff(ptr)
    with np.errstate(all="ignore"):  # what is not finite is refused below
        volume, lengths = np.abs(np.linalg.det(lattice)), np.sqrt(np.square(lattice).sum(-1))
        solid = (volume > FLATTEST * lengths.prod(-1)) & np.isfinite(volume)
        expected = float(
            (np.square(sizes, dtype=np.float64) / volume).sum() * (4 / 3 * math.pi) * np.float64(radius) ** 3
        )
    facts = {
        "ptr does not divide the atoms into crystals": ptr[0] == 0 and ptr[-1] == atoms and (sizes > 0).all(),
        "the positions hold NaN or infinite numbers": bool(batch.positions.isfinite().all()),
        "the lattice holds NaN or infinite numbers": np.isfinite(lattice).all(),
        "a cell has no volume": solid.all(),
    }
    for problem, fine in facts.items():
        if not fine:
            raise StructureError(problem, where="batch")
    if not expected <= MOST_IMAGES:
        raise BatchMemoryError(
            f"about {expected:.1e} images lie within {radius:g} Å, more than {MOST_IMAGES:g}",
            where="batch",
            remedy="use a smaller radius (a larger tolerance) or smaller batches, and check the unit of the lattice",
        )


def _check_coordinates(binned: BinnedAtoms) -> None:
    largest = float(binned.frac.abs().max())
    if not largest <= MAX_COORDINATE:
        raise StructureError(
            f"a fractional coordinate of {largest:.3g} is larger than {MAX_COORDINATE:g}, no decimals would be left",
            where="batch",
            remedy="wrap the atoms into the cell",
        )

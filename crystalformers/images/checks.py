"""What image building and attention refuse: batches and lists of images whose tensors do not fit together.

Shapes: A atoms, C crystals, E images, P pairs. Lengths in Angstrom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, pairwise

import torch
from torch import Tensor

from crystalformers.crystal import MAX_COORDINATE
from crystalformers.csrc.kernels import BoundKernel, library
from crystalformers.errors import BatchMemoryError, StructureError
from crystalformers.images.batch import CrystalBatch, Images
from crystalformers.images.enumeration import CBinnedAtoms, CImageLists

COMPILED_TYPES = (torch.float32, torch.float64)
"""Types of distances that images.c reads."""

MOST_IMAGES = 1e9
"""Images that a batch is expected to have at most; pairs are numbered with 31 bits, and 1e9 images take 12 GB."""

SMALLEST_RADIUS = 1e-6
"""Smallest radius of a list of images, Angstrom: far below any distance, far above what rounding leaves of it."""

FLATTEST = 1e-14
"""Volume of a cell in units of the product of its edges below which it is rounding."""

LIMITS = torch.tensor([FLATTEST, MAX_COORDINATE, MOST_IMAGES], dtype=torch.float64)
"""What `geometry_check` in images.c compares with."""

RULES = (
    "batch.ptr divides the atoms into crystals",
    "images.distance holds finite numbers of 0 and more",
    "images.ptr ascends",
    "images.ptr lies within the images",
    "images.pair names pairs",
    "images.pair_target ascends within the atoms",
    "images.pair_source names atoms",
    "images are grouped by the atom of their pair",
)
"""What must hold for lists of images, in the order of `images_check` in images.c."""


def check_shapes(batch: CrystalBatch) -> None:
    """Refuse a batch whose tensors have other shapes, types or devices than they should, or atoms without a crystal.

    Raises:
        StructureError: naming the tensor.
    """
    tensors = {name: getattr(batch, name) for name in ("numbers", "positions", "lattice", "ptr")}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.dim():
            raise StructureError(f"{name} {_described(tensor)}", where="batch")
    atoms, crystals, device = batch.n_atoms, len(batch.lattice), batch.numbers.device
    shapes = ((atoms,), (atoms, 3), (crystals, 3, 3), (crystals + 1,))
    for (name, tensor), shape in zip(tensors.items(), shapes, strict=True):
        if tensor.shape != shape or tensor.device != device:
            remedy = f"with these atoms and cells it must be {shape} on {device}"
            raise _refusal(f"{name} has shape {tuple(tensor.shape)} on {tensor.device}", remedy)
    if batch.numbers.device.type == "meta":
        raise _refusal("tensors on meta hold no numbers")
    if not atoms or not crystals:
        raise _refusal("there are no atoms")
    floats = batch.positions.is_floating_point() and batch.lattice.is_floating_point()
    if batch.ptr.dtype != torch.int64 or not floats:
        raise _refusal("ptr must be int64, positions and lattice floating-point numbers")
    first = batch.ptr.tolist()
    if first[0] != 0 or first[-1] != atoms or any(start >= stop for start, stop in pairwise(first)):
        raise _refusal("ptr does not divide the atoms into crystals")


def _refusal(problem: str, remedy: str = "") -> StructureError:
    return StructureError(problem, where="batch", remedy=remedy)


def check_geometry(lattice: Tensor, triangle: Tensor, frac: Tensor, ptr: Tensor, radius: float) -> None:
    """Refuse cells and coordinates that have no images, or too many.

    Args:
        lattice: (C, 3, 3), float64.
        triangle: T of L = T Q, (C, 3, 3).
        frac: fractional coordinates, (A, 3).
        ptr: first atom of each crystal and the total, (C + 1,).
        radius: Angstrom.

    Raises:
        StructureError: if a cell is not finite or has no volume, or a coordinate is not finite, or so large that it
            has no decimals left.
        BatchMemoryError: if there would be more than `MOST_IMAGES`.
    """
    if lattice.device.type == "cpu" and library() is not None and not suspect(lattice, triangle, frac, ptr, radius):
        return
    check_cells(lattice, triangle, ptr.diff(), radius)
    check_coordinates(frac)


def suspect(lattice: Tensor, triangle: Tensor, frac: Tensor, ptr: Tensor, radius: float) -> bool:
    """Whether there may be anything that `check_geometry` refuses, by images.c: a tenth of the time of PyTorch."""
    binned = CBinnedAtoms(
        lattice=lattice.data_ptr(),
        triangle=triangle.data_ptr(),
        frac=frac.data_ptr(),
        ptr=ptr.data_ptr(),
        radius=radius,
    )
    found = torch.empty(1, dtype=torch.int32)
    BoundKernel("geometry_check", binned, LIMITS, found)(0, len(lattice))
    return bool(found)


def check_cells(lattice: Tensor, triangle: Tensor, sizes: Tensor, radius: float) -> None:
    """What `check_geometry` refuses about cells; `sizes` are the numbers of their atoms, (C,)."""
    volume = triangle.diagonal(dim1=1, dim2=2).prod(-1).abs()
    solid = (volume > FLATTEST * lattice.square().sum(-1).prod(-1).sqrt()) & (volume < math.inf)  # False for NaN
    if not solid.all():
        finite = lattice.isfinite().all()
        raise _refusal("a cell has no volume" if finite else "the lattice holds NaN or infinite numbers")
    expected = float((sizes * (sizes / volume)).sum() * (4 / 3 * math.pi)) * radius * radius * radius
    if not expected <= MOST_IMAGES:
        problem = f"about {expected:.1e} images lie within {radius:g} Å, more than {MOST_IMAGES:g}"
        remedy = "use a smaller radius (a larger tolerance) or smaller batches, and check the unit of the lattice"
        raise BatchMemoryError(problem, where="batch", remedy=remedy)


def check_coordinates(frac: Tensor) -> None:
    """What `check_geometry` refuses about fractional coordinates (A, 3)."""
    largest = float(frac.abs().max())
    if not math.isfinite(largest):
        raise _refusal("the positions hold NaN or infinite numbers")
    if largest > MAX_COORDINATE:
        problem = f"a fractional coordinate of {largest:.3g} is larger than {MAX_COORDINATE:g}"
        raise _refusal(f"{problem}, no decimals would be left", "wrap the atoms into the cell")


def _described(tensor: object) -> str:
    return f"has shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else f"is a {type(tensor).__name__}"


def problem_of(batch: CrystalBatch, images: Images) -> str | None:
    """What does not fit in the lists of images of a batch; None if all does."""
    checks = (_wrong_sizes(batch, images), _wrong_types(batch, images), _wrong_numbers(batch, images))
    return next(chain.from_iterable(checks), None)


def _wrong_sizes(batch: CrystalBatch, images: Images) -> Iterator[str]:
    for name in ("distance", "pair_target"):
        if not isinstance(getattr(images, name), Tensor) or getattr(images, name).dim() != 1:
            yield f"images.{name} {_described(getattr(images, name))}, expected one axis"
    atoms, count, pairs = batch.n_atoms, len(images.distance), len(images.pair_target)
    shapes: dict[str, tuple[object, tuple[int, ...]]] = {
        "batch.positions": (batch.positions, (atoms, 3)),
        "batch.lattice": (batch.lattice, (len(batch.ptr) - 1, 3, 3)),
        "batch.numbers": (batch.numbers, (atoms,)),
        "images.distance": (images.distance, (count,)),
        "images.pair": (images.pair, (count,)),
        "images.ptr": (images.ptr, (atoms + 1,)),
        "images.pair_source": (images.pair_source, (pairs,)),
        "images.vectors": (images.vectors, (count, 3)),
    }
    if images.vectors is None:
        del shapes["images.vectors"]
    for name, (tensor, shape) in shapes.items():
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            yield f"{name} {_described(tensor)}, expected shape {shape}"


def _wrong_types(batch: CrystalBatch, images: Images) -> Iterator[str]:
    if not images.distance.is_floating_point():
        yield f"images.distance is {images.distance.dtype}, expected floating-point numbers"
    if images.vectors is not None and images.vectors.dtype != images.distance.dtype:
        yield f"images.vectors are {images.vectors.dtype} and images.distance {images.distance.dtype}"
    types = {"pair": torch.int32, "ptr": torch.int64, "pair_target": torch.int64, "pair_source": torch.int64}
    for name, dtype in types.items():
        if getattr(images, name).dtype != dtype:
            yield f"images.{name} is {getattr(images, name).dtype}, expected {dtype}"
    if batch.ptr.dtype != torch.int64:
        yield f"batch.ptr is {batch.ptr.dtype}, expected torch.int64"
    devices = {str(t.device) for t in (*vars(images).values(), *vars(batch).values()) if isinstance(t, Tensor)}
    if len(devices) > 1:
        yield f"batch and images are on several devices ({', '.join(sorted(devices))})"


def _wrong_numbers(batch: CrystalBatch, images: Images) -> Iterator[str]:
    if not SMALLEST_RADIUS <= images.radius < math.inf:
        yield f"images.radius is {images.radius:g} Å"
    compiled = images.ptr.device.type == "cpu" and images.distance.dtype in COMPILED_TYPES and library() is not None
    broken = (broken_rules_compiled if compiled else broken_rules_torch)(batch.ptr, images)
    for rule, flag in zip(RULES, broken, strict=True):
        if flag:
            yield f"it does not hold that {rule}"


def broken_rules_compiled(crystal_ptr: Tensor, images: Images) -> list[bool]:
    """Which `RULES` do not hold, by images.c; a hundredth of the time of an attention layer."""
    tensors = (images.ptr, images.pair, images.pair_target, images.pair_source, crystal_ptr, images.distance.detach())
    *lists, crystals, distance = (t.contiguous() for t in tensors)
    ptr, pair, target, source = (t.data_ptr() for t in lists)
    precise = distance.dtype == torch.float64
    counts = torch.tensor([images.n_atoms, len(images.pair), len(images.pair_target), len(crystals) - 1, precise])
    broken = torch.empty(len(RULES), dtype=torch.int32)
    c_lists = CImageLists(ptr=ptr, pair=pair, pair_target=target, pair_source=source)
    BoundKernel("images_check", c_lists, counts, crystals, distance, broken)(0, images.n_atoms)
    return [bool(flag) for flag in broken.tolist()]


def broken_rules_torch(crystal_ptr: Tensor, images: Images) -> list[bool]:
    """Which `RULES` do not hold, by PyTorch, on any device."""
    atoms, count, pairs = images.n_atoms, len(images.distance), len(images.pair_target)
    per_atom, pair, target, source = images.ptr.diff(), images.pair, images.pair_target, images.pair_source
    rules = [
        (crystal_ptr.diff() >= 0).all() & (crystal_ptr[0] == 0) & (crystal_ptr[-1] == atoms),
        ((images.distance >= 0) & (images.distance < math.inf)).all(),
        (per_atom >= 0).all(),
        (images.ptr[0] == 0) & (images.ptr[1:] <= count).all(),
        ((pair >= 0) & (pair < pairs)).all(),
        (target.diff() >= 0).all() & (target[:1] >= 0).all() & (target[-1:] < atoms).all(),
        ((source >= 0) & (source < atoms)).all(),
    ]
    holds = torch.stack([rule.reshape(()) for rule in rules]).tolist()  # one wait for the device
    grouped = not all(holds[2:5]) or torch.equal(
        images.target[: int(images.ptr[-1])], torch.repeat_interleave(per_atom)
    )
    return [not rule for rule in (*holds, grouped)]

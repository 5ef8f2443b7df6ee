"""An ASE calculator: energy, forces and stress from a model that was trained on energies.

>>> from crystalformers.calculator import CrystalformersCalculator
>>> atoms.calc = CrystalformersCalculator("runs/textbook")  # doctest: +SKIP
>>> atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()  # doctest: +SKIP

Forces and stress are exact derivatives of the predicted energy. They are only as good as that energy away from the
training data: a model that was trained on relaxed crystals has learned little about displaced atoms, and nothing that
would keep a cell from collapsing. Hence a warning with the first forces or stress, and an error where the volume per
atom leaves the range of the training crystals.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError, DomainError, TargetError
from crystalformers.extras import optional
from crystalformers.images import CrystalBatch, build_images
from crystalformers.io import as_crystal
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model
from crystalformers.target import Target

with optional("ase", "the calculator"):
    from ase.calculators.calculator import Calculator, all_changes

VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
"""Rows and columns of the six independent entries of a stress, in ASE's order."""


@dataclass(frozen=True, eq=False)
class Derivatives:
    """An energy and its derivatives. Shapes: N atoms.

    Attributes:
        energy: of the cell, eV.
        forces: -dE/dp for positions p, (N, 3), eV/Å.
        stress: dE/d(strain) / V, (3, 3), eV/Å³, positive under tension.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


class CrystalformersCalculator(Calculator):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³, ASE's order and sign) of periodic structures.

    Everything is computed in float64. Each call finds the images of every atom within a radius that follows from the
    tolerance of the model; their weights fall smoothly to zero there, so that the energy is continuous when an image
    enters or leaves. Forces are exact derivatives, with small steps where a ReLU changes sign and, for a model with
    frames, where two images change their order by weight while a third contributes to the frame. The energy itself is
    discontinuous only where an image becomes parallel to the first axis of a frame.

    Args:
        model: a loaded model, or what `load_model` takes.
        target: name of the energy; may be left out if the model has exactly one.
        any_volume: compute structures whose volume per atom is outside the range of the training crystals too.

    Raises:
        TargetError: if the target is not an energy of the whole crystal.
        ConfigError: if there is no such target or the model's frames do not change smoothly.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - ASE declares it so

    def __init__(
        self,
        model: Model | str | os.PathLike[str] | None = None,
        target: str | None = None,
        *,
        any_volume: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model if isinstance(model, Model) else load_model(model)
        if reason := self.model.network.forces_unsupported_reason:
            raise ConfigError(f"it has no forces: {reason}", where=f"Model '{self.model.name}'")
        self.target = energy_target(self.model.targets, target)
        self.network = copy.deepcopy(self.model.network).double().requires_grad_(False)
        self.network.backend = "torch"
        self.any_volume = any_volume
        self._warned: set[str] = set()

    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """One of `results`, computed if need be; warns when forces or stress are first asked for."""
        if name in {"forces", "stress"}:
            self._warn_once(
                "forces and stress are slopes of a model of relaxed crystals: do not use them for dynamics, and check "
                "relaxed structures with another method"
            )
        return super().get_property(name, atoms, allow_calculation)  # type: ignore[no-untyped-call]

    def calculate(
        self,
        atoms: Any = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute `results`; ASE calls this when the structure has changed.

        Raises:
            StructureError: if the structure is not periodic in three directions, or two atoms coincide.
            DomainError: if its volume per atom is outside the range of the training crystals.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        # First, so that a collapse is named before the atoms that it brings on top of each other.
        structure: Any = self.atoms
        if not self.any_volume and structure.pbc.all() and len(structure):
            self._check_volume(structure.cell.volume / len(structure))
        found = self.derivatives(as_crystal(structure))
        self.results = {
            "energy": found.energy,
            "free_energy": found.energy,
            "forces": found.forces,
            "stress": found.stress[VOIGT],
        }

    def _check_volume(self, per_atom: float) -> None:
        domain = self.model.domain
        if domain.volume_per_atom is None:
            self._warn_once("the model does not know the volumes of its training crystals, so none can be checked")
        elif problem := domain.volume_outside(per_atom):
            raise DomainError(
                problem,
                where=f"Model '{self.model.name}'",
                remedy="its energy has no meaning there; any_volume=True computes it all the same",
            )

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(f"Model '{self.model.name}': {text}.", stacklevel=3)

    def derivatives(self, crystal: Crystal) -> Derivatives:
        """Energy, forces and stress of a crystal, by automatic differentiation."""
        batch = CrystalBatch.from_crystals([crystal]).to(self.model.device)
        images = build_images(batch, self.model.radius, directions=True)
        strain = torch.zeros_like(batch.lattice[0]).requires_grad_()
        shift = torch.zeros_like(batch.positions).requires_grad_()
        deformation = torch.eye(3).to(strain) + strain
        moved = replace(batch, positions=(batch.positions + shift) @ deformation, lattice=batch.lattice @ deformation)
        z = self.network(replace(moved, images=images.moved(moved)))[0, self.model.targets.index(self.target)]
        by_position, by_strain = torch.autograd.grad(z, (shift, strain))
        n = len(crystal)
        per_z = n * self.target.std
        by_strain = (by_strain + by_strain.mT) / 2
        energy = self.target.physical(z.item(), n) * (n if self.target.basis == "per_atom" else 1)
        return Derivatives(
            float(energy),
            -per_z * by_position.cpu().numpy(),
            per_z / crystal.volume * by_strain.cpu().numpy(),
        )


def energy_target(targets: Sequence[Target], name: str | None = None) -> Target:
    """The target with this name or, without a name, the only energy of the whole crystal.

    Raises:
        TargetError: if the target is not an energy, or without a name if there is not exactly one energy.
        ConfigError: if there is no target of this name.
    """
    known = ", ".join(target.name for target in targets)
    if name is None:
        energies = [target for target in targets if not _why_not(target)]
        if len(energies) != 1:
            raise TargetError(f"The model has {len(energies)} energies among its targets ({known})", remedy="name one")
        return energies[0]
    for target in targets:
        if target.name == name:
            if reason := _why_not(target):
                raise TargetError(f"forces need an energy, but {reason}", where=name)
            return target
    raise ConfigError(f"The model has no target '{name}'; it has {known}")


def _why_not(target: Target) -> str:
    """Why a target is not an energy of the crystal; empty if it is one."""
    units = {"per_atom": ("eV/atom", "eV"), "per_cell": ("eV",)}.get(target.basis)
    if units is None:
        return f"its basis is {target.basis}, not per_atom or per_cell"
    if target.unit not in units:
        return f"its unit is {target.unit}, not {' or '.join(units)}"
    return f"its transform is {target.transform}" if target.transform != "none" else ""

"""Structures in, values with units out: the trained model as a user meets it.

Shapes: A atoms, C crystals, T targets, D width of an atom vector. Lengths in Angstrom.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalformers.checkpoint import Checkpoint, load_checkpoint
from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError, ConfigError, StructureError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.io import Rejected, as_crystal, formula, read_structures
from crystalformers.paper_checkpoints import Config, is_paper_checkpoint, load_paper_checkpoint
from crystalformers.prediction.batching import Budget, expected_images, no_progress, windows
from crystalformers.prediction.bundled import find_weights
from crystalformers.target import Target

if TYPE_CHECKING:
    import pandas as pd

Vectors = NDArray[np.float32]

WINDOW = 512
"""Structures that are sorted by size together; results leave in input order, one window at a time."""

IMAGES_PER_BATCH = 400_000
"""Expected images of one batch, which bounds its memory (about 1 GB); a larger crystal is alone in its own."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one structure.

    Attributes:
        name: name of the structure (file name, id of the row).
        formula: reduced formula.
        n_atoms: atoms of the cell as given; values of `per_cell` targets belong to this cell.
        values: physical value of each target, by its name.
        units: unit of each target, by its name.
    """

    name: str
    formula: str
    n_atoms: int
    values: dict[str, float]
    units: dict[str, str]


class Model:
    """A trained model with its targets, ready to predict; made by `load_model`.

    Attributes:
        name: bundled name, or the file or run folder it was loaded from.
        fingerprint: SHA-256 of the weight file.
        targets: what the columns of a prediction mean.
        card: how the model was made and what was measured of it.
        radius: images farther away than this are left out (Angstrom), from `tolerance`.
        directions: whether the model looks at directions, not at distances alone.
        dim: width D of the vectors of `embed`.
        budget: of images in a batch; shrinks where memory does not suffice.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        fingerprint: str,
        device: str = "cpu",
        tolerance: float = 1e-7,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not 0 < tolerance < 1:
            raise ConfigError(f"Tolerance {tolerance:g} must lie between 0 and 1, for example 1e-7.")
        self.name, self.fingerprint = name, fingerprint
        self.targets: tuple[Target, ...] = tuple(checkpoint.targets)
        self.card: dict[str, Any] = checkpoint.card
        self.device, self.dtype, self.tolerance = _device(device), dtype, tolerance
        self.network = checkpoint.model.to(self.device, dtype).eval()
        self.radius = float(self.network.radius(tolerance))
        self.directions = bool(self.network.needs_directions)
        self.dim = int(self.network.config.dim)
        self.budget = Budget(IMAGES_PER_BATCH)

    def __repr__(self) -> str:
        targets = ", ".join(f"{target.name} ({target.unit})" for target in self.targets)
        return f"Model({self.name}: {targets})"

    @overload
    def predict(self, structures: Any, *, errors: Literal["raise"] = "raise") -> list[Prediction]: ...
    @overload
    def predict(self, structures: Any, *, errors: Literal["report"]) -> list[Prediction | Rejected]: ...
    @overload
    def predict(
        self, structures: Any, *, errors: Literal["raise", "report"] = "raise", as_frame: Literal[True]
    ) -> pd.DataFrame: ...
    def predict(self, structures: Any, *, errors: Literal["raise", "report"] = "raise", as_frame: bool = False) -> Any:
        """Predict every target of one or many structures, in the order given.

        Args:
            structures: one or an iterable of pymatgen `Structure`, ASE `Atoms`, `Crystal` or paths (structure
                file, directory, table; such a path may stand for many structures).
            errors: `raise` refuses the whole call, before any computation, if one structure is bad; `report`
                predicts the others and leaves a `Rejected` (in a frame: a column `error`) in its place.
            as_frame: return a pandas frame with columns name, formula, n_atoms, and `target (unit)`; the
                units also stand in `frame.attrs["units"]`.

        Values of a structure depend on its batch mates by rounding only (1e-6 of the spread in float32).

        Raises:
            StructureError: naming the index of the bad structure.
        """
        window = self._collect(structures, errors)
        rows = [row for part in windows(window, WINDOW) for row in predict_window([self], part)]
        if errors == "raise":
            _refuse(rows)
        return predictions_frame(rows, self.targets, report=errors == "report") if as_frame else rows

    @overload
    def embed(self, structures: Any, *, per_atom: Literal[False] = False) -> Vectors: ...
    @overload
    def embed(self, structures: Any, *, per_atom: Literal[True]) -> list[Vectors]: ...
    def embed(self, structures: Any, *, per_atom: bool = False) -> Vectors | list[Vectors]:
        """Vectors of the structures as the model sees them, before its property head.

        Returns:
            float32 array (C, D), the mean over the atoms of each crystal; with `per_atom` a list of (N, D).

        Raises:
            StructureError: naming the index of the bad structure.
        """
        crystals = [row for row in self._collect(structures, "raise") if isinstance(row, Crystal)]
        vectors = self.atom_vectors(crystals)
        if per_atom:
            return vectors
        return np.array([atoms.mean(axis=0) for atoms in vectors], np.float32).reshape(-1, self.dim)

    def values(
        self,
        crystals: Sequence[Crystal],
        advance: Callable[[int], object] = no_progress,
        failed: dict[int, str] | None = None,
    ) -> NDArray[np.float64]:
        """Physical values, (C, T), in the order given.

        Args:
            crystals: what to predict.
            advance: hears the size of each finished batch.
            failed: takes the index of each crystal too large for the memory, and the reason; its values are NaN.

        Raises:
            BatchMemoryError: if a crystal is too large and there is no `failed`.
        """
        standardised = np.full((len(crystals), len(self.targets)), np.nan)
        for rows, result in self._results(self.network, crystals, failed):
            if result is not None:
                standardised[rows] = result
            advance(len(rows))
        n_atoms = np.array([len(crystal) for crystal in crystals])
        return np.stack(
            [target.physical(standardised[:, k], n_atoms) for k, target in enumerate(self.targets)], axis=-1
        )

    def atom_vectors(
        self, crystals: Sequence[Crystal], advance: Callable[[int], object] = no_progress
    ) -> list[Vectors]:
        """Vectors of the atoms of each crystal, arrays of shape (N, D), in the order given.

        Raises:
            BatchMemoryError: if a crystal is too large.
        """
        vectors: list[Vectors] = [np.empty((0, 0), np.float32)] * len(crystals)
        for rows, atoms in self._results(self.network.encode, crystals):
            assert atoms is not None
            ends = np.cumsum([len(crystals[row]) for row in rows])
            for row, part in zip(rows, np.split(atoms.astype(np.float32), ends[:-1]), strict=True):
                vectors[row] = part
            advance(len(rows))
        return vectors

    def _results(
        self,
        function: Callable[[CrystalBatch], Tensor],
        crystals: Sequence[Crystal],
        failed: dict[int, str] | None = None,
    ) -> Iterator[tuple[list[int], NDArray[np.float64] | None]]:
        """Rows of each batch and what the function makes of them, or None where one crystal alone is too much."""

        @torch.inference_mode()
        def run(rows: list[int]) -> NDArray[np.float64]:
            batch = CrystalBatch.from_crystals([crystals[row] for row in rows]).to(self.device)
            # Images come from float64 coordinates: in float32 an atom far from the origin would be misplaced.
            batch = with_images(batch, self.radius, directions=self.directions).to(self.dtype)
            return function(batch).double().cpu().numpy()

        costs = [expected_images(crystal, self.radius) for crystal in crystals]
        for rows, result in self.budget.results(costs, run):
            if result is None:
                reason = _too_large(crystals[rows[0]], costs[rows[0]])
                if failed is None:
                    raise BatchMemoryError(f"{crystals[rows[0]].name or 'structure'}: {reason}")
                failed[rows[0]] = reason
            yield rows, result

    def _collect(self, structures: Any, errors: Literal["raise", "report"]) -> list[Crystal | Rejected]:
        rows: list[Crystal | Rejected] = []
        for index, structure in enumerate(_as_iterable(structures)):
            found = list(_crystals_of(structure, f"structure {index}"))
            if errors == "raise":
                _refuse(found, index)
            rows.extend(found)
        return rows


def load_model(
    name_or_path: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    tolerance: float = 1e-7,
    dtype: torch.dtype = torch.float32,
    preset: str | Config | None = None,
    targets: Sequence[Target] | None = None,
) -> Model:
    """Load a bundled model by name, or any model from a run folder or weight file, the papers' checkpoints included.

    Args:
        name_or_path: bundled name (`crystalformers models` lists them), run folder or weight file; may be
            left out where exactly one model is bundled.
        device: `cpu`, `cuda`, `cuda:1`...
        tolerance: share of an atom's attention weight that may be neglected beyond the radius of the images.
        dtype: floating-point type of the network.
        preset: which published model a file of the authors holds, where it does not tell (a state dict alone).
        targets: what such a file predicts, where it does not tell, see `paper_checkpoints.read_paper_checkpoint`;
            `card["unmapped"]` lists what of it could not be mapped.

    Raises:
        CheckpointError: if there is no such model or it cannot be read.
        ConfigError: if the device is not there or the tolerance is out of range.
    """
    path = find_weights(name_or_path)
    with path.open("rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    name = path.stem if name_or_path is None else str(name_or_path)
    if is_paper_checkpoint(path):
        checkpoint = load_paper_checkpoint(path, preset, targets)
    elif preset is None and targets is None:
        checkpoint = load_checkpoint(path)
    else:
        raise ConfigError(f"{path}: a model of this library tells its settings and targets; leave out yours.")
    return Model(checkpoint, name, fingerprint, device, tolerance, dtype)


def predict_window(
    models: Sequence[Model],
    window: Sequence[Crystal | Rejected],
    advance: Callable[[int], object] = no_progress,
) -> list[Prediction | Rejected]:
    """Predict with every model for the crystals of a window; the rejected stay where they are.

    `advance` hears how many structures each finished batch of the last model held.
    """
    crystals = [row for row in window if isinstance(row, Crystal)]
    failed: dict[int, str] = {}
    tables = [model.values(crystals, advance if model is models[-1] else no_progress, failed) for model in models]
    targets = [target for model in models for target in model.targets]
    units = {target.name: target.unit for target in targets}
    values = enumerate(np.concatenate(tables, axis=-1))
    rows: list[Prediction | Rejected] = []
    for row in window:
        if isinstance(row, Rejected):
            rows.append(row)
            continue
        index, given = next(values)
        if index in failed:
            rows.append(Rejected(row.name, failed[index]))
            continue
        numbers = dict(zip(units, map(float, given), strict=True))
        bad = [name for name, number in numbers.items() if not math.isfinite(number)]
        rows.append(
            Rejected(row.name, f"the prediction of {', '.join(bad)} is not finite; check the cell.")
            if bad
            else Prediction(row.name, formula(row), len(row), numbers, units)
        )
    return rows


def predictions_frame(
    rows: Sequence[Prediction | Rejected], targets: Sequence[Target], *, report: bool = False
) -> pd.DataFrame:
    """The predictions as a pandas frame: name, formula, n_atoms, one column `target (unit)` per target."""
    import pandas as pd

    headers = {target.name: column_name(target) for target in targets}
    records: list[dict[str, Any]] = []
    for row in rows:
        if isinstance(row, Rejected):
            records.append({"name": row.name, "error": row.reason})
        else:
            given = {"name": row.name, "formula": row.formula, "n_atoms": row.n_atoms, "error": ""}
            records.append(given | {headers[name]: row.values[name] for name in headers})  # noqa: PD011 - no frame
    columns = ["name", "formula", "n_atoms", *headers.values(), *(["error"] if report else [])]
    frame = pd.DataFrame(records, columns=columns).astype({"n_atoms": "Int64"})
    frame.attrs["units"] = {target.name: target.unit for target in targets}
    return frame


def column_name(target: Target) -> str:
    """Header of a target's column, `band_gap (eV)`."""
    return f"{target.name} ({target.unit})"


def _too_large(crystal: Crystal, images: float) -> str:
    return (
        f"out of memory with this structure alone ({len(crystal)} atoms, about {images:.2g} periodic images); "
        "use a machine with more memory or a larger tolerance."
    )


def _as_iterable(structures: Any) -> Iterable[Any]:
    # A pymatgen Structure and ASE Atoms are iterable themselves: over sites, which is never meant here.
    single = isinstance(structures, str | os.PathLike) or any(
        hasattr(structures, attribute) for attribute in ("lattice", "cell")
    )
    return [structures] if single else structures


def _crystals_of(structure: Any, name: str) -> Iterator[Crystal | Rejected]:
    if isinstance(structure, str | os.PathLike):
        yield from read_structures([Path(structure)])
        return
    try:
        yield as_crystal(structure, getattr(structure, "name", "") or name)
    except StructureError as error:
        yield Rejected(name, str(error))


def _refuse(rows: Iterable[Any], index: int | None = None) -> None:
    for position, row in enumerate(rows):
        if isinstance(row, Rejected):
            label = f"structure {position if index is None else index}:"
            raise StructureError(row.reason if row.reason.startswith(label) else f"{label} {row.reason}")


def _device(name: str) -> torch.device:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"Device '{name}' is unknown; use cpu, cuda or cuda:0.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"Device '{name}' is not available: PyTorch sees {torch.cuda.device_count()} CUDA devices; use cpu."
        )
    return device

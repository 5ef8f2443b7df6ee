"""A trained model as a user meets it: structures in, values with units or vectors out.

Shapes: A atoms, C crystals, N atoms of one crystal, T targets, M members, D width of an atom vector. Lengths in
Angstrom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.checkpoint import Checkpoint
from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError, CheckpointError, ConfigError
from crystalformers.html import html_table
from crystalformers.images import CrystalBatch
from crystalformers.models import CrystalModel
from crystalformers.prediction.batching import Advance, Budget, no_progress
from crystalformers.prediction.domain import Domain
from crystalformers.prediction.forward import ImageSettings, Outputs, outputs_of_batch
from crystalformers.prediction.intervals import COVERAGE, Calibration
from crystalformers.prediction.predictor import Estimates, Predictor, collect
from crystalformers.prediction.progress import progress_bar
from crystalformers.prediction.reference import FLAG_PERCENTILE, Reference
from crystalformers.target import Target

Vectors = NDArray[np.float32]

IMAGES_PER_BATCH = 400_000
"""Expected images of one batch, which bounds its memory (about 1 GB); a larger crystal is a batch of its own."""


class Model(Predictor):
    """A trained model with its targets; made by `load_model`.

    Attributes:
        name: bundled name, or the file or run folder it was loaded from.
        fingerprint: SHA-256 of the weight file.
        targets: what it predicts.
        units: unit of each target, by its name.
        card: how the model was made, and its measured errors.
        arrays: of the weight file, what it knows of its training data besides the card.
        domain: what its training crystals were like.
        reference: where they lie in the space of its vectors; None if that is not known.
        calibration: how far predictions were off for rows that the model had not seen, of the targets for which that
            is known.
        radius: distance up to which images are taken into account (Angstrom); follows from `tolerance`.
        directions: whether the network uses directions besides distances.
        dim: width D of the vectors of `embed`.
        budget: images in a batch; shrinks where memory does not suffice.
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
        if not isinstance(tolerance, int | float) or not 0 < tolerance < 1:
            raise ConfigError(f"{tolerance!r} does not lie between 0 and 1", where="tolerance", remedy="use 1e-7")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ConfigError(f"{dtype!r} is not a floating-point type", where="dtype", remedy="use torch.float32")
        self.name, self.fingerprint = name, fingerprint
        self.targets: tuple[Target, ...] = tuple(checkpoint.targets)
        self.units = {target.name: target.unit for target in self.targets}
        self.card: dict[str, Any] = checkpoint.card
        self.arrays = dict(checkpoint.arrays)
        self.device, self.dtype, self.tolerance = _device(device), dtype, tolerance
        self.network: CrystalModel = checkpoint.model.to(self.device, dtype).eval()
        self.domain = Domain.from_card(self.card)
        self.reference = Reference.from_arrays(self.arrays, len(self.network.members))
        self.calibration = Calibration.from_card(self.card)
        if self.reference is None and any(one.scale == "distance" for one in self.calibration.values()):
            raise CheckpointError("the intervals follow a distance that the file does not hold", where=name)
        self.radius = self.network.radius(tolerance)
        self.directions = self.network.needs_directions
        self.dim = self.network.dim
        self.budget = Budget(IMAGES_PER_BATCH)

    def __repr__(self) -> str:
        targets = ", ".join(f"{target.name} ({target.unit})" for target in self.targets)
        return f"Model({self.name}: {targets})"

    def _repr_html_(self) -> str:
        """What a notebook shows: targets, units, test errors, intervals."""
        measured = self.card.get("errors", {}).get("test", {})
        rows = []
        for target in self.targets:
            mae = measured.get(target.name, {}).get("mae")
            interval = "yes" if target.name in self.calibration else "no"
            rows.append((target.name, target.unit, target.basis, "-" if mae is None else f"{mae:.4g}", interval))
        about = [
            f"{len(self.network.members)} members" if len(self.network.members) > 1 else "",
            _training_data(self.card),
        ]
        header = ("property", "unit", "basis", "test error (MAE)", "intervals")
        return html_table(self.name, "; ".join(filter(None, about)), header, rows)

    @overload
    def embed(self, structures: Any, *, per_atom: Literal[False] = False, progress: bool = False) -> Vectors: ...
    @overload
    def embed(self, structures: Any, *, per_atom: Literal[True], progress: bool = False) -> list[Vectors]: ...
    def embed(self, structures: Any, *, per_atom: bool = False, progress: bool = False) -> Vectors | list[Vectors]:
        """Vectors of the structures, as the network computes them before its property head.

        Args:
            structures: as of `predict`.
            per_atom: one vector per atom instead of one per crystal.
            progress: show a bar, in a terminal or a notebook.

        Returns:
            float32 array (C, D), the mean over the atoms of each crystal; with `per_atom` a list of (N, D).

        Raises:
            StructureError: naming the index of the structure that cannot be used.
        """
        crystals = [row for row in collect(structures, "raise") if isinstance(row, Crystal)]
        with progress_bar(len(crystals), shown=progress) as advance:
            vectors = self.atom_vectors(crystals, advance)
        if per_atom:
            return vectors
        return np.array([atoms.mean(axis=0) for atoms in vectors], np.float32).reshape(-1, self.dim)

    def atom_vectors(self, crystals: Sequence[Crystal], advance: Advance = no_progress) -> list[Vectors]:
        """Vectors of the atoms of each crystal, arrays of shape (N, D), in the order given.

        Raises:
            BatchMemoryError: if a crystal does not fit into memory.
        """
        vectors: list[Vectors] = [np.empty((0, 0), np.float32)] * len(crystals)

        def encode(batch: CrystalBatch) -> Vectors:
            return self.network.encode(batch).float().cpu().numpy()

        for rows, atoms in self.image_settings.results(encode, crystals):
            assert atoms is not None
            ends = np.cumsum([len(crystals[row]) for row in rows])
            for row, part in zip(rows, np.split(atoms, ends[:-1]), strict=True):
                vectors[row] = part
            advance(len(rows))
        return vectors

    def values(
        self,
        crystals: Sequence[Crystal],
        advance: Advance = no_progress,
        failed: dict[int, BatchMemoryError] | None = None,
    ) -> NDArray[np.float64]:
        """Physical values, (C, T), in the order given; arguments as of `estimates`.

        Raises:
            BatchMemoryError: if a crystal does not fit into memory and `failed` is not given.
        """
        (found,) = network_outputs([self], crystals, advance, failed, vectors=False)
        return self.values_from(found, crystals)

    def values_from(self, found: Outputs, crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """The same from what the network has computed."""
        return self._physical(found.standardised.mean(-1), crystals)

    def estimates(
        self,
        crystals: Sequence[Crystal],
        advance: Advance = no_progress,
        failed: dict[int, BatchMemoryError] | None = None,
        coverage: float | None = None,
        flag_percentile: float = FLAG_PERCENTILE,
    ) -> Estimates:
        """As of `Predictor`; `std` is the standard deviation over the members of an ensemble."""
        levels = self.levels(coverage)
        (found,) = network_outputs([self], crystals, advance, failed)
        return self.estimates_from(found, crystals, levels, flag_percentile)

    def estimates_from(
        self, found: Outputs, crystals: Sequence[Crystal], levels: Mapping[str, float], flag_percentile: float
    ) -> Estimates:
        """The same from what the network has computed.

        Args:
            found: outputs for the crystals.
            crystals: the crystals.
            levels: coverage of the intervals of each target that has any.
            flag_percentile: as of `predict`.
        """
        members, mean = found.standardised, found.standardised.mean(-1)
        estimates = {"values": self.values_from(found, crystals)}
        if members.shape[-1] > 1:
            each = [self._physical(members[..., k], crystals) for k in range(members.shape[-1])]
            estimates["std"] = np.std(each, axis=0, ddof=1)
        distances = None
        if self.reference is not None:  # without any vectors no crystal fitted into memory
            distances = self.reference.distances(found.vectors) if found.vectors else np.full(len(crystals), np.nan)
        if levels:
            width = self._half_widths(members, distances, levels)
            estimates |= {"low": self._physical(mean - width, crystals), "high": self._physical(mean + width, crystals)}
        percentiles = None
        if self.reference is not None and distances is not None:
            percentiles = estimates["distance_percentile"] = self.reference.percentile(distances)
        flags = self.domain.flags(crystals, percentiles, flag_percentile, self.spreads(members))
        return {**estimates, "flag": np.array(flags, dtype=object)}

    def spreads(self, members: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """By target, the standard deviation over the members of an ensemble, (C,), of standardised values (C, T, M)."""
        if members.shape[-1] == 1:
            return {}
        return {target.name: np.std(members[:, k], axis=-1, ddof=1) for k, target in enumerate(self.targets)}

    def _half_widths(
        self, members: NDArray[np.float64], distances: NDArray[np.float64] | None, levels: Mapping[str, float]
    ) -> NDArray[np.float64]:
        """Half the widths of the intervals in standardised units, (C, T); NaN for a target without level."""
        widths = np.full(members.shape[:2], np.nan)
        for k, target in enumerate(self.targets):
            if target.name in levels:
                widths[:, k] = self.calibration[target.name].half_widths(
                    levels[target.name], scales(members[:, k], distances)
                )
        return widths

    def levels(self, coverage: float | None) -> dict[str, float]:
        """Coverage of the intervals of each target that has any.

        Args:
            coverage: as of `predict`.

        Raises:
            ConfigError: if it is given and the model has no intervals, or too few rows for it.
        """
        if coverage is None:
            return {name: COVERAGE for name, one in self.calibration.items() if one.allows(COVERAGE)}
        if not self.calibration:
            problem = f"{self.name} has no intervals"
            raise ConfigError(problem, where="coverage", remedy="train an ensemble, or leave out the coverage")
        for one in self.calibration.values():
            one.half_width(coverage)
        return dict.fromkeys(self.calibration, coverage)

    def doubt(self, coverage: float | None = None) -> dict[str, list[str]]:
        """As of `Predictor`."""
        std, levels = ["std"] if len(self.network.members) > 1 else [], self.levels(coverage)
        kinds = {name: [*std, *(["low", "high"] if name in levels else [])] for name in self.units}
        return {name: found for name, found in kinds.items() if found}

    @property
    def knows_distances(self) -> bool:
        """As of `Predictor`."""
        return self.reference is not None

    @property
    def image_settings(self) -> ImageSettings:
        """How the network wants its images."""
        return ImageSettings(self.radius, self.directions, self.device, self.dtype, self.budget)

    def _physical(self, standardised: NDArray[np.float64], crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """Physical values of standardised ones, both (C, T)."""
        n_atoms = np.array([len(crystal) for crystal in crystals])
        return np.stack(
            [target.physical(standardised[:, k], n_atoms) for k, target in enumerate(self.targets)], axis=-1
        )


def _training_data(card: dict[str, Any]) -> str:
    """Number and origin of the training crystals, as far as a card says it."""
    data = card.get("data") or {}
    rows = (data.get("rows") or {}).get("train")
    return "" if rows is None else f"{rows} training crystals, {data.get('name')}"


def scales(
    members: NDArray[np.float64], distances: NDArray[np.float64] | None
) -> dict[Literal["", "std", "distance"], NDArray[np.float64]]:
    """What the width of an interval may follow: the standard deviation over the members and the distance, both (C,).

    Args:
        members: standardised predictions of one target, (C, M).
        distances: to the training crystals, (C,), if they are known.
    """
    std = {"std": np.std(members, axis=-1, ddof=1)} if members.shape[-1] > 1 else {}
    return {**std, **({} if distances is None else {"distance": distances})}  # type: ignore[dict-item]


def network_outputs(
    models: Sequence[Model],
    crystals: Sequence[Crystal],
    advance: Advance = no_progress,
    failed: dict[int, BatchMemoryError] | None = None,
    *,
    vectors: bool | None = None,
) -> list[Outputs]:
    """What the networks of models compute for crystals; models with the same radius, type and device share the images.

    Args:
        models: one or more.
        crystals: what to compute.
        advance: called with the number of crystals in each batch that is done, by the last networks.
        failed: as of `Model.estimates`.
        vectors: whether to keep the vectors of the crystals; default: of models with a reference.

    Raises:
        BatchMemoryError: if a crystal does not fit into memory and `failed` is not given.
    """
    groups: dict[ImageSettings, list[int]] = {}
    for k, model in enumerate(models):
        groups.setdefault(model.image_settings, []).append(k)
    *_, last_group = groups.values()
    found = [Outputs.empty(len(crystals), len(m.targets), len(m.network.members)) for m in models]
    for settings, group in groups.items():

        def run(batch: CrystalBatch, group: Sequence[int] = group) -> list[Outputs]:
            wanted = [models[k].reference is not None if vectors is None else vectors for k in group]
            networks = [models[k].network.members for k in group]
            return [outputs_of_batch(own, batch, vectors=w) for own, w in zip(networks, wanted, strict=True)]

        for rows, results in settings.results(run, crystals, failed):
            if results is not None:
                for k, result in zip(group, results, strict=True):
                    found[k] = found[k].filled(rows, result)
            if group is last_group:
                advance(len(rows))
    return found


def _device(name: str) -> torch.device:
    name = str(name)  # a torch.device as well
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"'{name}' is unknown", where="device", remedy="use cpu, cuda or cuda:0")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        problem = f"'{name}' is not available: PyTorch sees {torch.cuda.device_count()} CUDA devices"
        raise ConfigError(problem, where="device", remedy="use cpu")
    return device

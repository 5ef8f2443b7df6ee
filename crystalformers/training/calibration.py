"""What a trained model can say of its doubt: distances to training crystals, intervals, and how often these hold.

Shapes: C crystals, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.plots import coverage_curve, save
from crystalformers.prediction.domain import SPREAD_PERCENTILE
from crystalformers.prediction.forward import Outputs
from crystalformers.prediction.intervals import COVERAGE, COVERAGES, Calibration, measure
from crystalformers.prediction.model import Model, network_outputs, scales
from crystalformers.prediction.reference import FLAG_PERCENTILE, MOST_VECTORS, Reference, count_for
from crystalformers.training.dataset import Dataset

if TYPE_CHECKING:
    from crystalformers.data.split import IntArray
    from crystalformers.data.table import CrystalTable

Measured = dict[str, list[dict[str, float | int]]]
"""By target, for each of `COVERAGES` that there are rows enough for: `coverage`, and what `intervals.measure` gives."""


def crystals_of(table: CrystalTable, rows: IntArray) -> list[Crystal]:
    """The crystals of some rows."""
    return [table[row] for row in rows.tolist()]


def learn_reference(
    model: Model, dataset: Dataset, seed: int, most: int = MOST_VECTORS, which: Sequence[int] | None = None
) -> Outputs:
    """Give a model the reference of its training crystals; the validation rows are the held-out ones.

    Args:
        model: trained; all members of an ensemble on the same rows.
        dataset: what it was trained on.
        seed: of the choice of training crystals.
        most: most reference crystals of all members together.
        which: members that get reference crystals, from 0; default: all.

    Returns:
        Outputs for the validation rows.
    """
    count = count_for(len(model.network.members if which is None else which), most)
    train = np.random.default_rng(seed).permutation(dataset.splits["train"])[:count]
    parts = [crystals_of(dataset.table, rows) for rows in (train, dataset.splits["val"])]
    found, held_out = (network_outputs([model], crystals, vectors=True)[0] for crystals in parts)
    model.reference = Reference.of_members(found.vectors, held_out.vectors, which)
    return held_out


def learn_spread(model: Model, found: Outputs) -> None:
    """Give an ensemble the spread of its members that is still usual, so that a larger one has a flag.

    Args:
        model: an ensemble; one with a single member is left as it is.
        found: its outputs for crystals that no member has learned from.
    """
    spreads = model.spreads(found.standardised)
    if not spreads:
        return
    largest = {name: float(np.percentile(spread, SPREAD_PERCENTILE)) for name, spread in spreads.items()}
    model.domain = replace(model.domain, spread=largest)
    model.card["domain"] = model.domain.to_dict()


def learn_doubt(
    model: Model, dataset: Dataset, seed: int, most: int = MOST_VECTORS, which: Sequence[int] | None = None
) -> None:
    """Give a model all of this, from validation rows that neither trained nor chose any of its members.

    Args:
        model: trained; all members of an ensemble on the same rows.
        dataset: what it was trained on.
        seed: of the choice of training crystals and of the halves of the validation rows.
        most: as of `learn_reference`.
        which: as of `learn_reference`.
    """
    held_out = learn_reference(model, dataset, seed, most, which)
    learn_spread(model, held_out)
    calibrate(model, dataset, dataset.splits["val"], held_out, seed)


def calibrate(model: Model, dataset: Dataset, rows: IntArray, found: Outputs, seed: int) -> None:
    """Give a model intervals from rows that it was neither trained nor selected on (split conformal).

    Args:
        model: with its reference.
        dataset: the rows are of its table.
        rows: some of them.
        found: outputs for these rows.
        seed: of their halves.
    """
    assert model.reference is not None
    distances, n_atoms = model.reference.distances(found.vectors), dataset.table.n_atoms[rows]
    model.calibration = {}
    for k, target in enumerate(model.targets):
        members = found.standardised[:, k]
        residuals = members.mean(-1) - target.standardise(dataset.values[rows, k], n_atoms)
        calibration = Calibration.of(residuals, scales(members, distances), seed)
        if calibration.allows(COVERAGE):
            model.calibration[target.name] = calibration


def measured_coverage(model: Model, dataset: Dataset, rows: IntArray) -> Measured:
    """How often the intervals of a model hold the labels of test rows, and how wide they are.

    Args:
        model: with its intervals.
        dataset: the rows are of its table.
        rows: some of them, that nothing was learned from.
    """
    crystals, labels = crystals_of(dataset.table, rows), dataset.values[rows]
    known = [k for k, t in enumerate(model.targets) if t.name in model.calibration and not np.isnan(labels[:, k]).all()]
    measured: Measured = {model.targets[k].name: [] for k in known}
    if not known:
        return measured
    (found,) = network_outputs([model], crystals)
    for coverage in COVERAGES:
        levels = {name: coverage for name in measured if model.calibration[name].allows(coverage)}
        if levels:
            estimates = model.estimates_from(found, crystals, levels, FLAG_PERCENTILE)
            for k in known:
                if (name := model.targets[k].name) in levels:
                    share = measure(labels[:, k], estimates["low"][:, k], estimates["high"][:, k])
                    measured[name].append({"coverage": coverage, **share})
    return measured


def card_of(model: Model, measured: Measured, rows: str) -> dict[str, Any]:
    """What the card says of the intervals.

    Args:
        model: with its intervals.
        measured: on test rows.
        rows: what it was calibrated on, in words.
    """
    if not model.calibration:
        return {"calibration": {}}
    return {
        "calibration": {name: one.to_dict() for name, one in model.calibration.items()},
        "calibrated_on": rows,
        "coverage": measured,
    }


def describe_coverage(measured: Mapping[str, Sequence[Mapping[str, float | int]]], units: Mapping[str, str]) -> str:
    """The measured coverage of each target at `COVERAGE`, a line each."""
    return "\n".join(
        f"{name}: intervals of {one['coverage']:g} hold {one['measured']:.3f} of {one['n']} test labels, "
        f"mean width {one['mean_width']:.4g} {units[name]}"
        for name, each in measured.items()
        for one in each
        if one["coverage"] == COVERAGE
    )


def coverage_plot(path: Path, measured: Measured) -> None:
    """Measured against nominal coverage on test rows, with the standard error of a share; nothing without any."""
    if not any(measured.values()):
        return
    curves = {}
    for name, each in measured.items():
        nominal, share, count = (np.array([one[key] for one in each], float) for key in ("coverage", "measured", "n"))
        curves[name] = nominal, share, count
    save(coverage_curve(curves), path)


def arrays_of(model: Model) -> dict[str, NDArray[Any]]:
    """The arrays of the model's reference, for its weight file."""
    return {} if model.reference is None else dict(model.reference.to_arrays())

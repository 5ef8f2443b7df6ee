"""What the pages say of the bundled model is what its committed measurements say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crystalformers import load_model

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ENERGY, GAP = "formation_energy_per_atom", "band_gap"
UNITS = {ENERGY: "formation energy (eV/atom)", GAP: "band gap (eV)"}


def read(name: str) -> Any:
    """A file of results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


INSIDE, OUTSIDE, DOUBT = (read(name) for name in ("accuracy.json", "accuracy-outside.json", "accuracy/doubt.json"))
(INSIDE_MODEL,), (OUTSIDE_MODEL,) = INSIDE["models"], OUTSIDE["models"]
(ENSEMBLE_MODEL,), (ENERGY_MODEL,) = (
    read(f"accuracy/{name}.json")["models"] for name in ("ensemble", "formation-energy")
)
DOUBT_ENSEMBLE = read("accuracy/doubt-ensemble.json")


def by_target(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores by the name of their target."""
    return {score["target"]: score for score in scores}


def flagged(table: str, doubt: Any = DOUBT) -> dict[str, Any]:
    """Errors of formation energies without and with a flag, and the share of flags."""
    one = by_target(doubt["tables"][table]["by_flag"])[ENERGY]
    return {**one, "percent": 100 * one["n_outside"] / (one["n_inside"] + one["n_outside"])}


def held(table: str, target: str = ENERGY, doubt: Any = DOUBT) -> float:
    """Percentage of the labels in the 90 % intervals."""
    (one,) = [one for one in doubt["tables"][table]["coverage"][target] if one["coverage"] == 0.9]
    return 100 * float(one["measured"])


def sentences() -> list[tuple[str, str]]:
    """Pages, and what stands in them."""
    inside, outside = by_target(INSIDE_MODEL["scores"]), by_target(OUTSIDE_MODEL["scores"])
    like, other = (f"{found[ENERGY]['mae']:.3f} | {found[GAP]['mae']:.3f} |" for found in (inside, outside))
    like_units, other_units = (
        f"{found[ENERGY]['mae']:.3f} eV/atom and {found[GAP]['mae']:.3f} eV" for found in (inside, outside)
    )
    like_mean, other_mean = (
        f"{found[ENERGY]['baseline_mae']:.3f} and {found[GAP]['baseline_mae']:.3f}" for found in (inside, outside)
    )
    labels = OUTSIDE_MODEL["labels"]
    positive = {
        where: [100 * labels[where][target]["share_positive"] for target in (ENERGY, GAP)]
        for where in ("here", "training table")
    }
    too_low = -OUTSIDE_MODEL["mean_difference"][ENERGY]
    zero = labels["here"][GAP]["mean_absolute"]
    means = f"the training mean would give {like_mean} for the test split, {other_mean} for OQMD"
    ensemble, energy = (by_target(one["scores"]) for one in (ENSEMBLE_MODEL, ENERGY_MODEL))
    ensemble_units = f"{ensemble[ENERGY]['mae']:.3f} eV/atom and {ensemble[GAP]['mae']:.3f} eV"
    of_ensemble = f"1,119 | {ensemble[ENERGY]['mae']:.3f} | {ensemble[GAP]['mae']:.3f} |"
    of_energy = f"1,119 | {energy[ENERGY]['mae']:.3f} | |"
    ensemble_held = [held("like the training", target, DOUBT_ENSEMBLE) for target in (ENERGY, GAP)]
    of_test, of_other = flagged("like the training"), flagged("another database")
    moved = flagged("another database, labels moved")
    found = [
        ("README.md", f"| bundled, like its training: test split of the same table | 1,119 | {like}"),
        ("README.md", f"| bundled, unlike its training: A3BC compounds of OQMD | 11,264 | {other}"),
        ("README.md", f"| the same crystals, with `-m materials-project-ensemble` | {of_ensemble}"),
        ("README.md", f"| the same crystals, with `-m formation-energy` | {of_energy}"),
        ("docs/results.md", f"| the same crystals, `materials-project-ensemble` | {of_ensemble}"),
        ("docs/results.md", f"| the same crystals, `formation-energy` | {of_energy}"),
        (
            "docs/models.md",
            f"{ensemble_units}. Its 90 % intervals hold {ensemble_held[0]:.0f} and {ensemble_held[1]:.0f} % of them",
        ),
        ("docs/models.md", f"{energy[ENERGY]['mae']:.3f} eV/atom on the test crystals"),
        ("README.md", means),
        (
            "README.md",
            f"{positive['here'][0]:.0f} % of its compounds have a positive formation energy and "
            f"{positive['here'][1]:.0f} % a band gap, against {positive['training table'][0]:.0f} and "
            f"{positive['training table'][1]:.0f} % in the training table",
        ),
        ("README.md", f"energies are {too_low:.2f} eV/atom too low on average"),
        ("README.md", f"hardly better than always answering 0 ({zero:.3f})"),
        ("docs/results.md", f"| like its training: test split of the same table | 1,119 | {like}"),
        ("docs/results.md", f"| unlike its training: A3BC compounds of OQMD | 11,264 | {other}"),
        ("docs/results.md", means),
        (
            "docs/results.md",
            f"The 90 % intervals of formation energies hold {held('like the training'):.0f} % of the test crystals of "
            f"the same table, and {held('another database'):.0f} % of those of OQMD. Of the former "
            f"{of_test['percent']:.0f} % have a flag, with {of_test['ratio']:.1f} times the error of the others, of "
            f"the latter {of_other['percent']:.0f} %, with {of_other['ratio']:.1f} times the error, "
            f"{moved['ratio']:.1f} times once the labels have the same reference energies",
        ),
        ("docs/models.md", f"{like_units} on the test crystals; {other_units} on 11,264 crystals A₃BC of OQMD"),
        (
            "docs/index.md",
            f"{inside[ENERGY]['mae']:.3f} eV/atom in the formation energy and {inside[GAP]['mae']:.3f} eV in the gap; "
            f"on hypothetical compounds of OQMD it is {outside[ENERGY]['mae']:.3f} eV/atom and "
            f"{outside[GAP]['mae']:.3f} eV",
        ),
        ("docs/elements-results.md", f"{like_units} on the same test"),
        ("docs/reproduce.md", like_units),
        (
            "recipes/README.md",
            f"test: {inside[ENERGY]['mae']:.3f} eV/atom, {inside[GAP]['mae']:.3f} eV",
        ),
        ("benchmarks/README.md", f"On OQMD the predicted formation energies are {too_low:.2f} eV/atom too low"),
        ("benchmarks/README.md", f"always answering 0 would have an error of {zero:.3f} eV in band gaps"),
    ]
    for name, scores in (
        ("1,119 of the same table", inside),
        ("11,264 A3BC compounds of OQMD", outside),
        ("of those, 2,169 with a composition of the training", by_target(OUTSIDE_MODEL["composition_known"])),
        ("of those, 9,095 with a new composition", by_target(OUTSIDE_MODEL["composition_new"])),
    ):
        for label, target in ((name, ENERGY), ("", GAP)):
            numbers = (f"{scores[target][key]:.3f}" for key in ("mae", "rmse", "r2", "baseline_mae"))
            row = " ".join(f"| {label} | {UNITS[target]} | {' | '.join(numbers)} |".split())
            found.append(("benchmarks/README.md", row))
    for name, table in (
        ("test crystals of mp36k", "like the training"),
        ("11,264 hypothetical crystals of OQMD", "another database"),
        ("the same, labels moved", "another database, labels moved"),
        ("both", "both"),
        ("both, labels moved", "both, labels moved"),
    ):
        cells = []
        for doubt in (DOUBT, DOUBT_ENSEMBLE):
            one = flagged(table, doubt)
            cells.append(f"{one['percent']:.0f} % | {one['mae_inside']:.3f} | {one['mae_outside']:.3f}")
            cells[-1] += f" | {one['ratio']:.1f}"
        found.append(("docs/uncertainty.md", f"| {name} | {' | '.join(cells)} |"))
    for threshold in DOUBT["thresholds"]:
        cells = [f"{threshold['flag_percentile']:.0f}"]
        for table in ("like the training", "another database, labels moved"):
            one = flagged(table, threshold)
            cells.append(f"{one['percent']:.0f} % | {one['ratio']:.1f}")
        cells.append(f"{flagged('both, labels moved', threshold)['ratio']:.1f}")
        found.append(("docs/uncertainty.md", f"| {' | '.join(cells)} |"))
    return found


@pytest.mark.parametrize(("page", "words"), sentences())
def test_a_page_says_what_was_measured(page: str, words: str) -> None:
    assert words in " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_the_bundled_model_is_the_measured_one() -> None:
    fingerprint = load_model().fingerprint
    assert {one["sha256"] for one in (INSIDE_MODEL, OUTSIDE_MODEL, DOUBT)} == {fingerprint}
    fingerprint = load_model("materials-project-ensemble").fingerprint
    assert {one["sha256"] for one in (ENSEMBLE_MODEL, DOUBT_ENSEMBLE)} == {fingerprint}
    assert ENERGY_MODEL["sha256"] == load_model("formation-energy").fingerprint

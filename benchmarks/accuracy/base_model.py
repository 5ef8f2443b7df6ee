"""Base models: what mp36k tells about its crystals learned at once, to start small trainings from.

    python -m benchmarks.accuracy.base_model NAME      # train one entry of base_model.yaml, or go on with it

Runs are in runs/base-model; `benchmarks.accuracy.fine_tuning` compares them by what they are worth to small tables.
The labels of the moduli are left out for every composition that mp_binary_elasticity has, whose rows are tests of
transfer, and so are those that are not positive. An entry with `unlabelled` learns from crystals without any DFT label
too: they are stretched or compressed alike in all directions, and the model learns by how much.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.harness import ROOT, recipe_of, shared
from crystalformers import Target, fit, open_table

RUNS = ROOT / "runs" / "base-model"
SETTINGS = Path(__file__).with_suffix(".yaml")

LARGEST_STRAIN = 0.05
"""Lengths of unlabelled crystals are changed by up to this share."""

MOST_ATOMS = 60
"""Of larger unlabelled crystals training would take long."""


def composition(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Reduced composition: atomic numbers with their smallest whole counts."""
    kinds, counts = np.unique(numbers, return_counts=True)
    return tuple(zip(kinds.tolist(), (counts // np.gcd.reduce(counts)).tolist(), strict=True))


def write_table(path: Path, entry: dict[str, Any]) -> None:
    """mp36k with labels per atom, and without the moduli of compositions that tests of transfer have.

    Args:
        path: of the table.
        entry: of the settings; its `unlabelled` is a table of crystals that get `strained` and are added.
    """
    table = pq.read_table(shared() / "data" / "mp36k.parquet")
    binaries = pq.read_table(shared() / "data" / "mp_binary_elasticity.parquet", columns=["atomic_numbers"])
    tested = {composition(numbers) for numbers in binaries["atomic_numbers"].to_pylist()}
    left_out = np.array([composition(numbers) in tested for numbers in table["atomic_numbers"].to_pylist()])
    atoms = table["n_atoms"].to_numpy()

    def labels(name: str) -> Any:
        return table[name].to_numpy(zero_copy_only=False).astype(float)

    columns = {
        "formation_energy_per_atom": labels("formation_energy_per_atom"),
        "band_gap": labels("band_gap"),
        "fermi_energy": labels("e_fermi"),
        "volume_per_atom": labels("volume") / atoms,
        "magnetisation_per_atom": labels("magn_raw") / atoms,
    }
    for name in ("bulk_modulus", "shear_modulus"):
        values = labels(name)
        columns[name] = np.where(left_out | ~(values > 0), np.nan, values)
    plain = table.select(["id", "atomic_numbers", "lattice", "frac_coords", "split"])
    for name, values in columns.items():
        plain = plain.append_column(name, pa.array(values, from_pandas=True))
    if "unlabelled" in entry:
        unlabelled = strained(entry["unlabelled"], set(table["id"].to_pylist()), tested)
        plain = pa.concat_tables([plain, unlabelled], promote_options="default")
    pq.write_table(plain, path)


def strained(name: str, labelled: set[str], tested: set[tuple[tuple[int, int], ...]]) -> pa.Table:
    """Crystals of a table without labels, at other volumes: `strain` is the logarithm of how much larger they are.

    Args:
        name: of the table.
        labelled: ids that are left out; so are crystals with more than `MOST_ATOMS`.
        tested: compositions that are left out.
    """
    table = pq.read_table(shared() / "data" / f"{name}.parquet").rename_columns({"material_id": "id"})
    rows = zip(table["id"].to_pylist(), table["atomic_numbers"].to_pylist(), strict=True)
    suitable = np.array([one not in labelled and composition(numbers) not in tested for one, numbers in rows])
    table = table.filter(pa.array(suitable & (table["n_atoms"].to_numpy() <= MOST_ATOMS)))
    lengths = 1 + np.random.default_rng(0).uniform(-LARGEST_STRAIN, LARGEST_STRAIN, len(table))
    lattices = np.stack(table["lattice"].to_numpy()).reshape(len(table), -1) * lengths[:, None]
    splits = np.random.default_rng(1).choice(["train", "val", "test"], len(table), p=[0.92, 0.04, 0.04])
    columns = table.select(["id", "atomic_numbers", "frac_coords"])
    columns = columns.append_column("lattice", pa.array(lattices.tolist(), table.schema.field("lattice").type))
    columns = columns.append_column("split", pa.array(splits.tolist(), pa.large_string()))
    return columns.append_column("strain", pa.array(3 * np.log(lengths)))


def train_entry(
    settings: Path, runs: Path, about: str | None, write: Callable[[Path, dict[str, Any]], None]
) -> tuple[str, dict[str, Any]]:
    """Train the entry of a file of settings that the command line names, or go on with it.

    Args:
        settings: YAML file with `models`: targets and recipe of each. The file of its table has the name of the entry,
            or the one under `file`, of the entry or of all.
        runs: folder for tables and runs.
        about: text of the help page.
        write: writes the table of an entry.

    Returns:
        The name of the entry, and the entry.
    """
    known = yaml.safe_load(settings.read_text(encoding="utf-8"))
    models = known["models"]
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=models)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    entry = models[given.name]
    path = runs / f"{entry.get('file', known.get('file', given.name))}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, entry)
    recipe = recipe_of({**entry["recipe"], "threads": given.threads})
    fit(open_table(path), [Target(**target) for target in entry["targets"]], runs / given.name, recipe, resume=True)
    return given.name, entry


if __name__ == "__main__":
    train_entry(SETTINGS, RUNS, __doc__, write_table)

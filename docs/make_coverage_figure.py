"""Draw docs/coverage.png: how often the intervals of fine-tuned models hold, on rows that they never met.

python -m docs.make_coverage_figure
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.accuracy.fine_tuned_intervals import measured
from crystalformers.plots import coverage_curve, save

ROOT = Path(__file__).parents[1]
CONTENDER = "flagship-seven"
"""Of `benchmarks/accuracy/fine_tuning.yaml`: whose runs have most seeds."""


def main() -> None:
    """Mean over the tables and seeds of a size, at the coverages that its validation rows are enough for."""
    runs, curves = measured(CONTENDER), {}
    for size in sorted({row["size"] for row in runs}):
        own = [{one["coverage"]: one for one in row["coverage"]} for row in runs if row["size"] == size]
        levels = sorted(set.intersection(*(set(one) for one in own)))
        shares = [np.mean([one[level]["measured"] for one in own]) for level in levels]
        rows = [sum(one[level]["n"] for one in own) for level in levels]
        curves[f"{size:,} rows, {len(own)} models"] = (np.array(levels), np.array(shares), np.array(rows))
    figure = coverage_curve(curves)
    figure.axes[0].set_ylabel("measured coverage")
    save(figure, ROOT / "docs" / "coverage.png")


if __name__ == "__main__":
    main()

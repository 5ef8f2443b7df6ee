"""Draw docs/coverage.png: how often the intervals of fine-tuned models hold, on test rows of four small tables.

python -m docs.make_coverage_figure
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.accuracy.fine_tuning import results
from crystalformers.plots import coverage_curve, save

ROOT = Path(__file__).parents[1]
CONTENDER = "tuned"


def main() -> None:
    """Mean over the runs of a table; a level is drawn where all of its runs have enough rows for it."""
    runs = [row for row in results("test") if row["contender"] == CONTENDER]
    curves = {}
    for task in dict.fromkeys(row["task"] for row in runs):
        own = [{one["coverage"]: one for one in row["coverage"]} for row in runs if row["task"] == task]
        levels = sorted(set.intersection(*(set(one) for one in own)))
        measured = [np.mean([one[level]["measured"] for one in own]) for level in levels]
        rows = [sum(one[level]["n"] for one in own) for level in levels]
        curves[f"{task}, {len(own)} models"] = (np.array(levels), np.array(measured), np.array(rows))
    save(coverage_curve(curves), ROOT / "docs" / "coverage.png")


if __name__ == "__main__":
    main()

"""Draw docs/claims.png: how much more or less each variant errs than a Crystalformer with the same seed.

python -m docs.make_claims_figure
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.accuracy.claims import Comparison, paired_changes
from crystalformers.plots import plot_style, save
from crystalformers.plots.style import INK, OTHER_COLOUR, RULE

ROOT = Path(__file__).parents[1]


def main() -> None:
    """One panel a target: a dot for each seed, a bar for their mean."""
    comparison = Comparison("claims-adamw")
    done = comparison.rows()
    measured = {row["contender"] for row in done} - {comparison.contenders[0]}
    names = [name for name in comparison.contenders if name in measured]
    targets = [target["name"] for target in comparison.targets]
    with plot_style():
        figure = Figure(figsize=(8, 1.3 + 0.38 * len(names)), layout="constrained")
        for panel, target in zip(figure.subplots(1, len(targets), sharey=True), targets, strict=True):
            for place, name in enumerate(names):
                changes = paired_changes(done, name, target)
                panel.scatter(changes, [place] * len(changes), s=18, color=OTHER_COLOUR, zorder=2)
                panel.plot([np.mean(changes)] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1.5)
            panel.axvline(0, color=RULE, linewidth=0.8)
            panel.set(title=target.replace("_", " "), xlabel="change of the test error (%)")
            panel.set_yticks(range(len(names)), names)
            panel.set_ylim(len(names) - 0.5, -0.5)
        save(figure, ROOT / "docs" / "claims.png")


if __name__ == "__main__":
    main()

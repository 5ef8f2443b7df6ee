"""Training: from a table with labels to a folder with weights; `loop.py` has the loop itself."""

from crystalformers.training.ensemble import fit_ensemble
from crystalformers.training.fit import fit
from crystalformers.training.interruption import TrainingInterrupted
from crystalformers.training.joining import join_runs
from crystalformers.training.learning_curve import fit_learning_curve
from crystalformers.training.observer import NotebookBar, Observer
from crystalformers.training.recipe import Recipe

__all__ = [
    "NotebookBar",
    "Observer",
    "Recipe",
    "TrainingInterrupted",
    "fit",
    "fit_ensemble",
    "fit_learning_curve",
    "join_runs",
]

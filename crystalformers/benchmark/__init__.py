"""Errors by the folds of a benchmark: every row predicted by models that never saw it."""

from crystalformers.benchmark.folds import FoldResults, Folds, run_folds
from crystalformers.benchmark.matbench import write_matbench

__all__ = ["FoldResults", "Folds", "run_folds", "write_matbench"]

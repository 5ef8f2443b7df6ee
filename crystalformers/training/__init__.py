"""Training: a thin layer of Lightning around models that know nothing of it."""

from crystalformers.training.fit import fit
from crystalformers.training.recipe import Recipe

__all__ = ["Recipe", "fit"]

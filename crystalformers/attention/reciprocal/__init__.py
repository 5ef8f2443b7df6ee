"""Attention whose Gaussian lattice sums run in reciprocal space (Crystalformer, appendix D)."""

from crystalformers.attention.reciprocal.pair_attention import attention, pair_weights

__all__ = ["attention", "pair_weights"]

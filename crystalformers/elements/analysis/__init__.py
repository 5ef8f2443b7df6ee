"""What element vectors contain: families of elements, probes of properties, and comparisons between tables.

A family of elements is a cluster of their vectors. Everything is computed in the space of the vectors, not in a
two-dimensional map of it, and compared with chance: with random draws from a null model. Shapes: E elements, D
dimensions, K numbers of families, P properties, N draws. Needs scikit-learn: `pip install crystalformers[elements]`.
"""

from __future__ import annotations

"""What the vectors of elements know: families, probes of properties, comparison of tables.

Everything is computed in the full space, never on a picture of it, and next to what chance gives. Shapes: E elements,
D dimensions, K clusters, P properties, N draws of a null. Needs scikit-learn: `pip install crystalformers[elements]`.
"""

from __future__ import annotations

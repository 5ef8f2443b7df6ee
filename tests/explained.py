"""Small models of every variant, with random weights, for the tests of `explain`."""

from __future__ import annotations

import torch
from samples import ENERGY

from crystalformers.checkpoint import Checkpoint
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig
from crystalformers.prediction.model import Model

VARIANTS = {
    "real": {},
    "reciprocal": {"space": "reciprocal"},
    "dual": {"space": "dual"},
    "alternating": {"space": "alternating"},
    "max": {"frame": "max"},
    "weighted-pca": {"frame": "weighted-pca"},
    "static-local": {"frame": "static-local"},
    "lattice": {"frame": "lattice"},
    "pca": {"frame": "pca"},
    "dual max": {"space": "dual", "frame": "max"},
}
TABLE_COLUMNS = (
    "atom,symbol,block,head,space,sigma (Å),source,source_symbol,n1,n2,n3,x (Å),y (Å),z (Å),distance (Å),weight"
)


def model_of(variant: str) -> Model:
    torch.manual_seed(4)
    settings = {"dim": 16, "heads": 4, "blocks": 2, "feedforward": 16, "radial_functions": 8, "angular_functions": 8}
    network = Crystalformer(CrystalformerConfig(**settings, angular_width=1.0, **VARIANTS[variant]))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)
    return Model(Checkpoint(network, (ENERGY,), {}), variant, "", tolerance=1e-4, dtype=torch.float64)

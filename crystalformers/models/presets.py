"""The models of the papers, by the names of the papers.

>>> preset("crystalframer-lightweight").angular_functions
16
"""

from __future__ import annotations

import difflib
from typing import Any

from crystalformers.errors import ConfigError
from crystalformers.models.crystalformer import CrystalformerConfig
from crystalformers.models.crystaltransformer import CrystalTransformerConfig

PRESETS: dict[str, CrystalformerConfig | CrystalTransformerConfig] = {
    # Crystalformer: infinitely connected attention for periodic structure encoding (ICLR 2024).
    # The model of the main tables: four blocks, distances only.
    "crystalformer": CrystalformerConfig(),
    # The ablation without value position encoding; one-atom cells look the same to it whatever their lattice.
    "crystalformer-simplified": CrystalformerConfig(radial_functions=0),
    # Seven blocks, the larger model of the appendix.
    "crystalformer-7": CrystalformerConfig(blocks=7),
    # Eight blocks, the distance-only baseline of CrystalFramer on OQMD.
    "crystalformer-8": CrystalformerConfig(blocks=8),
    # Half the heads of every block sum in real, half in reciprocal space; the real ones carry value encoding.
    "crystalformer-dual-space": CrystalformerConfig(space="dual"),
    # All heads sum in reciprocal space, which has no value encoding.
    "crystalformer-reciprocal": CrystalformerConfig(space="reciprocal", radial_functions=0),
    # Blocks sum in real and reciprocal space by turns, real first.
    "crystalformer-alternating": CrystalformerConfig(space="alternating"),
    #
    # CrystalFramer: rethinking the role of frames for SE(3)-invariant crystal structure modeling (ICLR 2025).
    # Directions in dynamic max frames, the headline method.
    "crystalframer": CrystalformerConfig(frame="max"),
    # Max frames with 16 instead of 64 angular functions.
    "crystalframer-lightweight": CrystalformerConfig(
        frame="max", angular_functions=16, angular_width=1.0, distance_coefficient=1.5, angle_coefficient=6.0
    ),
    # Dynamic frames from the second moment of the directions, weighted by attention.
    "crystalframer-weighted-pca": CrystalformerConfig(frame="weighted-pca"),
    # The baseline with frames from the nearest neighbours of each atom.
    "crystalframer-static-local": CrystalformerConfig(frame="static-local"),
    # The baseline with frames from the principal axes of the primitive cell.
    "crystalframer-pca": CrystalformerConfig(frame="pca"),
    # The baseline with frames from the shortest lattice vectors.
    "crystalframer-lattice": CrystalformerConfig(frame="lattice"),
    # Max frames with eight blocks, for OQMD.
    "crystalframer-8": CrystalformerConfig(frame="max", blocks=8),
    #
    # CrystalTransformer: transformer-generated atomic embeddings (Jin et al., Nature Communications 2025).
    # A table of elements trained through periodic attention; our default for universal element vectors.
    "crystaltransformer": CrystalTransformerConfig(),
    # The same without any geometry: the control that tells what coordinates add to a table.
    "crystaltransformer-composition": CrystalTransformerConfig(variant="composition"),
    # As published: Cartesian coordinates, no lattice, the first atom read. Not invariant; for comparison.
    "crystaltransformer-published": CrystalTransformerConfig(
        variant="published", dim=256, blocks=8, dropout=0.1, head="published"
    ),
}
"""The settings of each published model, for one target."""

FRAME_SETTINGS = ("frame", "frame_blocks", "angular_functions", "angular_width", "angle_coefficient", "tie_width")
"""Settings that make a CrystalFramer of a Crystalformer."""


def preset(name: str) -> CrystalformerConfig | CrystalTransformerConfig:
    """The settings of a published model.

    Raises:
        ConfigError: if there is no such preset; the nearest name is suggested.
    """
    if isinstance(name, str) and name in PRESETS:  # a recipe may say anything
        return PRESETS[name]
    close = difflib.get_close_matches(str(name), PRESETS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(PRESETS)}."
    raise ConfigError(f"Unknown preset '{name}'; {hint}")


def frames_of(name: str) -> dict[str, Any]:
    """The settings of a preset's frames, without those of the rest of the model.

    Raises:
        ConfigError: if there is no such preset, or it has no frames.
    """
    settings = preset(name)
    if not isinstance(settings, CrystalformerConfig) or settings.frame is None:
        raise ConfigError(f"The preset '{name}' has no frames.")
    return {setting: getattr(settings, setting) for setting in FRAME_SETTINGS}

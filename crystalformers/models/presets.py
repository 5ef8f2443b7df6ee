"""The models of the papers, by the names of the papers.

>>> preset("crystalframer-lightweight").angular_functions
16
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from crystalformers.errors import ConfigError
from crystalformers.models.crystalformer import CrystalformerConfig
from crystalformers.models.crystaltransformer import CrystalTransformerConfig

CRYSTALFORMER = "Crystalformer: infinitely connected attention for periodic structure encoding (ICLR 2024)"
CRYSTALFRAMER = "Rethinking the role of frames for SE(3)-invariant crystal structure modeling (ICLR 2025)"
CRYSTALTRANSFORMER = "Transformer-generated atomic embeddings (Jin et al., Nature Communications 2025)"


@dataclass(frozen=True)
class Preset:
    """A published model.

    Attributes:
        architecture: its name in `crystalformers.models.MODELS`.
        config: its settings, for one target.
        paper: where it was published.
        parameters: trainable numbers for one target. The authors count three frozen ones per block more (two width
            statistics, which are no parameters here, and one that is never used), and for spaces other than `real`
            also the value encoding that they allocate for reciprocal heads but never use.
        about: what it is, in one sentence.
    """

    architecture: str
    config: CrystalformerConfig | CrystalTransformerConfig
    paper: str
    parameters: int
    about: str


PRESETS: dict[str, Preset] = {
    "crystalformer": Preset(
        "crystalformer",
        CrystalformerConfig(),
        CRYSTALFORMER,
        853_505,
        "The model of the main tables: four blocks, distances only.",
    ),
    "crystalformer-simplified": Preset(
        "crystalformer",
        CrystalformerConfig(radial_functions=0),
        CRYSTALFORMER,
        820_737,
        "The ablation without value position encoding; one-atom cells look the same to it whatever their lattice.",
    ),
    "crystalformer-7": Preset(
        "crystalformer",
        CrystalformerConfig(blocks=7),
        CRYSTALFORMER,
        1_471_745,
        "Seven blocks, the larger model of the appendix.",
    ),
    "crystalformer-8": Preset(
        "crystalformer",
        CrystalformerConfig(blocks=8),
        CRYSTALFRAMER,
        1_677_825,
        "Eight blocks, the distance-only baseline on OQMD.",
    ),
    "crystalformer-dual-space": Preset(
        "crystalformer",
        CrystalformerConfig(space="dual"),
        CRYSTALFORMER,
        837_121,
        "Half the heads of every block sum in real, half in reciprocal space; the real ones carry value encoding.",
    ),
    "crystalformer-reciprocal": Preset(
        "crystalformer",
        CrystalformerConfig(space="reciprocal", radial_functions=0),
        CRYSTALFORMER,
        820_737,
        "All heads sum in reciprocal space, which has no value encoding.",
    ),
    "crystalformer-alternating": Preset(
        "crystalformer",
        CrystalformerConfig(space="alternating"),
        CRYSTALFORMER,
        837_121,
        "Blocks sum in real and reciprocal space by turns, real first.",
    ),
    "crystalframer": Preset(
        "crystalformer",
        CrystalformerConfig(frame="max"),
        CRYSTALFRAMER,
        951_809,
        "Directions in dynamic max frames, the headline method.",
    ),
    "crystalframer-lightweight": Preset(
        "crystalformer",
        CrystalformerConfig(
            frame="max", angular_functions=16, angular_width=1.0, distance_coefficient=1.5, angle_coefficient=6.0
        ),
        CRYSTALFRAMER,
        878_081,
        "Max frames with 16 instead of 64 angular functions.",
    ),
    "crystalframer-weighted-pca": Preset(
        "crystalformer",
        CrystalformerConfig(frame="weighted-pca"),
        CRYSTALFRAMER,
        951_809,
        "Dynamic frames from the second moment of the directions, weighted by attention.",
    ),
    "crystalframer-static-local": Preset(
        "crystalformer",
        CrystalformerConfig(frame="static-local"),
        CRYSTALFRAMER,
        951_809,
        "The baseline with frames from the nearest neighbours of each atom.",
    ),
    "crystalframer-pca": Preset(
        "crystalformer",
        CrystalformerConfig(frame="pca"),
        CRYSTALFRAMER,
        951_809,
        "The baseline with frames from the principal axes of the primitive cell.",
    ),
    "crystalframer-lattice": Preset(
        "crystalformer",
        CrystalformerConfig(frame="lattice"),
        CRYSTALFRAMER,
        951_809,
        "The baseline with frames from the shortest lattice vectors.",
    ),
    "crystalframer-8": Preset(
        "crystalformer",
        CrystalformerConfig(frame="max", blocks=8),
        CRYSTALFRAMER,
        1_874_433,
        "Max frames with eight blocks, for OQMD.",
    ),
    "crystaltransformer": Preset(
        "crystaltransformer",
        CrystalTransformerConfig(),
        CRYSTALTRANSFORMER,
        853_889,
        "A table of elements trained through periodic attention; our default for universal element vectors.",
    ),
    "crystaltransformer-composition": Preset(
        "crystaltransformer",
        CrystalTransformerConfig(variant="composition"),
        CRYSTALTRANSFORMER,
        820_609,
        "The same without any geometry: the control that tells what coordinates add to a table.",
    ),
    "crystaltransformer-published": Preset(
        "crystaltransformer",
        CrystalTransformerConfig(variant="published", dim=256, blocks=8, dropout=0.1, head="published"),
        CRYSTALTRANSFORMER,
        4_263_297,
        "As published: Cartesian coordinates, no lattice, the first atom read. Not invariant; for comparison.",
    ),
}


def preset(name: str) -> CrystalformerConfig | CrystalTransformerConfig:
    """The settings of a published model; raises ConfigError as `find_preset` does."""
    return find_preset(name).config


def find_preset(name: str) -> Preset:
    """A published model.

    Raises:
        ConfigError: if there is no such preset; the nearest name is suggested.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(str(name), PRESETS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(PRESETS)}."
    raise ConfigError(f"Unknown preset '{name}'; {hint}")

"""The one data structure that every attention backend reads: a batch of crystals with the images of its atoms."""

from crystalformers.images.batch import ENVELOPE_WIDTH, CrystalBatch, Images, envelope, length, smooth_step
from crystalformers.images.build import (
    build_images,
    radius_for,
    radius_of_tail,
    tail,
    tolerance_of,
    with_images,
)
from crystalformers.images.enumeration import pointers

__all__ = [
    "ENVELOPE_WIDTH",
    "CrystalBatch",
    "Images",
    "build_images",
    "envelope",
    "length",
    "pointers",
    "radius_for",
    "radius_of_tail",
    "smooth_step",
    "tail",
    "tolerance_of",
    "with_images",
]

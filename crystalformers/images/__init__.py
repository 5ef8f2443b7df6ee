"""The one data structure that every attention backend reads: a batch of crystals with the images of its atoms."""

from crystalformers.images.batch import ENVELOPE_WIDTH, CrystalBatch, Images, envelope, length
from crystalformers.images.build import build_images, radius_for, tail, tolerance_of, with_images

__all__ = [
    "ENVELOPE_WIDTH",
    "CrystalBatch",
    "Images",
    "build_images",
    "envelope",
    "length",
    "radius_for",
    "tail",
    "tolerance_of",
    "with_images",
]

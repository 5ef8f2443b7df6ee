"""Vectors of elements with planted families or without any, for the tests of `elements.analysis`."""

from __future__ import annotations

import numpy as np

from crystalformers.elements import ElementTable

SIZES = (14, 9, 11, 6)
TRUTH = np.repeat(np.arange(len(SIZES)), SIZES)


def planted(seed: int, noise: float = 0.25, dim: int = 24) -> np.ndarray:
    """Four clouds of elements around random centres; the same centres for every seed, in other coordinates."""
    centres = np.random.default_rng(7).normal(size=(len(SIZES), dim))
    random = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(random.normal(size=(dim, dim)))
    return (centres[TRUTH] + noise * random.normal(size=(len(TRUTH), dim))) @ turned


def cloud(seed: int, elements: int = 40, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(elements, dim)) * np.linspace(2, 1, dim)


def table(name: str, vectors: np.ndarray, numbers: np.ndarray | None = None) -> ElementTable:
    return ElementTable(name, np.arange(1, len(vectors) + 1) if numbers is None else numbers, vectors)

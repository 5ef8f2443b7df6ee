"""Measurements of speed and accuracy; run one as a module, for example `python -m benchmarks.speed.cpu`."""

import crystalformers  # noqa: F401 - before PyTorch, so that it may say how long idle threads spin

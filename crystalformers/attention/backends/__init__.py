"""The backends of infinitely connected attention: one function of the same arguments, computed in several ways.

A backend is a module with the two functions of `BackendModule`, and a line in `BACKENDS`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Protocol, cast

from torch import Tensor

from crystalformers.attention.arguments import Arguments
from crystalformers.attention.frames.encoding import AngularEncoding
from crystalformers.attention.geometry import Geometry
from crystalformers.errors import ConfigError

BACKENDS = {name: f"{__name__}.{name}" for name in ("reference", "torch", "cpu", "triton")}
"""The module of each backend by its name; it is imported when first used."""


class BackendModule(Protocol):
    """What the module of a backend defines."""

    def attention(self, arguments: Arguments) -> Tensor:
        """Attention over periodic images, (A, H, D), where `unsupported_reason` gives none.

        Values and gradients are those of the backend `reference`.
        """

    def unsupported_reason(self, q_AHD: Tensor, geometry: Geometry, angular: AngularEncoding | None) -> str | None:
        """Why these arguments cannot be computed, to follow "Attention backend 'name' "; None where they can."""


def load_backend(name: str) -> BackendModule:
    """The module of a backend.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in BACKENDS:
        raise ConfigError(f"Attention backend '{name}' is not one of {', '.join(['auto', *BACKENDS])}.")
    return cast("BackendModule", sys.modules[_imported(BACKENDS[name])])


def _imported(module: str) -> str:
    """Import a module by its name; `torch.compile` does not trace imports, so it sees the name alone."""
    import_module(module)
    return module


# All that the decorator `torch.compiler.assume_constant_result` does but import the compiler: two seconds and 200 MB.
_imported._dynamo_marked_constant = True  # type: ignore[attr-defined]

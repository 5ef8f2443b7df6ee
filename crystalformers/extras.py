"""Optional packages: imported where they are used, with an error that names the extra that brings them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util

from crystalformers.errors import ConfigError, CrystalformersError


@contextmanager
def optional(extra: str, what: str, error: type[CrystalformersError] = ConfigError, where: str = "") -> Iterator[None]:
    """Import packages of an extra within the block; one that is missing becomes an error that says how to install it.

    Args:
        extra: of pyproject.toml.
        what: needs the package: the subject of the sentence.
        error: class of the error.
        where: file or address that it is about.
    """
    try:
        yield
    except ImportError as missing:
        package = (missing.name or "").partition(".")[0].replace("_", "-")
        if package in ("", "crystalformers"):
            raise
        remedy = f"pip install 'crystalformers[{extra}]'"
        raise error(f"{what} needs the package {package}", where=where, remedy=remedy) from missing


def require(extra: str, what: str, *modules: str) -> None:
    """Raise the ConfigError of `optional` if a package of an extra is missing, before anything is computed."""
    with optional(extra, what):
        for module in modules:
            if util.find_spec(module) is None:
                raise ModuleNotFoundError(name=module)

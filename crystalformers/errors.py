"""Errors that a user can act on: one sentence that names the file or row and the remedy."""


class CrystalformersError(Exception):
    """Base of every error this library raises on purpose; the command line prints it without a traceback."""


class StructureError(CrystalformersError, ValueError):
    """A structure cannot be used: disorder, unknown element, missing lattice, overlapping atoms, NaN."""


class TableError(CrystalformersError, ValueError):
    """A table cannot be used: missing column, wrong type, no rows."""


class TargetError(CrystalformersError, ValueError):
    """A target cannot be learned or a unit does not fit."""


class CheckpointError(CrystalformersError, ValueError):
    """A weight file cannot be used: truncated, of another architecture, unknown or missing tensors."""


class BatchMemoryError(CrystalformersError):
    """A batch does not fit into memory."""


class ConfigError(CrystalformersError, ValueError):
    """A setting is unknown, out of range or contradicts another."""

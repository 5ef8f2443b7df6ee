"""The equations of the papers as plainly as they can be written; every other backend is tested against them."""

from crystalformers.attention.backends.reference.backend import attention, unsupported_reason

__all__ = ["attention", "unsupported_reason"]

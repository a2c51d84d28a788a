"""The one exception that a converter ends with."""

from __future__ import annotations

__all__ = ["ConvertError"]


class ConvertError(Exception):
    """A file cannot be converted, or the result not be written; the text names what, and why."""

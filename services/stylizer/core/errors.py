"""Errors of the pure numerics, without any notion of transport."""

from __future__ import annotations

__all__ = ["CheckpointError", "LabelsUnmatched", "LookError", "ParameterError", "SolveCancelled"]


class ParameterError(ValueError):
    """A parameter has a value that cannot be used."""

    def __init__(self, field: str, value: object, limit: str) -> None:
        """``field`` names the parameter, ``limit`` says what is allowed."""
        super().__init__(f"{field}: got {value}, {limit}")
        self.field = field
        self.value = value
        self.limit = limit


class LabelsUnmatched(ParameterError):
    """The policy ``reject`` met a content label without a partner."""


class LookError(ParameterError):
    """Bytes that are not a look, or one of another version."""


class CheckpointError(ParameterError):
    """Bytes that are not a checkpoint, or one of another version or request."""


class SolveCancelled(Exception):
    """The caller asked the solver to stop; nothing of the result is wanted."""

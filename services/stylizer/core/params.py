"""Parameters of one transfer: the single source of every default and limit.

The proto's comments, the command line and the documentation repeat these defaults; tests compare them with this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from services.stylizer.core.errors import ParameterError

__all__ = ["CHOICES", "RANGES", "TransferParams"]

CHOICES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "mode": ("field", "paper"),
        "preserve": ("none", "luminance", "chroma"),
        "label_policy": ("merge", "global", "keep", "reject"),
    }
)

RANGES: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "strength": (0.0, 1.0),
        "content_weight": (0.0, 1e4),
        "style_weight": (0.0, 1e5),
        "affine_weight": (0.0, 1e8),
        "solve_edge_px": (64, 1024),
        "max_evaluations": (1, 1000),
        "time_budget_seconds": (0.0, 3600.0),
        "seed": (0, 2**63 - 1),
        "preview_every": (0, 1000),
    }
)

_UNAVAILABLE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"mode": ("paper",)})


@dataclass(frozen=True)
class TransferParams:
    """What a caller may choose. Field names are those of ``dpst.v1.TransferParams``.

    Raises:
        ParameterError: a value is outside its range, is not a number, or is not available in this version.
    """

    mode: str = "field"
    strength: float = 1.0
    label_strengths: Mapping[str, float] = field(default_factory=dict)
    preserve: str = "none"
    content_weight: float = 5.0
    style_weight: float = 100.0
    affine_weight: float = 1e4
    solve_edge_px: int = 256
    max_evaluations: int = 40
    time_budget_seconds: float = 0.0
    label_policy: str = "merge"
    seed: int = 0
    features: str = ""
    preview_every: int = 5

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ParameterError(name, value, f"must be one of {', '.join(choices)}")
            if value in _UNAVAILABLE.get(name, ()):
                available = [choice for choice in choices if choice not in _UNAVAILABLE[name]]
                raise ParameterError(name, value, f"not available in this version, use {', '.join(available)}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ParameterError(name, value, f"must be between {low:g} and {high:g}")
        for label, value in self.label_strengths.items():
            if not 0.0 <= value <= 1.0:
                raise ParameterError(f"label_strengths[{label}]", value, "must be between 0 and 1")

"""Parameters of one transfer: the single source of every default and limit.

The proto's comments, the command line and the documentation repeat these defaults; tests compare them with this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from services.stylizer.core.errors import ParameterError

__all__ = ["CHOICES", "PRESETS", "RANGES", "Preset", "TransferParams"]

CHOICES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "mode": ("field", "paper"),
        "quality": ("draft", "standard", "high"),
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
        "max_evaluations": (1, 4000),
        "time_budget_seconds": (0.0, 3600.0),
        "seed": (0, 2**63 - 1),
        "preview_every": (0, 1000),
    }
)


@dataclass(frozen=True)
class Preset:
    """What a ``quality`` stands for: the solve's long edge in pixels and its most network evaluations."""

    solve_edge_px: int
    max_evaluations: int


PRESETS: Final[Mapping[str, Mapping[str, Preset]]] = MappingProxyType(
    {
        "field": MappingProxyType({"draft": Preset(256, 20), "standard": Preset(512, 30), "high": Preset(700, 30)}),
        "paper": MappingProxyType(
            {"draft": Preset(256, 400), "standard": Preset(512, 1000), "high": Preset(700, 2000)}
        ),
    }
)
"""Presets by ``mode`` and ``quality``. The published method is ``paper`` at ``high``: 700 px, 2000 evaluations."""


@dataclass(frozen=True)
class TransferParams:
    """What a caller may choose. Field names are those of ``dpst.v1.TransferParams``.

    The plain defaults are those of mode ``field`` at quality ``standard``. ``quality`` itself changes nothing here:
    :meth:`chosen` is what fills ``solve_edge_px`` and ``max_evaluations`` from it.

    Raises:
        ParameterError: a value is outside its range or is not a number.
    """

    mode: str = "field"
    strength: float = 1.0
    label_strengths: Mapping[str, float] = field(default_factory=dict)
    preserve: str = "none"
    content_weight: float = 5.0
    style_weight: float = 100.0
    affine_weight: float = 1e4
    solve_edge_px: int = PRESETS["field"]["standard"].solve_edge_px
    max_evaluations: int = PRESETS["field"]["standard"].max_evaluations
    time_budget_seconds: float = 0.0
    label_policy: str = "merge"
    seed: int = 0
    features: str = ""
    preview_every: int = 5
    quality: str = "standard"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ParameterError(name, value, f"must be one of {', '.join(choices)}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ParameterError(name, value, f"must be between {low:g} and {high:g}")
        for label, value in self.label_strengths.items():
            if not 0.0 <= value <= 1.0:
                raise ParameterError(f"label_strengths[{label}]", value, "must be between 0 and 1")

    @classmethod
    def chosen(cls, **values: Any) -> TransferParams:
        """The parameters of ``values``; a solve size or an evaluation limit not among them is the preset's.

        The preset is that of the values' ``mode`` and ``quality``, which have their defaults where they are not given.

        Raises:
            ParameterError: as the constructor.
        """
        preset = PRESETS.get(values.get("mode", cls.mode), {}).get(values.get("quality", cls.quality))
        filled = {} if preset is None else vars(preset)  # without a preset the constructor names the unknown choice
        return cls(**{**filled, **values})

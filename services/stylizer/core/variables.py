"""What a solve moves: the cells of the field's grid, then the pixels of the picture behind the proximal step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.field import GRID_SHAPE, GridField, grid_smoothness
from services.stylizer.core.objective import PictureObjective
from services.stylizer.core.results import Losses

__all__ = ["GridProblem", "PixelProblem", "Problem", "State", "resized"]

_SMOOTHNESS_WEIGHT: Final = 0.05
_GRID_FIRST_STEP: Final = 0.003
_PIXEL_FIRST_STEP: Final = 0.01
"""By how much the first step changes a coefficient, or a pixel in 0..1, on average. L-BFGS knows no scale yet; from a
first step of 1e-6 the line search needs four evaluations to find it."""

_GRID_HISTORY: Final = 20
_PIXEL_HISTORY: Final = 10
"""Pairs that L-BFGS keeps. A pixel level ends after about ten steps, and a pair takes 8 MB at 700 px."""


@dataclass(frozen=True)
class State:
    """A point of the solve, free of its level's size.

    Attributes:
        grid: (12, D, Gy, Gx) the field.
        change: (3, h, w) what pixels add to the field's picture, at the size of the level that found it; or None.
    """

    grid: Tensor
    change: Tensor | None = None

    @classmethod
    def warm_start(cls, device: torch.device) -> State:
        """The closed-form transfer as it is."""
        return cls(torch.zeros(GRID_SHAPE, device=device))


class Problem(Protocol):
    """What is minimised at one level."""

    start: Tensor
    history: int
    first_step: float

    def __call__(self, x: Tensor) -> tuple[Tensor, Losses]:
        """The total, differentiable in x, and its terms."""

    def picture(self, x: Tensor) -> Tensor:
        """The picture at x: (3, h, w), RGB 0..1."""

    def state(self, x: Tensor) -> State:
        """What the next level starts from."""


class GridProblem:
    """The objective in the cells of the grid.

    Args:
        objective: at this level.
        I: (3, h, w) content photo at this level; guide of the field.
        B: (3, h, w) warm start.
        state: where to start.
    """

    history = _GRID_HISTORY
    first_step = _GRID_FIRST_STEP

    def __init__(self, objective: PictureObjective, I: Tensor, B: Tensor, state: State) -> None:
        self.start, self._objective = state.grid, objective
        self._field = GridField(I, B)

    def __call__(self, x: Tensor) -> tuple[Tensor, Losses]:
        """See :class:`Problem`."""
        return self._objective(self._field(x), _SMOOTHNESS_WEIGHT * grid_smoothness(x))

    def picture(self, x: Tensor) -> Tensor:
        """See :class:`Problem`."""
        return self._objective.picture(self._field(x))

    def state(self, x: Tensor) -> State:
        """See :class:`Problem`."""
        return State(x)


class PixelProblem:
    """The objective in every pixel, from the field's picture on (the polish of docs/adr/0006).

    Args:
        objective: at this level.
        I: (3, h, w) content photo at this level; guide of the field.
        B: (3, h, w) warm start.
        state: where to start.
    """

    history = _PIXEL_HISTORY
    first_step = _PIXEL_FIRST_STEP

    def __init__(self, objective: PictureObjective, I: Tensor, B: Tensor, state: State) -> None:
        self._objective, self._grid = objective, state.grid
        with torch.no_grad():
            self._field = GridField(I, B)(state.grid)
            self.start = self._field if state.change is None else self._field + resized(state.change, I.shape[1:])

    def __call__(self, x: Tensor) -> tuple[Tensor, Losses]:
        """See :class:`Problem`."""
        return self._objective(x)

    def picture(self, x: Tensor) -> Tensor:
        """See :class:`Problem`."""
        return self._objective.picture(x)

    def state(self, x: Tensor) -> State:
        """See :class:`Problem`."""
        return State(self._grid, x - self._field)


def resized(change: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear, (3, h, w) to (3, *size)."""
    if change.shape[1:] == size:
        return change
    return functional.interpolate(change[None], size=size, mode="bilinear", align_corners=False)[0]

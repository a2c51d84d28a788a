"""What a descent has learnt of the objective's curvature, as a start for L-BFGS at the next size or in another process.

L-BFGS keeps pairs of a step s and the change y of the gradient along it; they make its inverse Hessian (Nocedal &
Wright 2006, eq. 7.16). Alone, a level begins without any, guesses the length of a first step along the plain gradient
and pays an evaluation a pair. The objective is a mean over pixels, so enlarged pairs hold at the next size too: a
step has the same values there, and a pixel's share of the gradient falls with the number of pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.variables import resized

__all__ = ["Pair", "Path", "alike", "compact", "preload", "reduced"]

_LEAST_CURVATURE: Final = 1e-10
"""Of sᵀy; torch's own limit, below which it keeps no pair either."""


class Pair(NamedTuple):
    """A step of a descent and the change of the gradient along it, both (3, h, w) or both of another shape."""

    step: Tensor
    change: Tensor


class Path:
    """The pairs of a descent: between its points, each lower than the one before.

    Args:
        pairs: most pairs kept, the last ones.
        edge_px: long edge to which pairs of pictures are reduced; 0 = they are kept as they are.
    """

    def __init__(self, pairs: int, edge_px: int = 0) -> None:
        self._pairs: deque[Pair] = deque(maxlen=pairs)
        self._edge = edge_px
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def pairs(self) -> Sequence[Pair]:
        """Oldest first."""
        return tuple(self._pairs)

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Add a point, (3, h, w) or of any other shape, and the objective's gradient there."""
        if self._last is not None:
            last_x, last_gradient = self._last
            pair = Pair(x - last_x, gradient - last_gradient)
            self._pairs.append(reduced(pair, self._edge) if self._edge else pair)
        self._last = x, gradient


def reduced(pair: Pair, edge_px: int) -> Pair:
    """The pair of a descent at a smaller size: area-averaged to a long edge of ``edge_px``; a grid's stays as it is."""
    height, width = pair.step.shape[-2:]
    factor = edge_px / max(height, width)
    if pair.step.ndim != 3 or factor >= 1:
        return pair
    size = [max(round(height * factor), 1), max(round(width * factor), 1)]
    step, change = functional.interpolate(torch.stack(pair), size=size, mode="area")
    return Pair(step, change * (pair.step.numel() / step.numel()))


def alike(pairs: Iterable[Pair], like: Tensor) -> list[Pair]:
    """Pairs in the shape of ``like``; those are left out that are of a grid where it is a picture, or the other way.

    Args:
        pairs: of descents at any size.
        like: (3, H, W) a picture, or of exactly the shape of a grid's pairs.
    """
    found = []
    for pair in pairs:
        if pair.step.shape == like.shape:
            found.append(pair)
        elif pair.step.ndim == like.ndim == 3:
            step, change = (resized(x, like.shape[1:]) for x in pair)
            found.append(Pair(step, change * (pair.step.numel() / like.numel())))
    return found


def compact(pairs: Sequence[Pair], most: int, edge_px: int) -> list[Pair]:
    """The last pairs in the shape of the newest one, reduced to a long edge of ``edge_px``; at most ``most``."""
    if not pairs:
        return []
    newest = reduced(pairs[-1], edge_px).step
    return alike((reduced(pair, edge_px) for pair in pairs[-most:]), newest)


def preload(optimiser: torch.optim.LBFGS, variable: Tensor, unit: float, pairs: Sequence[Pair]) -> None:
    """Let an optimiser that has not stepped yet begin with the pairs of an earlier descent.

    Args:
        optimiser: of ``variable`` alone.
        variable: z, where x = start + unit · z is what the pairs' points are.
        unit: see ``variable``.
        pairs: in the variable's shape, oldest first; without usable ones the optimiser stays as it is.
    """
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    inverses: list[Tensor] = []
    scale = variable.new_ones(())
    for step, change in pairs[-optimiser.param_groups[0]["history_size"] :]:
        s, y = (step / unit).flatten(), (change * unit).flatten()
        curvature = s.dot(y)
        if curvature > _LEAST_CURVATURE:
            steps.append(s)
            changes.append(y)
            inverses.append(1 / curvature)
            scale = curvature / y.dot(y)
    if not steps:
        return
    nothing = torch.zeros_like(steps[0])
    # The names are those of the optimiser's state_dict. It is to believe that its last step had length 0.
    optimiser.state[variable].update(
        func_evals=0,
        n_iter=1,
        d=nothing,
        t=0.0,
        old_dirs=changes,
        old_stps=steps,
        ro=inverses,
        H_diag=scale,
        prev_flat_grad=nothing.clone(),
        prev_loss=0.0,
    )

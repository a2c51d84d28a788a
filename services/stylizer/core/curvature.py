"""What one level of a solve has learnt of the objective's curvature, as a start for L-BFGS at the next size.

L-BFGS keeps pairs of a step s and the change y of the gradient along it; they make its inverse Hessian (Nocedal &
Wright 2006, eq. 7.16). Alone, a level begins without any, guesses the length of a first step along the plain gradient
and pays an evaluation a pair. The objective is a mean over pixels, so enlarged pairs hold at the next size too: a
step has the same values there, and a pixel's share of the gradient falls with the number of pixels.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.variables import resized

__all__ = ["Path", "preload"]

_LEAST_CURVATURE: Final = 1e-10
"""Of sᵀy; torch's own limit, below which it keeps no pair either."""


class Path:
    """The last points of a descent, each lower than the one before, with their gradients.

    Args:
        pairs: most pairs of neighbours kept.
    """

    def __init__(self, pairs: int) -> None:
        self._points: deque[tuple[Tensor, Tensor]] = deque(maxlen=pairs + 1)

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Add a point, (3, h, w) or of any other shape, and the objective's gradient there."""
        self._points.append((x, gradient))

    def pairs(self, like: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pairs (s, y) in the shape of ``like``, oldest first; none if pictures and something else would be mixed.

        Args:
            like: (3, H, W) a picture, or of exactly the shape of the points.
        """
        if len(self._points) < 2:
            return []
        x, _ = self._points[0]
        if x.shape != like.shape and (x.ndim != 3 or like.ndim != 3):
            return []
        share = x.numel() / like.numel()
        return [
            (_like(x_b - x_a, like), _like(g_b - g_a, like) * share)
            for (x_a, g_a), (x_b, g_b) in pairwise(self._points)
        ]


def preload(optimiser: torch.optim.LBFGS, variable: Tensor, unit: float, path: Path) -> None:
    """Let an optimiser that has not stepped yet begin with the pairs of an earlier descent.

    Args:
        optimiser: of ``variable`` alone.
        variable: z, where x = start + unit · z is what the points of ``path`` are.
        unit: see ``variable``.
        path: of the earlier descent; without usable pairs the optimiser stays as it is.
    """
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    inverses: list[Tensor] = []
    scale = variable.new_ones(())
    for step, change in path.pairs(variable.detach())[-optimiser.param_groups[0]["history_size"] :]:
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


def _like(x: Tensor, other: Tensor) -> Tensor:
    return x if x.shape == other.shape else resized(x, other.shape[1:])

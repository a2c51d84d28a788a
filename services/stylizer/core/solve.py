"""L-BFGS with a strong-Wolfe line search on the field's grid (Nocedal & Wright 2006, algorithms 7.5 and 3.5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.field import GRID_SHAPE
from services.stylizer.core.objective import FieldObjective, Losses

__all__ = ["Progress", "Solution", "SolveLimits", "identity_grid", "solve_field"]

_HISTORY: Final = 20
_PLATEAU_EVALUATIONS: Final = 8
_PLATEAU_RELATIVE: Final = 2e-3
"""The solve stops when the best total fell by less than this share over the last 8 evaluations."""


@dataclass(frozen=True)
class SolveLimits:
    """When the solve must end.

    Attributes:
        max_evaluations: most network evaluations.
        time_budget_seconds: most seconds; 0 = no limit. The best point so far is returned.
    """

    max_evaluations: int = 40
    time_budget_seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """State after one evaluation; ``grid`` is the point that was evaluated (a copy is not made)."""

    evaluation: int
    losses: Losses
    elapsed_seconds: float
    remaining_seconds: float
    grid: Tensor


@dataclass(frozen=True)
class Solution:
    """The best point and how it was found.

    Attributes:
        grid: the grid.
        first: losses at the warm start.
        final: losses at ``grid``.
        evaluations: network evaluations used.
        stopped_by: ``plateau``, ``max_evaluations`` or ``time_budget``.
    """

    grid: Tensor
    first: Losses
    final: Losses
    evaluations: int
    stopped_by: str


class _Stop(Exception):  # noqa: N818 - ends torch's line search, never leaves this module
    def __init__(self, reason: str) -> None:
        self.reason = reason


def solve_field(
    objective: FieldObjective,
    limits: SolveLimits,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    start: Tensor,
) -> Solution:
    """Minimise the objective over the grid.

    Args:
        objective: what to minimise.
        limits: when to end.
        on_progress: called after each evaluation.
        should_stop: polled before each evaluation.
        start: the first grid; zeros is the warm start itself.

    Raises:
        SolveCancelled: ``should_stop`` said so.
        FloatingPointError: the objective is not finite at the first point.
    """
    grid = start.clone().requires_grad_(True)
    began = time.monotonic()
    trace: list[tuple[float, Losses]] = []
    best_grid = start.clone()
    bests: list[float] = []

    def closure() -> Tensor:
        nonlocal best_grid
        if should_stop():
            raise SolveCancelled
        elapsed = time.monotonic() - began
        if len(trace) >= limits.max_evaluations:
            raise _Stop("max_evaluations")
        if trace and limits.time_budget_seconds and elapsed * (1 + 1 / len(trace)) > limits.time_budget_seconds:
            raise _Stop("time_budget")
        if len(bests) > _PLATEAU_EVALUATIONS and bests[-1] > (1 - _PLATEAU_RELATIVE) * bests[-1 - _PLATEAU_EVALUATIONS]:
            raise _Stop("plateau")
        grid.grad = None
        total, losses = objective(grid)
        if not trace and not torch.isfinite(total):
            raise FloatingPointError(f"the objective is {losses.total} at the warm start")
        total.backward()  # type: ignore[no-untyped-call]
        if not bests or losses.total < min(bests):
            best_grid = grid.detach().clone()
        trace.append((losses.total, losses))
        bests.append(min(losses.total, bests[-1] if bests else losses.total))
        elapsed = time.monotonic() - began
        left = (limits.max_evaluations - len(trace)) * elapsed / len(trace)
        if limits.time_budget_seconds:
            left = min(left, max(limits.time_budget_seconds - elapsed, 0.0))
        on_progress(Progress(len(trace), losses, elapsed, left, grid.detach()))
        return total.detach()

    optimiser = torch.optim.LBFGS(
        [grid],
        lr=1.0,
        max_iter=limits.max_evaluations,
        max_eval=limits.max_evaluations * 2,
        history_size=_HISTORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    try:
        optimiser.step(closure)
        reason = "plateau"
    except _Stop as stop:
        reason = stop.reason
    best = min(trace, key=lambda point: point[0])[1]
    return Solution(best_grid, trace[0][1], best, len(trace), reason)


def identity_grid(device: torch.device) -> Tensor:
    """The grid that leaves the warm start as it is."""
    return torch.zeros(GRID_SHAPE, device=device)

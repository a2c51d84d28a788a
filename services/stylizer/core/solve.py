"""L-BFGS with a strong-Wolfe line search on the field's grid, coarse to fine.

Nocedal & Wright 2006, algorithms 7.5 and 3.5, as torch implements them. The grid has the same size at every level, so
that a level simply starts where the coarser one ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.field import GRID_SHAPE
from services.stylizer.core.objective import FieldObjective
from services.stylizer.core.results import Losses

__all__ = ["Level", "Progress", "Solution", "identity_grid", "plan_levels", "solve_field"]

_HISTORY: Final = 20
_PLATEAU_EVALUATIONS: Final = 8
_PLATEAU_RELATIVE: Final = 2e-3
"""A level ends when its best total fell by less than this share over the last 8 evaluations."""

_COARSE_SHARE: Final = 0.5
_COARSEST_EDGE_PX: Final = 80
"""Below about 80 px conv5_1 sees five pixels, and its statistics say nothing."""


@dataclass(frozen=True)
class Level:
    """One scale of the solve.

    Attributes:
        edge_px: long edge at this scale.
        evaluations: most network evaluations here.
        objective: makes what is minimised here; called when the level begins.
    """

    edge_px: int
    evaluations: int
    objective: Callable[[], FieldObjective]


@dataclass(frozen=True)
class Progress:
    """State after one evaluation.

    Attributes:
        evaluation: its number, from 1, over all levels.
        losses: terms of the objective.
        elapsed_seconds: since the solve began.
        remaining_seconds: estimate until it ends.
        picture: gives the picture at this point, (3, h, w) at the level's size.
    """

    evaluation: int
    losses: Losses
    elapsed_seconds: float
    remaining_seconds: float
    picture: Callable[[], Tensor]


@dataclass(frozen=True)
class Solution:
    """The best point and how it was found.

    Attributes:
        grid: the grid.
        first: losses at the warm start, at the coarsest level.
        final: losses at ``grid``, at the finest level that was reached.
        evaluations: network evaluations used.
        stopped_by: ``plateau``, ``max_evaluations`` or ``time_budget``.
    """

    grid: Tensor
    first: Losses
    final: Losses
    evaluations: int
    stopped_by: str


def identity_grid(device: torch.device) -> Tensor:
    """The grid that leaves the warm start as it is."""
    return torch.zeros(GRID_SHAPE, device=device)


def plan_levels(edge_px: int, max_evaluations: int) -> tuple[tuple[int, int], ...]:
    """Edge and evaluations of each level: first half of the evaluations at half the size, if that is not too small."""
    coarse_edge, coarse = edge_px // 2, int(max_evaluations * _COARSE_SHARE)
    if coarse_edge < _COARSEST_EDGE_PX or coarse < 4:
        return ((edge_px, max_evaluations),)
    return ((coarse_edge, coarse), (edge_px, max_evaluations - coarse))


class _Stop(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


def solve_field(
    levels: Sequence[Level],
    time_budget_seconds: float,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    start: Tensor,
) -> Solution:
    """Minimise the objective over the grid.

    Args:
        levels: scales, coarsest first.
        time_budget_seconds: most seconds, 0 = no limit; the best point so far is returned.
        on_progress: called after each evaluation.
        should_stop: polled before each evaluation.
        start: the first grid; zeros is the warm start itself.

    Raises:
        SolveCancelled: ``should_stop`` said so.
        FloatingPointError: the objective is not finite at the first point.
    """
    run = _Run(levels, time_budget_seconds, on_progress, should_stop, start)
    for level in levels:
        run.descend(level)
        if run.stopped_by == "time_budget":
            break
    return Solution(run.best_grid, run.first, run.best, run.evaluations, run.stopped_by)


class _Run:
    """State of one solve across its levels."""

    first: Losses
    best: Losses

    def __init__(
        self,
        levels: Sequence[Level],
        time_budget_seconds: float,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        start: Tensor,
    ) -> None:
        self._budget, self._on_progress, self._should_stop = time_budget_seconds, on_progress, should_stop
        self._work = sum(level.evaluations * level.edge_px**2 for level in levels)
        self._done = 0
        self._began = time.monotonic()
        self.best_grid, self.evaluations, self.stopped_by = start, 0, "max_evaluations"

    def descend(self, level: Level) -> None:
        """Minimise at one level, from the best grid so far."""
        objective = level.objective()
        grid = self.best_grid.clone().requires_grad_(True)
        bests: list[float] = []  # best total after each evaluation of this level
        work_before = self._done

        def closure() -> Tensor:
            if self._should_stop():
                raise SolveCancelled
            self._check_limits(level, bests)
            grid.grad = None
            total, losses = objective(grid)
            if not torch.isfinite(total) and self.evaluations == 0:
                raise FloatingPointError(f"the objective is {losses.total} at the warm start")
            total.backward()  # type: ignore[no-untyped-call]
            if self.evaluations == 0:
                self.first = losses
            if not bests or losses.total < bests[-1]:
                self.best, self.best_grid = losses, grid.detach().clone()
            bests.append(self.best.total)
            self.evaluations += 1
            self._done += level.edge_px**2
            elapsed = time.monotonic() - self._began
            left = elapsed * (self._work - self._done) / self._done
            if self._budget:
                left = min(left, max(self._budget - elapsed, 0.0))
            point = grid.detach().clone()
            self._on_progress(Progress(self.evaluations, losses, elapsed, left, lambda: objective.picture(point)))
            return total.detach()

        optimiser = torch.optim.LBFGS(
            [grid],
            max_iter=level.evaluations,
            max_eval=level.evaluations * 2,  # the closure counts; this only has to be out of its way
            history_size=_HISTORY,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        try:
            optimiser.step(closure)  # type: ignore[no-untyped-call]
            self.stopped_by = "plateau"  # the line search found no further descent
        except _Stop as stop:
            self.stopped_by = stop.reason
        self._done = work_before + level.evaluations * level.edge_px**2

    def _check_limits(self, level: Level, bests: Sequence[float]) -> None:
        if self._budget and self.evaluations:
            elapsed = time.monotonic() - self._began
            next_one = elapsed * level.edge_px**2 / self._done
            if elapsed + next_one > self._budget:
                raise _Stop("time_budget")
        if len(bests) >= level.evaluations:
            raise _Stop("max_evaluations")
        if len(bests) > _PLATEAU_EVALUATIONS and bests[-1] > (1 - _PLATEAU_RELATIVE) * bests[-1 - _PLATEAU_EVALUATIONS]:
            raise _Stop("plateau")

"""L-BFGS with a strong-Wolfe line search, coarse to fine: first on the field's grid, then on pixels.

Nocedal & Wright 2006, algorithms 7.5 and 3.5, as torch implements them. A level starts where the coarser one ended, and
with the curvature that it found (``curvature.py``). A solve that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.checkpoint import PAIRS, PAIRS_EDGE_PX, Checkpoint, Journal
from services.stylizer.core.curvature import Pair, Path, alike, compact, preload
from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.results import Losses
from services.stylizer.core.variables import Problem, State

__all__ = ["Level", "LevelPlan", "Progress", "Solution", "plan_levels", "solve"]

_PLATEAU_EVALUATIONS: Final = 8
_PLATEAU_RELATIVE: Final = 2e-3
"""A level ends when its best total fell by less than this share over the last 8 evaluations."""

_COARSEST_EDGE_PX: Final = 80
"""Below about 80 px conv5_1 sees five pixels, and its statistics say nothing."""

_GRID_SHARE: Final = 0.4
_HALF_SIZE_SHARE: Final = 0.6
"""Share of all evaluations on the grid, and of the rest at half size where a quarter of the size is not too small."""


@dataclass(frozen=True)
class LevelPlan:
    """One scale of a solve: long edge, most network evaluations, and whether pixels are solved or the grid."""

    edge_px: int
    evaluations: int
    pixels: bool


@dataclass(frozen=True)
class Level:
    """One scale of the solve.

    Attributes:
        edge_px: long edge at this scale.
        evaluations: most network evaluations here.
        begin: makes what is minimised here from where the coarser level ended; called when the level begins.
    """

    edge_px: int
    evaluations: int
    begin: Callable[[State], Problem]


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
        state: grid and change.
        first: losses at the warm start, at the coarsest level.
        final: losses at ``state``, at the finest level that was reached.
        evaluations: network evaluations used.
        full_size_evaluations: the same in pixels: an evaluation at half the full long edge counts a quarter.
        stopped_by: ``plateau``, ``max_evaluations`` or ``time_budget``.
    """

    state: State
    first: Losses
    final: Losses
    evaluations: int
    full_size_evaluations: float
    stopped_by: str


def plan_levels(edge_px: int, max_evaluations: int) -> tuple[LevelPlan, ...]:
    """Scales for a solve at ``edge_px`` with so many evaluations.

    The grid at a quarter of the size, pixels at half of it and at all of it; sizes under 80 px are left out, and levels
    that would get no evaluation.
    """
    sizes = [edge for edge in (edge_px // 4, edge_px // 2) if edge >= _COARSEST_EDGE_PX]
    grid = max(1, round(max_evaluations * _GRID_SHARE))
    rest = max_evaluations - grid
    half = round(rest * _HALF_SIZE_SHARE) if len(sizes) > 1 else 0
    plans = [LevelPlan((*sizes, edge_px)[0], grid, pixels=False)]
    plans += [LevelPlan(edge, half, pixels=True) for edge in sizes[1:]]
    plans.append(LevelPlan(edge_px, rest - half, pixels=True))
    return tuple(plan for plan in plans if plan.evaluations > 0)


class _Stop(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


def solve(
    levels: Sequence[Level],
    time_budget_seconds: float,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    start: State,
    full_edge_px: int,
    journal: Journal | None = None,
) -> Solution:
    """Minimise the objective, level by level.

    Args:
        levels: scales, coarsest first.
        time_budget_seconds: most seconds, 0 = no limit; the best point so far is returned.
        on_progress: called after each evaluation.
        should_stop: polled before each evaluation.
        start: the first point.
        full_edge_px: long edge at which an evaluation counts as one of full size.
        journal: the checkpoint to go on from, which then counts instead of ``start``, and who keeps new ones.

    Raises:
        SolveCancelled: ``should_stop`` said so.
        FloatingPointError: the objective is not finite at the first point.
    """
    run = _Run(levels, time_budget_seconds, on_progress, should_stop, start, journal or Journal())
    for at, level in enumerate(levels):
        run.descend(at, level, carries=level is not levels[-1])
        if run.stopped_by == "time_budget":
            break
    full_size = run.spent / full_edge_px**2
    return Solution(run.state, run.first, run.best, run.evaluations, full_size, run.stopped_by)


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
        start: State,
        journal: Journal,
    ) -> None:
        self._budget, self._on_progress, self._should_stop = time_budget_seconds, on_progress, should_stop
        self._work = sum(level.evaluations * level.edge_px**2 for level in levels)
        self._done = 0  # of the planned work; what a level leaves over is done too
        self._pairs: Sequence[Pair] = ()  # what is known of the curvature as a level begins
        self._journal = journal
        self._began = time.monotonic()
        self.state, self.evaluations, self.spent, self.stopped_by = start, 0, 0, "max_evaluations"
        if (resume := journal.resume) is not None:
            self._began -= resume.elapsed_seconds
            self.state = State(resume.grid, resume.change)
            self.evaluations, self.spent = resume.evaluations, resume.spent
            self.first, self.best = resume.first, resume.best
            self._pairs = resume.pairs

    def descend(self, at: int, level: Level, carries: bool) -> None:
        """Minimise at one level, from where the last one ended; ``carries`` keeps its curvature for another one."""
        done_before = self._done_before(at, level)
        if done_before >= level.evaluations:
            self._done += level.evaluations * level.edge_px**2
            return
        problem = level.begin(self.state)
        # L-BFGS takes a first step of 1-norm 1: in these units it moves each value by first_step on average.
        unit = problem.first_step * problem.start.numel()
        y = torch.zeros_like(problem.start).requires_grad_(True)
        best = problem.start
        path = Path(problem.history, 0 if carries else PAIRS_EDGE_PX)
        bests: list[float] = []  # best total after each evaluation of this level
        work_before = self._done
        self._done += done_before * level.edge_px**2

        def closure() -> Tensor:
            nonlocal best
            if self._should_stop():
                raise SolveCancelled
            self._check_limits(level, done_before + len(bests), bests)
            y.grad = None
            x = problem.start + unit * y
            total, losses = problem(x)
            if not torch.isfinite(total) and self.evaluations == 0:
                raise FloatingPointError(f"the objective is {losses.total} at the warm start")
            total.backward()  # type: ignore[no-untyped-call]
            if self.evaluations == 0:
                self.first = losses
            point = x.detach()
            if not bests or losses.total < bests[-1]:
                self.best, best = losses, point
                path.add(point, _gradient(y) / unit)
            bests.append(self.best.total)
            self.evaluations += 1
            self.spent += level.edge_px**2
            self._done += level.edge_px**2
            elapsed = time.monotonic() - self._began
            left = elapsed * (self._work - self._done) / self.spent
            if self._budget:
                left = min(left, max(self._budget - elapsed, 0.0))
            self._on_progress(Progress(self.evaluations, losses, elapsed, left, lambda: problem.picture(point)))
            done = done_before + len(bests)
            self._journal.write(lambda: self._checkpoint(at, done, problem.state(best), path))
            return total.detach()

        optimiser = torch.optim.LBFGS(
            [y],
            max_iter=level.evaluations - done_before,
            max_eval=level.evaluations * 2,  # the closure counts; this only has to be out of its way
            history_size=problem.history,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        preload(optimiser, y, unit, alike(self._pairs, problem.start))
        try:
            optimiser.step(closure)  # type: ignore[no-untyped-call]
            self.stopped_by = "plateau"  # the line search found no further descent
        except _Stop as stop:
            self.stopped_by = stop.reason
        if bests:
            self.state = problem.state(best)
        self._pairs = (*self._pairs, *path.pairs)
        self._done = work_before + level.evaluations * level.edge_px**2

    def _done_before(self, at: int, level: Level) -> int:
        """Evaluations of a level that an earlier process made."""
        resume = self._journal.resume
        if resume is None or at > resume.level:
            return 0
        return resume.done if at == resume.level else level.evaluations

    def _checkpoint(self, at: int, done: int, best: State, path: Path) -> Checkpoint:
        elapsed = time.monotonic() - self._began
        counts = (at, done, self.evaluations, self.spent, elapsed)
        pairs = compact([*self._pairs, *path.pairs], PAIRS, PAIRS_EDGE_PX)
        return Checkpoint(self._journal.key, *counts, self.first, self.best, best.grid, best.change, pairs)

    def _check_limits(self, level: Level, done: int, bests: Sequence[float]) -> None:
        if self._budget and self.evaluations:
            elapsed = time.monotonic() - self._began
            next_one = elapsed * level.edge_px**2 / self.spent
            if elapsed + next_one > self._budget:
                raise _Stop("time_budget")
        if done >= level.evaluations:
            raise _Stop("max_evaluations")
        if len(bests) > _PLATEAU_EVALUATIONS and bests[-1] > (1 - _PLATEAU_RELATIVE) * bests[-1 - _PLATEAU_EVALUATIONS]:
            raise _Stop("plateau")


def _gradient(y: Tensor) -> Tensor:
    assert y.grad is not None, "backward has filled it"  # noqa: S101
    return y.grad

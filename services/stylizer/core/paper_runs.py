"""L-BFGS of fixed step on pixels, as the released implementation of Luan et al. 2017 uses it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.checkpoint import Checkpoint, Journal
from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.paper_objective import to_rgb
from services.stylizer.core.results import Losses
from services.stylizer.core.solve import Progress

__all__ = ["PaperRuns"]

_HISTORY: Final = 100
_NEVER: Final = -1.0
"""A tolerance that no norm or difference falls under: torch's early stops are off."""


class _OutOfTime(Exception):
    """The share of the time budget that belongs to a run is over."""


class _NotFinite(Exception):
    """A step without line search led out of the numbers."""


class PaperRuns:
    """The runs of one solve, one after the other, with what they share: evaluations, time, progress and cancelling.

    Args:
        objective: of a picture (3, H, W) in units of 0..255, and of whether L_m takes part; gives total and terms.
        evaluations: of all runs.
        time_budget_seconds: of all runs, shared in proportion to their evaluations; 0 = no limit.
        on_progress: called after each evaluation.
        should_stop: polled before each evaluation.
        journal: the checkpoint to go on from, and who keeps new ones.

    Attributes:
        first: losses at the first point of the first run.
        best: losses at the best point of the latest run.
        evaluations: used so far.
        stopped_by: ``max_evaluations``, or ``time_budget`` if that cut a run short.
    """

    first: Losses
    best: Losses

    def __init__(
        self,
        objective: Callable[[Tensor, bool], tuple[Tensor, Losses]],
        evaluations: int,
        time_budget_seconds: float,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        journal: Journal | None = None,
    ) -> None:
        self._objective, self._total, self._budget = objective, evaluations, time_budget_seconds
        self._on_progress, self._should_stop = on_progress, should_stop
        self._journal = journal or Journal()
        self._began = time.monotonic()
        self._planned = 0  # evaluations of the runs so far and of this one
        self._at = -1
        self.evaluations, self.stopped_by = 0, "max_evaluations"
        if (resume := self._journal.resume) is not None:
            self._began -= resume.elapsed_seconds
            self.evaluations, self.first, self.best = resume.evaluations, resume.first, resume.best

    def descend(self, start: Tensor, evaluations: int, affine: bool) -> Tensor:
        """Minimise from a point for that many evaluations; gives the best point that was evaluated.

        What an earlier process did of this run is not done again, see ``journal``. The published code gives the point
        after the last step, which it does not evaluate. Where the numbers overflow, the run goes on from the best point
        with an empty history. At least one evaluation is made.

        Args:
            start: (3, H, W) BGR, 0..255, minus the mean.
            evaluations: of this run, at least 1.
            affine: whether L_m takes part.

        Raises:
            SolveCancelled: ``should_stop`` said so.
            FloatingPointError: the objective is not finite at the first point of the first run.
        """
        self._planned += evaluations
        self._at += 1
        left, lowest, best_point = evaluations, math.inf, start
        resume = self._journal.resume
        if resume is not None and resume.change is not None and self._at <= resume.level:
            left = evaluations - resume.done if self._at == resume.level else 0
            lowest, best_point = resume.best.total, resume.change
        began_with = left
        x = best_point.clone().requires_grad_(True)

        def closure() -> Tensor:
            nonlocal left, lowest, best_point
            if self._should_stop():
                raise SolveCancelled
            if left < began_with and self._is_late():
                raise _OutOfTime
            x.grad = None
            total, losses = self._objective(x, affine)
            left -= 1
            self.evaluations += 1
            if not math.isfinite(losses.total):
                raise _NotFinite
            total.backward()  # type: ignore[no-untyped-call]
            point = x.detach().clone()
            if self.evaluations == 1:
                self.first = losses
            if losses.total < lowest:
                lowest, best_point, self.best = losses.total, point, losses
            self._report(losses, point, left)
            done = evaluations - left
            self._journal.write(lambda: self._checkpoint(done, best_point))
            return total.detach()

        while left:
            try:
                _lbfgs(x, left).step(closure)  # type: ignore[no-untyped-call]
            except _OutOfTime:
                self.stopped_by = "time_budget"
                break
            except _NotFinite:
                if self.evaluations == 1:
                    raise FloatingPointError("the objective is not finite at the first point") from None
                x.data.copy_(best_point)
        return best_point

    def _checkpoint(self, done: int, best: Tensor) -> Checkpoint:
        elapsed, spent = time.monotonic() - self._began, self.evaluations * max(best.shape) ** 2
        counts = (self._at, done, self.evaluations, spent, elapsed)
        return Checkpoint(self._journal.key, *counts, self.first, self.best, torch.zeros(0), best)

    def _is_late(self) -> bool:
        """Whether another evaluation would end after this run's share of the time budget."""
        if not self._budget:
            return False
        share = self._planned / self._total
        elapsed = time.monotonic() - self._began
        return elapsed + elapsed / self.evaluations > share * self._budget

    def _report(self, losses: Losses, point: Tensor, left: int) -> None:
        elapsed = time.monotonic() - self._began
        remaining = elapsed / self.evaluations * (left + self._total - self._planned)
        if self._budget:
            remaining = min(remaining, max(self._budget - elapsed, 0.0))
        self._on_progress(Progress(self.evaluations, losses, elapsed, remaining, lambda: to_rgb(point)))


def _lbfgs(x: Tensor, evaluations: int) -> torch.optim.LBFGS:
    """L-BFGS of fixed step 1, the first ``min(1, 1/‖g‖₁)``, that evaluates its closure exactly so often.

    Nocedal & Wright 2006, algorithm 7.5; pairs with ``yᵀs ≤ 1e-10`` are not kept, as in torch and in Torch7.
    """
    return torch.optim.LBFGS(
        [x],
        lr=1.0,
        max_iter=evaluations,
        max_eval=evaluations + 1,  # never reached: one evaluation per iteration
        history_size=_HISTORY,
        tolerance_grad=_NEVER,
        tolerance_change=_NEVER,
        line_search_fn=None,
    )

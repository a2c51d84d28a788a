"""What L-BFGS itself takes; part of ``tests.benchmarks.quality``."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from services.stylizer.core.results import Losses
from services.stylizer.core.solve import Level, Progress, solve
from services.stylizer.core.variables import Problem, State

__all__ = ["optimiser_seconds"]

_EVALUATIONS = 50
"""On which L-BFGS is timed; the later half is counted, when its history is full or nearly so."""


class _Quadratic(torch.autograd.Function):
    """½ Σ c x²; value and gradient are made together, so that going backward costs next to nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, curvature: Tensor) -> Tensor:
        ctx.gradient = curvature * x.detach()
        return (ctx.gradient * x.detach()).sum() / 2

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        return ctx.gradient, None


class _QuadraticProblem:
    """A variable of the level's size under a quadratic function; notes when each evaluation begins and ends."""

    def __init__(self, like: Problem) -> None:
        self.start, self.history, self.first_step = torch.ones_like(like.start), like.history, like.first_step
        self._curvature = torch.logspace(-4, 0, like.start.numel()).view_as(like.start)
        self.moments: list[tuple[float, float]] = []

    def __call__(self, x: Tensor) -> tuple[Tensor, Losses]:
        began = time.perf_counter()
        total = _Quadratic.apply(x, self._curvature)
        losses = Losses(float(total.detach()), 0.0, 0.0, 0.0, 0.0, 0.0)
        self.moments.append((began, time.perf_counter()))
        return total, losses

    def picture(self, x: Tensor) -> Tensor:
        return x

    def state(self, x: Tensor) -> State:
        return State(x)


def optimiser_seconds(like: Problem, edge_px: int) -> float:
    """Mean seconds between two evaluations of a solve whose objective costs nothing."""
    problem = _QuadraticProblem(like)
    solve([Level(edge_px, _EVALUATIONS, lambda _: problem)], 0.0, _ignore, lambda: False, State(problem.start), edge_px)
    moments = problem.moments[len(problem.moments) // 2 :]
    return statistics.mean(later[0] - earlier[1] for earlier, later in itertools.pairwise(moments))


def _ignore(progress: Progress) -> None:
    pass

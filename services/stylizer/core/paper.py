"""``mode = paper``: the published method of Luan et al. 2017, as their released implementation runs it.

Two runs of L-BFGS on the pixels, the first without the matting term from noise, the second with it from the first
one's result; then local affine maps from content to output, smoothed and applied to the content. What is reproduced
and what differs: docs/paper.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.checkpoint import Journal
from services.stylizer.core.cross_bilateral import bilateral_smoothed
from services.stylizer.core.errors import ParameterError
from services.stylizer.core.local_affine import applied, exact_affine, local_affine
from services.stylizer.core.paper_objective import PaperObjective, PaperWeights, to_rgb
from services.stylizer.core.paper_photos import PaperPhotos
from services.stylizer.core.paper_runs import PaperRuns
from services.stylizer.core.results import Losses
from services.stylizer.core.solve import Progress
from services.stylizer.core.trunk import Trunk

__all__ = ["PaperSettings", "PaperSolution", "plan_runs", "solve_paper"]

_NOISE: Final = 1e-3
"""Standard deviation of the start, in levels of 255: the mean colour but for what breaks the symmetry."""


@dataclass(frozen=True)
class PaperSettings:
    """How the method is run; the defaults are the published numbers.

    Attributes:
        weights: of the terms. Without an affine weight one run takes all evaluations.
        evaluations: most network evaluations over both runs, at least 1.
        smoothing: end with the smoothed local affine maps. Without it, and with an affine weight of 0, the method is
            neural style transfer (Gatys et al. 2016) with masked Gram matrices.
        seed: of the noise.
        time_budget_seconds: most seconds of both runs, shared in proportion to their evaluations; 0 = no limit.
    """

    weights: PaperWeights = field(default_factory=PaperWeights)
    evaluations: int = 2000
    smoothing: bool = True
    seed: int = 0
    time_budget_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise ParameterError("evaluations", self.evaluations, "must be at least 1")


@dataclass(frozen=True)
class PaperSolution:
    """The picture, its local affine maps, and how they were found.

    Attributes:
        picture: (3, H, W) RGB, not clipped: the maps applied to the content photo.
        coefficients: (3, 4, H, W) float32, rows of [A | b] of RGB 0..1.
        first: losses at the first point of the first run, which has no affine term.
        final: losses at the best point of the last run, before smoothing.
        evaluations: network evaluations used.
        stopped_by: ``max_evaluations``, or ``time_budget`` if that cut a run short.
    """

    picture: Tensor
    coefficients: Tensor
    first: Losses
    final: Losses
    evaluations: int
    stopped_by: str


def plan_runs(evaluations: int, affine_weight: float) -> tuple[tuple[int, bool], ...]:
    """Evaluations of each run and whether L_m takes part: half without, half with; all in one if it has no weight."""
    if not affine_weight:
        return ((evaluations, False),)
    first = evaluations // 2
    return ((first, False), (evaluations - first, True)) if first else ((evaluations, True),)


def solve_paper(
    trunk: Trunk,
    photos: PaperPhotos,
    settings: PaperSettings,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    journal: Journal | None = None,
) -> PaperSolution:
    """Run the published method.

    Args:
        trunk: feature network; the published numbers belong to the Caffe VGG-19.
        photos: content and style with their matched masks.
        settings: weights, evaluations, seed and limits.
        on_progress: called after each evaluation; its losses are not divided by the untouched photo's.
        should_stop: polled before each evaluation and within the smoothing.
        journal: the checkpoint to go on from, and who keeps new ones.

    Raises:
        SolveCancelled: ``should_stop`` said so.
        FloatingPointError: the objective is not finite at the first point.
    """
    objective = PaperObjective(trunk, photos, settings.weights)
    runs = PaperRuns(objective, settings.evaluations, settings.time_budget_seconds, on_progress, should_stop, journal)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(photos.I.shape, generator=generator, dtype=torch.float32) * _NOISE
    point = noise.to(photos.I)
    for evaluations, affine in plan_runs(settings.evaluations, settings.weights.affine):
        point = runs.descend(point, evaluations, affine)
    O = to_rgb(point)
    if settings.smoothing:
        maps = bilateral_smoothed(local_affine(O, photos.I), photos.I, should_stop).float()
        O = applied(maps, photos.I)
    else:
        maps = exact_affine(O, photos.I).float()
    return PaperSolution(O, maps, runs.first, runs.best, runs.evaluations, runs.stopped_by)

"""The whole computation of one transfer on pixels: match, warm start, solve, look, score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.field import Window
from services.stylizer.core.look import Look, LookField, label_masks
from services.stylizer.core.matching import LabelMatch, match_labels
from services.stylizer.core.objective import FeatureLayers, FieldObjective, StyleGoal, Weights
from services.stylizer.core.params import TransferParams
from services.stylizer.core.quality import Quality, score
from services.stylizer.core.solve import Progress, Solution, SolveLimits, identity_grid, solve_field
from services.stylizer.core.vgg import VGG19
from services.stylizer.core.warm_start import colour_statistics, monge_kantorovich

__all__ = ["Regions", "Transfer", "TransferResult"]

_MIN_SCORED_SHARE: Final = 0.001
"""Labels under this share of the content take no part in style distance: their Gram matrices are noise."""


@dataclass(frozen=True)
class Regions:
    """A label map at the size of its proxy: (H, W) integers that index ``names``."""

    indices: Tensor
    names: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """Share of the picture by name, labels without a pixel left out."""
        counts = torch.bincount(self.indices.flatten().long(), minlength=len(self.names))
        return {name: int(n) / self.indices.numel() for name, n in zip(self.names, counts, strict=True) if n > 0}

    def mask(self, name: str) -> Tensor:
        """Hard mask of one label: (H, W) float32; ones for the empty name."""
        if not name:
            return torch.ones_like(self.indices, dtype=torch.float32)
        return (self.indices == self.names.index(name)).float()


@dataclass(frozen=True)
class TransferResult:
    """A finished solve."""

    look: Look
    matches: tuple[LabelMatch, ...]
    solution: Solution
    quality: Quality
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Transfer:
    """One transfer on proxies of the photos.

    Attributes:
        trunk: feature network, warm.
        params: what the caller chose.
        I: (3, H, W) content photo, RGB 0..1.
        S: (3, H', W') style photo, RGB 0..1, in the content photo's RGB space.
        content: regions of I.
        style: regions of S.
        related: labels that may stand in for a missing one, see :func:`match_labels`.
    """

    trunk: VGG19
    params: TransferParams
    I: Tensor  # noqa: E741
    S: Tensor
    content: Regions
    style: Regions
    related: Mapping[str, Sequence[str]]

    def run(
        self,
        on_stage: Callable[[str], None],
        on_progress: Callable[[Progress, Callable[[], Tensor]], None],
        should_stop: Callable[[], bool],
    ) -> TransferResult:
        """Compute.

        Args:
            on_stage: called as ``warm_start``, ``solve``, ``score`` begin.
            on_progress: called after each evaluation with a function that gives the picture so far, (3, H, W).
            should_stop: polled before each evaluation.

        Raises:
            LabelsUnmatched: the policy ``reject`` applies.
            SolveCancelled: ``should_stop`` said so.
        """
        params, seconds = self.params, dict[str, float]()

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            on_stage(name)
            began = time.monotonic()
            yield
            seconds[name] = time.monotonic() - began

        with stage("warm_start"):
            matches = match_labels(self.content.shares(), self.style.shares(), params.label_policy, self.related)
            look = self._warm_look(matches)
            warm = LookField(look, self.I)
            window = Window.whole(*self.I.shape[1:])
            B = warm.base(self.I, warm.masks(self.I, window))
        with stage("solve"):
            goal, scored, M_content = self._goal(matches)
            weights = Weights(params.content_weight, params.style_weight, params.affine_weight)
            objective = FieldObjective(goal, self.I, B, weights)
            solution = solve_field(
                objective,
                SolveLimits(params.max_evaluations, params.time_budget_seconds),
                lambda progress: on_progress(progress, lambda: objective.picture(progress.grid)),
                should_stop,
                identity_grid(self.I.device),
            )
        solved = Look(solution.grid, look.affines, look.strengths, look.indices, look.names)
        with stage("score"):
            O = LookField(solved, self.I)(self.I, window, params.strength)  # noqa: E741
            quality = score(O, self.I, goal, M_content, scored)
        return TransferResult(solved, matches, solution, quality, seconds)

    def _warm_look(self, matches: Sequence[LabelMatch]) -> Look:
        affines, strengths = [], []
        for match in matches:
            M = self.content.mask(match.content_label)
            content = colour_statistics(self.I.flatten(1), M.flatten())
            kept = match.kind == "kept"
            goal = self.style.mask(match.style_label)
            style = content if kept else colour_statistics(self.S.flatten(1), goal.flatten())
            A, b = monge_kantorovich(content, style)
            affines.append(torch.cat([A, b[:, None]], dim=1).float())
            strengths.append(0.0 if kept else self.params.label_strengths.get(match.content_label, 1.0))
        names = tuple(match.content_label for match in matches)
        order = torch.tensor([names.index(name) if name in names else 0 for name in self.content.names])
        indices = order.to(self.content.indices.device)[self.content.indices.long()].to(torch.uint8)
        grid = identity_grid(self.I.device)
        return Look(grid, torch.stack(affines), torch.tensor(strengths, device=grid.device), indices, names)

    def _goal(self, matches: Sequence[LabelMatch]) -> tuple[StyleGoal, tuple[str, ...], Tensor]:
        scored = [m for m in matches if m.kind != "kept" and m.content_share >= _MIN_SCORED_SHARE]
        scored = scored or list(matches[:1])
        M_content = torch.stack([self.content.mask(m.content_label) for m in scored])
        M_style = torch.stack([self.style.mask(m.style_label) for m in scored])
        goal = StyleGoal(self.trunk, FeatureLayers.of(self.trunk), self.I, self.S, M_content, M_style)
        return goal, tuple(m.content_label for m in scored), M_content

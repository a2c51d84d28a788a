"""The whole computation of one transfer on pixels: match, warm start, solve, look, score."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.field import Window
from services.stylizer.core.look import Look, LookField
from services.stylizer.core.matching import LabelMatch, match_labels
from services.stylizer.core.objective import FeatureLayers, FieldObjective, StyleGoal, Weights
from services.stylizer.core.palette import Palette
from services.stylizer.core.params import TransferParams
from services.stylizer.core.quality import score
from services.stylizer.core.results import Quality
from services.stylizer.core.solve import Level, Progress, Solution, identity_grid, plan_levels, solve_field
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
        counts = torch.bincount(self.indices.flatten().long(), minlength=len(self.names)).tolist()
        return {name: n / self.indices.numel() for name, n in zip(self.names, counts, strict=True) if n > 0}

    def mask(self, name: str) -> Tensor:
        """Hard mask of one label: (H, W) float32; ones for the empty name."""
        if not name:
            return torch.ones_like(self.indices, dtype=torch.float32)
        return (self.indices == self.names.index(name)).float()


@dataclass(frozen=True)
class TransferResult:
    """A finished solve; ``stage_seconds`` has ``warm_start``, ``solve`` and ``score``; ``field`` knows the photo."""

    field: LookField
    matches: tuple[LabelMatch, ...]
    solution: Solution
    quality: Quality
    stage_seconds: Mapping[str, float]

    @property
    def look(self) -> Look:
        """What is left when the photo is gone."""
        return self.field.look


@dataclass(frozen=True)
class Transfer:
    """One transfer on proxies of the photos.

    Attributes:
        trunk: feature network, warm.
        params: what the caller chose; the proxies are already at ``solve_edge_px``.
        I: (3, H, W) content photo, RGB 0..1.
        S: (3, H', W') style photo, RGB 0..1, in the content photo's RGB space.
        content: regions of I.
        style: regions of S.
        related: labels that may stand in for a missing one, see :func:`match_labels`.
    """

    trunk: VGG19
    params: TransferParams
    I: Tensor
    S: Tensor
    content: Regions
    style: Regions
    related: Mapping[str, Sequence[str]]

    def run(
        self,
        on_stage: Callable[[str], None],
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> TransferResult:
        """Compute.

        Args:
            on_stage: called as ``warm_start``, ``solve``, ``score`` begin.
            on_progress: called after each evaluation.
            should_stop: polled before each evaluation.

        Raises:
            LabelsUnmatched: the policy ``reject`` applies.
            SolveCancelled: ``should_stop`` said so.
        """
        seconds: dict[str, float] = {}

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            on_stage(name)
            began = time.monotonic()
            yield
            seconds[name] = time.monotonic() - began

        with stage("warm_start"):
            matches = self.match()
            warm = self.warm_field(matches)
            B = self.warm_start(warm)
        with stage("solve"):
            goal = functools.cache(lambda: self.goal(matches))
            levels = [
                Level(edge, evaluations, functools.partial(self.objective, edge, matches, B, goal))
                for edge, evaluations in plan_levels(max(self.I.shape[1:]), self.params.max_evaluations)
            ]
            start = identity_grid(self.I.device)
            solution = solve_field(levels, self.params.time_budget_seconds, on_progress, should_stop, start)
        field = warm.with_grid(solution.grid)
        with stage("score"):
            O = field(self.I, Window.whole(*self.I.shape[1:]), self.params.strength)
            quality = self.score(O, matches, goal())
        return TransferResult(field, matches, solution, quality, seconds)

    def warm_start(self, field: LookField) -> Tensor:
        """The closed-form transfer alone: (3, H, W), not clipped."""
        return field.base(self.I, field.masks(self.I, Window.whole(*self.I.shape[1:])))

    def match(self) -> tuple[LabelMatch, ...]:
        """Which label steers which."""
        return match_labels(self.content.shares(), self.style.shares(), self.params.label_policy, self.related)

    def goal(self, matches: Sequence[LabelMatch]) -> StyleGoal:
        """What features are compared with at full solve size."""
        return self._goal(self.I, self.S, matches)

    def score(self, O: Tensor, matches: Sequence[LabelMatch], goal: StyleGoal) -> Quality:
        """Quality numbers of a picture (3, H, W) of the content proxy's size."""
        names = [match.content_label for match in _scored(matches)]
        masks = torch.stack([self.content.mask(name) for name in names])
        return score(O, self.I, goal, masks, names)

    def objective(
        self, edge_px: int, matches: Sequence[LabelMatch], B: Tensor, full_goal: Callable[[], StyleGoal]
    ) -> FieldObjective:
        """The objective with both photos reduced so that the content's long edge is ``edge_px``.

        ``full_goal`` gives :meth:`goal`, and is asked only at full size.
        """
        factor = edge_px / max(self.I.shape[1:])
        I, S, B = (_reduced(picture, factor) for picture in (self.I, self.S, B))
        goal = full_goal() if factor >= 1 else self._goal(I, S, matches)
        palette = self._palette(matches, I.shape[1:])
        params = self.params
        weights = Weights(params.content_weight, params.style_weight, params.affine_weight)
        return FieldObjective(goal, I, B, palette, weights)

    def warm_field(self, matches: Sequence[LabelMatch]) -> LookField:
        """The look of the closed-form transfer alone, tied to the content photo."""
        affines, strengths = [], []
        for match in matches:
            M = self.content.mask(match.content_label)
            content = colour_statistics(self.I.flatten(1), M.flatten())
            photo, M_style = self._style_source(match)
            A, b = monge_kantorovich(content, colour_statistics(photo.flatten(1), M_style.flatten()))
            affines.append(torch.cat([A, b[:, None]], dim=1).float())
            strengths.append(0.0 if match.kind == "kept" else self.params.label_strengths.get(match.content_label, 1.0))
        names = tuple(match.content_label for match in matches)
        indices = self._match_indices(matches).to(torch.uint8)
        grid = identity_grid(self.I.device)
        look = Look(grid, torch.stack(affines), torch.tensor(strengths, device=grid.device), indices, names)
        return LookField(look, self.I)

    def _palette(self, matches: Sequence[LabelMatch], size: tuple[int, ...]) -> Palette:
        indices = self._match_indices(matches)
        reduced = functional.interpolate(indices[None, None].float(), size=size, mode="nearest-exact")[0, 0]
        colours = []
        for match in matches:
            photo, M = self._style_source(match)
            colours.append(photo.flatten(1)[:, M.flatten() > 0])
        return Palette(colours, reduced)

    def _match_indices(self, matches: Sequence[LabelMatch]) -> Tensor:
        """Which match each pixel of the content photo belongs to: (H, W) int64."""
        names = [match.content_label for match in matches]
        order = torch.tensor([names.index(name) if name in names else 0 for name in self.content.names])
        return order.to(self.content.indices.device)[self.content.indices.long()]

    def _style_source(self, match: LabelMatch) -> tuple[Tensor, Tensor]:
        """Photo and mask that give a content label its colours: (3, H, W) and (H, W)."""
        if match.kind == "kept":
            return self.I, self.content.mask(match.content_label)
        return self.S, self.style.mask(match.style_label)

    def _goal(self, I: Tensor, S: Tensor, matches: Sequence[LabelMatch]) -> StyleGoal:
        scored = _scored(matches)
        M_content = torch.stack([self.content.mask(match.content_label) for match in scored])
        M_style = torch.stack([self.style.mask(match.style_label) for match in scored])
        M_content, M_style = (
            functional.interpolate(M[None], size=picture.shape[1:], mode="area")[0]
            for M, picture in ((M_content, I), (M_style, S))
        )
        return StyleGoal(self.trunk, FeatureLayers.of(self.trunk), I, S, M_content, M_style)


def _scored(matches: Sequence[LabelMatch]) -> Sequence[LabelMatch]:
    scored = [match for match in matches if match.kind != "kept" and match.content_share >= _MIN_SCORED_SHARE]
    return scored or matches[:1]


def _reduced(picture: Tensor, factor: float) -> Tensor:
    """Area-averaged to ``factor`` times the size: (3, H, W) to (3, h, w)."""
    if factor >= 1:
        return picture
    size = [max(round(edge * factor), 3) for edge in picture.shape[1:]]
    return functional.interpolate(picture[None], size=size, mode="area")[0]

"""The whole computation of one transfer on pixels: match, warm start, solve, look, score."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.checkpoint import Journal
from services.stylizer.core.evaluator import Evaluator
from services.stylizer.core.field import GRID_SHAPE
from services.stylizer.core.local_affine import applied
from services.stylizer.core.look import Look
from services.stylizer.core.look_field import LookField
from services.stylizer.core.matching import LabelMatch, match_labels
from services.stylizer.core.objective import FeatureLayers, PictureObjective, StyleGoal, Weights
from services.stylizer.core.palette import Palette
from services.stylizer.core.paper import PaperSettings, solve_paper
from services.stylizer.core.paper_objective import PaperWeights
from services.stylizer.core.paper_photos import PaperPhotos
from services.stylizer.core.params import TransferParams
from services.stylizer.core.quality import score
from services.stylizer.core.results import Losses, Quality
from services.stylizer.core.solve import Level, LevelPlan, Progress, plan_levels, solve
from services.stylizer.core.trunk import Trunk
from services.stylizer.core.variables import GridProblem, PixelProblem, Problem, State, resized
from services.stylizer.core.warm_start import colour_statistics, monge_kantorovich

__all__ = ["Outcome", "Regions", "Transfer", "TransferResult"]

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
class Outcome:
    """What a mode of solving gives.

    Attributes:
        look: what is left when the photo is gone.
        coefficients: (3, 4, h, w) float32, the picture as local affine maps ``O = A·I + b``, label strengths applied.
        first: losses at the first point.
        final: losses at the returned point.
        evaluations: network evaluations used.
        full_size_evaluations: the same in pixels, see :class:`Solution`.
        stopped_by: ``plateau``, ``max_evaluations`` or ``time_budget``.
    """

    look: Look
    coefficients: Tensor
    first: Losses
    final: Losses
    evaluations: int
    full_size_evaluations: float
    stopped_by: str


@dataclass(frozen=True)
class TransferResult:
    """A finished solve; ``stage_seconds`` has ``warm_start``, ``solve`` and ``score``."""

    outcome: Outcome
    matches: tuple[LabelMatch, ...]
    quality: Quality
    stage_seconds: Mapping[str, float]


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
        evaluator: of the trunk, shared with transfers that run in other threads; None is one of its own. What
            ``mode = paper`` evaluates is never batched.
    """

    trunk: Trunk
    params: TransferParams
    I: Tensor
    S: Tensor
    content: Regions
    style: Regions
    related: Mapping[str, Sequence[str]]
    evaluator: Evaluator | None = None

    def run(
        self,
        on_stage: Callable[[str], None],
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        journal: Journal | None = None,
    ) -> TransferResult:
        """Compute.

        Args:
            on_stage: called as ``warm_start``, ``solve``, ``score`` begin.
            on_progress: called after each evaluation.
            should_stop: polled before each evaluation.
            journal: the checkpoint to go on from, and who keeps new ones.

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
        goal = functools.cache(lambda: self.goal(matches))
        with stage("solve"):
            if self.params.mode == "paper":
                outcome = self._solve_paper(matches, warm, on_progress, should_stop, journal)
            else:
                outcome = self._solve_field(matches, warm, goal, on_progress, should_stop, journal)
        with stage("score"):
            O = applied(outcome.coefficients, self.I).clamp(0, 1)
            quality = self.score(self.I + self.params.strength * (O - self.I), matches, goal())
        return TransferResult(outcome, matches, quality, seconds)

    def _solve_field(
        self,
        matches: Sequence[LabelMatch],
        warm: LookField,
        goal: Callable[[], StyleGoal],
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        journal: Journal | None,
    ) -> Outcome:
        edge = max(self.I.shape[1:])
        plans = plan_levels(edge, self.params.max_evaluations)
        goals = functools.cache(lambda edge_px: goal() if edge_px == edge else self.goal(matches, edge_px))
        reference = self._reference(goals(plans[0].edge_px), _reduced(warm.base, plans[0].edge_px / edge))
        objective = functools.cache(lambda edge_px: self.objective(edge_px, matches, goals(edge_px), reference))

        def level(plan: LevelPlan) -> Level:
            kind = PixelProblem if plan.pixels else GridProblem

            def begin(state: State) -> Problem:
                I, B = (_reduced(picture, plan.edge_px / edge) for picture in (self.I, warm.base))
                return kind(objective(plan.edge_px), I, B, state)

            return Level(plan.edge_px, plan.evaluations, begin)

        levels = [level(plan) for plan in plans]
        budget = self.params.time_budget_seconds
        start = State.warm_start(self.I.device)
        with self.evaluator.solving() if self.evaluator else contextlib.nullcontext():
            solution = solve(levels, budget, on_progress, should_stop, start, edge, journal)
        with torch.no_grad():
            look = replace(warm.look, grid=solution.state.grid)
            field = LookField(look, self.I)
            T = field.picture()
            if solution.state.change is not None:
                T = T + resized(solution.state.change, self.I.shape[1:])
            look = field.holding(objective(edge).picture(T))
            coefficients = LookField(look, self.I).coefficients()
        return Outcome(
            look,
            coefficients,
            solution.first,
            solution.final,
            solution.evaluations,
            solution.full_size_evaluations,
            solution.stopped_by,
        )

    def _solve_paper(
        self,
        matches: Sequence[LabelMatch],
        warm: LookField,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        journal: Journal | None,
    ) -> Outcome:
        masks = self._masks(matches)
        whole = all(
            bool((M == 1).all()) for M in masks
        )  # one region each: plain Gram matrices, not faded at the border
        photos = PaperPhotos(self.I, self.S) if whole else PaperPhotos(self.I, self.S, *masks)
        params = self.params
        settings = PaperSettings(
            PaperWeights(params.content_weight, params.style_weight, params.affine_weight),
            params.max_evaluations,
            smoothing=params.affine_weight > 0,
            seed=params.seed,
            time_budget_seconds=params.time_budget_seconds,
        )
        solution = solve_paper(self.trunk, photos, settings, on_progress, should_stop, journal)
        with torch.no_grad():
            look = warm.holding(solution.picture)
            coefficients = warm.shared(solution.coefficients)
        return Outcome(
            look,
            coefficients,
            solution.first,
            solution.final,
            solution.evaluations,
            float(solution.evaluations),
            solution.stopped_by,
        )

    def match(self) -> tuple[LabelMatch, ...]:
        """Which label steers which."""
        return match_labels(self.content.shares(), self.style.shares(), self.params.label_policy, self.related)

    def goal(self, matches: Sequence[LabelMatch], edge_px: int | None = None) -> StyleGoal:
        """What features are compared with, at full solve size or where the content's long edge is ``edge_px``."""
        factor = 1.0 if edge_px is None else edge_px / max(self.I.shape[1:])
        return self._goal(_reduced(self.I, factor), _reduced(self.S, factor), matches)

    def score(self, O: Tensor, matches: Sequence[LabelMatch], goal: StyleGoal) -> Quality:
        """Quality numbers of a picture (3, H, W) of the content proxy's size."""
        names = [match.content_label for match in _scored(matches)]
        masks = torch.stack([self.content.mask(name) for name in names])
        return score(O, self.I, goal, masks, names)

    def objective(
        self, edge_px: int, matches: Sequence[LabelMatch], goal: StyleGoal, reference: float
    ) -> PictureObjective:
        """The objective at a size of the content photo, for that size's goal.

        ``reference`` is the warm start's relative style distance.
        """
        I = _reduced(self.I, edge_px / max(self.I.shape[1:]))
        params = self.params
        weights = Weights(params.content_weight, params.style_weight, params.affine_weight)
        palette = self._palette(matches, I.shape[1:])
        return PictureObjective(goal, I, palette, weights, reference, self.evaluator)

    def _reference(self, goal: StyleGoal, B: Tensor) -> float:
        with torch.no_grad():
            features = goal.trunk(B.clamp(0, 1)[None], goal.layers.style)
            return float(goal.relative_style(features))

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
        device = self.I.device
        look = Look(
            grid=torch.zeros(GRID_SHAPE, device=device),
            affines=torch.stack(affines),
            strengths=torch.tensor(strengths, device=device),
            indices=indices,
            change=torch.zeros((3, 1, 1), dtype=torch.int8, device=device),
            scale=0.0,
            names=names,
        )
        look.check_room()
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

    def _masks(self, matches: Sequence[LabelMatch]) -> tuple[Tensor, Tensor]:
        """Hard masks of the labels that are compared: (L, H, W) of the content and (L, H', W') of their partners."""
        scored = _scored(matches)
        M_content = torch.stack([self.content.mask(match.content_label) for match in scored])
        M_style = torch.stack([self.style.mask(match.style_label) for match in scored])
        return M_content, M_style

    def _goal(self, I: Tensor, S: Tensor, matches: Sequence[LabelMatch]) -> StyleGoal:
        M_content, M_style = (
            functional.interpolate(M[None], size=picture.shape[1:], mode="area")[0]
            for M, picture in zip(self._masks(matches), (I, S), strict=True)
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

"""Where the time of one evaluation goes, level by level; part of ``tests.benchmarks.quality``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from services.common.images import encode_preview
from services.stylizer.core.field import gamut_penalty, grid_smoothness
from services.stylizer.core.matting import matting_energy
from services.stylizer.core.objective import PictureObjective
from services.stylizer.core.params import TransferParams
from services.stylizer.core.solve import LevelPlan, plan_levels
from services.stylizer.core.transfer import Transfer
from services.stylizer.core.variables import GridProblem, PixelProblem, Problem, State
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.optimiser_time import optimiser_seconds
from tests.benchmarks.pairs import Pair

__all__ = ["LevelTimes", "evaluation_times", "time_table"]

_REPEATS = 9


@dataclass(frozen=True)
class LevelTimes:
    """Seconds of one evaluation, forward and backward: medians of parts that were measured in turn.

    Attributes:
        edge_px: the level's long edge.
        pixels: whether pixels are solved or the grid.
        evaluations: that the plan gives the level.
        whole: all of an evaluation but what L-BFGS does with it.
        network: the same picture through network, style and content loss alone.
        rest_share: what is neither, with L-BFGS, as a share of all; ``network`` is taken pair by pair.
        optimiser: L-BFGS, an evaluation.
        parts: each of the others alone.
        preview: making a preview and encoding it.
    """

    edge_px: int
    pixels: bool
    evaluations: int
    whole: float
    network: float
    rest_share: float
    optimiser: float
    parts: dict[str, float]
    preview: float


def evaluation_times(name: str, network: FeatureNetwork, params: TransferParams) -> list[LevelTimes]:
    """Each level of the solve that ``params`` ask for, on one pair; a level's photos are loaded at its own size."""
    edge = max(Pair.load(name, params.solve_edge_px).I.shape)
    return [_level(name, network, plan) for plan in plan_levels(edge, params.max_evaluations)]


def _level(name: str, network: FeatureNetwork, plan: LevelPlan) -> LevelTimes:
    pair = Pair.load(name, plan.edge_px)
    transfer = Transfer(network.trunk, TransferParams(), pair.I, pair.S, pair.content_regions, pair.style_regions, {})
    matches = transfer.match()
    B = transfer.warm_field(matches).base
    objective = transfer.objective(max(pair.I.shape[1:]), matches, transfer.goal(matches), reference=1.0)
    problem = (PixelProblem if plan.pixels else GridProblem)(objective, pair.I, B, State.warm_start(B.device))
    x = problem.start.detach().clone().requires_grad_(True)
    O = problem.picture(x).detach()

    def whole() -> None:
        problem(x)[0].backward()

    def features() -> None:
        leaf, goal = O.clone().requires_grad_(True), objective.goal
        found = goal.trunk(leaf[None], goal.layers.all)
        (goal.relative_style(found) + goal.relative_content(found)).backward()

    def preview() -> None:
        with torch.no_grad():
            encode_preview(problem.picture(x).permute(1, 2, 0).numpy())

    parts = {"whole": whole, "features": features, "preview": preview, **_parts(problem, objective, x, O)}
    times: dict[str, list[float]] = {part: [] for part in parts}
    for repeat in range(_REPEATS + 1):
        for part, run in parts.items():
            began = time.perf_counter()
            run()
            x.grad = None
            if repeat:  # the first round warms caches and compiles
                times[part].append(time.perf_counter() - began)
    optimiser = optimiser_seconds(problem, plan.edge_px)
    pairs = zip(times["features"], times["whole"], strict=True)
    share = statistics.median(1 - f / (w + optimiser) for f, w in pairs)
    medians = {part: statistics.median(values) for part, values in times.items()}
    whole_seconds, features_seconds, preview_seconds = (medians.pop(k) for k in ("whole", "features", "preview"))
    return LevelTimes(
        plan.edge_px,
        plan.pixels,
        plan.evaluations,
        whole_seconds,
        features_seconds,
        share,
        optimiser,
        medians,
        preview_seconds,
    )


def _parts(problem: Problem, objective: PictureObjective, x: Tensor, O: Tensor) -> dict[str, Callable[[], None]]:
    """What an evaluation does beside network, style and content, each alone from a leaf back to that leaf."""
    ones, T = torch.ones_like(O), O.clone().requires_grad_(True)

    def proximal() -> None:
        objective.picture(T).backward(ones)

    def laplacian() -> None:
        matting_energy(T, objective._laplacian).backward()

    def edges() -> None:
        objective._edges.similarity(T).backward()

    def flatness() -> None:
        objective._flat.excess(T).backward()

    def penalties() -> None:
        (gamut_penalty(T) + objective._palette.penalty(T)).backward()

    parts: dict[str, Callable[[], None]] = {
        "proximal step": proximal,
        "Laplacian": laplacian,
        "edges": edges,
        "flatness": flatness,
        "gamut and palette": penalties,
    }
    if isinstance(problem, GridProblem):

        def grid() -> None:
            problem._field(x).backward(ones)
            grid_smoothness(x).backward()

        parts["grid"] = grid
    return parts


def time_table(levels: list[LevelTimes], preview_every: int) -> list[str]:
    """Level by level, then the parts of each."""
    total = sum(level.evaluations * (level.whole + level.optimiser) for level in levels)
    rest = sum(level.evaluations * (level.whole + level.optimiser) * level.rest_share for level in levels)
    preview = sum(level.evaluations / preview_every * level.preview for level in levels)
    parts = list(dict.fromkeys(part for level in levels for part in level.parts))
    return [
        f"Milliseconds of one evaluation, forward and backward; medians of {_REPEATS}, all parts of a level in turn. "
        "*Network* is the",
        "same picture through network, style and content loss alone; *rest* is what is not, L-BFGS included.",
        "",
        "| long edge | variable | evaluations | whole | network | L-BFGS | rest | preview |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {level.edge_px} px | {'pixels' if level.pixels else 'grid'} | {level.evaluations} "
            f"| {level.whole * 1e3:.0f} | {level.network * 1e3:.0f} | {level.optimiser * 1e3:.1f} "
            f"| {level.rest_share:.1%} | {level.preview * 1e3:.1f} |"
            for level in levels
        ),
        "",
        f"Over the evaluations of the plan the rest takes {rest / total:.1%}; previews at every {preview_every}th "
        f"evaluation take {preview / total:.2%}.",
        "",
        "Parts of the rest, each alone, and as a share of a whole evaluation:",
        "",
        f"| long edge | variable | {' | '.join(parts)} |",
        f"|---|---|{'---|' * len(parts)}",
        *(
            f"| {level.edge_px} px | {'pixels' if level.pixels else 'grid'} | "
            f"{' | '.join(_part(level, part) for part in parts)} |"
            for level in levels
        ),
        "",
    ]


def _part(level: LevelTimes, part: str) -> str:
    if part not in level.parts:
        return ""
    seconds = level.parts[part]
    return f"{seconds * 1e3:.1f}, {seconds / (level.whole + level.optimiser):.1%}"

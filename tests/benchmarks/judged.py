"""Solves of a pair as a caller gets them, scored beside the published picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.images import OutputFormat, encode_photo, encode_preview, open_photo
from services.common.taxonomy import RELATED
from services.stylizer.core.affine_render import render
from services.stylizer.core.matching import LabelMatch
from services.stylizer.core.objective import StyleGoal
from services.stylizer.core.params import TransferParams
from services.stylizer.core.results import Quality
from services.stylizer.core.solve import Progress
from services.stylizer.core.transfer import Transfer
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.pairs import LIMITS, Pair, tensor

__all__ = ["SCORED_EDGE_PX", "Judge", "Row", "Solved", "solved", "transfer_of"]

SCORED_EDGE_PX = 700
"""Long edge at which every picture is scored: the published pictures' own."""


@dataclass(frozen=True)
class Solved:
    """One solve's figures.

    Attributes:
        evaluations: network evaluations used.
        full_size_evaluations: the same in pixels of the scored size.
        stopped_by: what ended the solve.
        solve_seconds: of the solve stage; decoding, matching, warm start, rendering and encoding are not in it.
        preview_seconds: from matching on until the first evaluation's picture stands encoded.
        look_bytes: of the serialised look.
        quality: of the rendered picture.
    """

    evaluations: int
    full_size_evaluations: float
    stopped_by: str
    solve_seconds: float
    preview_seconds: float
    look_bytes: int
    quality: Quality


@dataclass(frozen=True)
class Row:
    """A solve beside the published picture."""

    pair: str
    ours: Solved
    published: Quality


class Judge:
    """Scores full-size pictures of a pair with the given masks, see docs/quality.md.

    Args:
        pair: loaded at the size that pictures are scored at.
        network: whose features are compared.
    """

    def __init__(self, pair: Pair, network: FeatureNetwork) -> None:
        self.pair, self._transfer = pair, transfer_of(pair, network, TransferParams())
        self._matches: Sequence[LabelMatch] = self._transfer.match()
        self._goal: StyleGoal = self._transfer.goal(self._matches)
        self.published = self._transfer.score(pair.P, self._matches, self._goal)

    def score(self, pixels: NDArray[np.uint8]) -> Quality:
        """Of (H, W, 3) pixels of the content photo's size, written to a file and read back as any caller would."""
        encoded, _ = encode_photo(pixels, self.pair.content, OutputFormat(format="png"))
        proxy = open_photo(encoded, "result", LIMITS).proxy(max(self.pair.I.shape), None)
        return self._transfer.score(tensor(proxy), self._matches, self._goal)


def solved(
    judge: Judge, network: FeatureNetwork, params: TransferParams, pair: Pair | None = None
) -> tuple[Row, NDArray[np.uint8]]:
    """Solve a pair, render it onto the photo at its full size and 8 bits, and score that: figures and the picture.

    ``pair`` is the judge's at the solve's size if it is to have other regions than those given.
    """
    name, content = judge.pair.name, judge.pair.content
    pair = pair or Pair.load(name, params.solve_edge_px)
    first: list[float] = []

    def on_progress(progress: Progress) -> None:
        if not first:
            encode_preview(progress.picture().permute(1, 2, 0).numpy())
            first.append(time.perf_counter())

    began = time.perf_counter()
    result = transfer_of(pair, network, params).run(lambda _: None, on_progress, lambda: False)
    outcome = result.outcome
    pixels = render(outcome.coefficients, content.pixels(), params.strength, params.preserve, 8, lambda: False)
    figures = Solved(
        outcome.evaluations,
        outcome.full_size_evaluations * (max(pair.I.shape) / max(judge.pair.I.shape)) ** 2,
        outcome.stopped_by,
        result.stage_seconds["solve"],
        first[0] - began,
        len(outcome.look.to_bytes()),
        judge.score(pixels),
    )
    return Row(name, figures, judge.published), pixels


def transfer_of(pair: Pair, network: FeatureNetwork, params: TransferParams) -> Transfer:
    """The transfer of a pair as it was loaded."""
    return Transfer(network.trunk, params, pair.I, pair.S, pair.content_regions, pair.style_regions, RELATED)

"""What each step of ``mode = paper`` gives on the development pairs, and where its time goes.

    python -m tests.benchmarks.paper [--edge 256] [--evaluations 2000] [--pairs 01 09 ...]

Writes ``docs/benchmarks/paper-<edge>.md`` and ``.json``, and sheets (content, style, published / first run, second run,
smoothed) under ``build/benchmarks/``. With 2000 evaluations a pair takes about 20 minutes at 256 px on two cores. The
mode beside ``field``, at full size and as a caller gets it, is in ``tests.benchmarks.quality``.

Pictures are those of the solve size; they are scored there with the given masks, as is the published one. Seconds are
the solve's on this machine, from the first evaluation to the finished picture.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from services.stylizer.core.cross_bilateral import bilateral_smoothed
from services.stylizer.core.local_affine import local_affine
from services.stylizer.core.paper import PaperSettings, plan_runs, solve_paper
from services.stylizer.core.paper_objective import PaperObjective, PaperWeights
from services.stylizer.core.paper_photos import PaperPhotos
from services.stylizer.core.paper_runs import PaperRuns
from services.stylizer.core.params import TransferParams
from services.stylizer.core.results import Losses, Quality
from services.stylizer.core.solve import Progress
from services.stylizer.core.transfer import Transfer
from services.stylizer.core.vgg import VGG19
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT, Pair, feature_network, levels, pair_names, write_sheet
from tests.benchmarks.report import report

_TIMED = 5
_HISTORY = 100


@dataclass(frozen=True)
class Row:
    """One pair's figures.

    Attributes:
        pair: its name.
        evaluations: of both runs.
        seconds: of both runs and the smoothing.
        pictures: quality of the best picture of the first run, that of the second, the smoothed and the published one.
    """

    pair: str
    evaluations: int
    seconds: float
    pictures: dict[str, Quality]


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=PaperSettings().evaluations)
    parser.add_argument("--pairs", nargs="*")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    network = feature_network()
    rows: list[Row] = []
    shares: dict[str, float] = {}
    for name in pair_names(options.pairs):
        row, photos = _pair(Pair.load(name, options.edge), network, options.evaluations)
        rows.append(row)
        print("\n".join(_lines(row)), flush=True)
        shares = shares or _shares(network.trunk, photos)
    lines = _page(rows, shares, network, options.edge, options.evaluations)
    record = {"machine": described(), "rows": [asdict(row) for row in rows], "shares": shares}
    report(lines, options.out, f"paper-{options.edge}", record)


def _pair(pair: Pair, network: FeatureNetwork, evaluations: int) -> tuple[Row, PaperPhotos]:
    params = TransferParams(solve_edge_px=max(pair.I.shape[1:]))
    transfer = Transfer(network.trunk, params, pair.I, pair.S, pair.content_regions, pair.style_regions, {})
    matches = transfer.match()
    M_content = torch.stack([pair.content_regions.mask(match.content_label) for match in matches])
    M_style = torch.stack([pair.style_regions.mask(match.style_label) for match in matches])
    photos = PaperPhotos(pair.I, pair.S, M_content, M_style)
    settings = PaperSettings(evaluations=evaluations)
    bests = _Bests(plan_runs(evaluations, settings.weights.affine)[0][0])
    began = time.perf_counter()
    solution = solve_paper(network.trunk, photos, settings, bests.on_progress, lambda: False)
    seconds = time.perf_counter() - began
    first, second = (bests.pictures[run] for run in (False, True))
    pictures = {"first run": first(), "second run": second(), "smoothed": solution.picture, "published": pair.P}
    goal = transfer.goal(matches)
    scores = {name: transfer.score(O, matches, goal) for name, O in pictures.items()}
    given, made = (pair.I, pair.S, pair.P), list(pictures.values())[:3]
    write_sheet(f"paper-{pair.name}", [[levels(O) for O in row] for row in (given, made)])
    return Row(pair.name, solution.evaluations, seconds, scores), photos


class _Bests:
    """Pictures at the lowest total of each run."""

    def __init__(self, first_run: int) -> None:
        self._first_run = first_run
        self._lowest: dict[bool, float] = {}
        self.pictures: dict[bool, Callable[[], Tensor]] = {}

    def on_progress(self, progress: Progress) -> None:
        second = progress.evaluation > self._first_run
        if progress.losses.total < self._lowest.get(second, float("inf")):
            self._lowest[second], self.pictures[second] = progress.losses.total, progress.picture


def _shares(trunk: VGG19, photos: PaperPhotos) -> dict[str, float]:
    """CPU seconds of one evaluation of the second run and of its parts, in turn, and of a step of L-BFGS; medians.

    CPU time of all threads, since small operations of many threads wait long for each other on a busy machine.
    """
    whole = PaperObjective(trunk, photos, PaperWeights())
    features_only = PaperObjective(trunk, photos, PaperWeights(affine=0, tv=0))
    x = photos.I.flip(0) * 255 - 115

    def evaluated(objective: PaperObjective) -> Callable[[], None]:
        def run() -> None:
            objective(x.requires_grad_(True), True)[0].backward()
            x.grad = None

        return run

    def smoothing() -> None:
        bilateral_smoothed(local_affine(x.detach().flip(0) / 255, photos.I), photos.I)

    smoothing()  # compiles it
    parts = {"whole": evaluated(whole), "features_only": evaluated(features_only), "smoothing": smoothing}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(_TIMED):
        for name, part in parts.items():
            began = time.process_time()
            part()
            times[name].append(time.process_time() - began)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    seconds["optimiser"] = _optimiser_seconds(x.detach())
    rest = seconds["whole"] - seconds["features_only"] + seconds["optimiser"]
    seconds["rest_share"] = rest / (seconds["whole"] + seconds["optimiser"])
    return seconds


def _optimiser_seconds(x: Tensor) -> float:
    """CPU seconds between evaluations of a quadratic function once the history is full."""
    curvature = torch.logspace(-4, 0, x.numel()).view_as(x)
    moments: list[tuple[float, float]] = []

    def objective(point: Tensor, affine: bool) -> tuple[Tensor, Losses]:
        began = time.process_time()
        total = (curvature * point.square()).sum()
        moments.append((began, time.process_time()))
        return total, Losses(float(total.detach()), 0.0, 0.0, 0.0, 0.0, 0.0)

    evaluations = _HISTORY + 1 + _TIMED
    PaperRuns(objective, evaluations, 0.0, lambda _: None, lambda: False).descend(x, evaluations, False)
    between = [following[0] - moment[1] for moment, following in itertools.pairwise(moments)]
    return statistics.median(between[-_TIMED:])


def _figures(quality: Quality) -> str:
    q = quality
    return f"{q.style_relative:.4f} | {q.affine_per_pixel_e6:.0f} | {q.edges:.3f} | {q.clipped_share:.3f}"


def _lines(row: Row) -> list[str]:
    first, *rest = [f"{name} | {_figures(quality)} |" for name, quality in row.pictures.items()]
    start = f"| {row.pair} | {row.evaluations} | {row.seconds:.1f} | "
    return [start + first, *(f"| | | | {line}" for line in rest)]


def _page(rows: list[Row], shares: dict[str, float], network: FeatureNetwork, edge: int, evaluations: int) -> list[str]:
    return [
        f"# What each step of `mode = paper` gives at {edge} px",
        "",
        f"Made by `python -m tests.benchmarks.paper --edge {edge} --evaluations {evaluations}`.",
        f"{described()}, features {network.info.name}/{network.info.version}, given masks. Scored at {edge} px as",
        "[quality.md](../quality.md) defines. Lower is better but for edges. The published pictures were solved at 700",
        "px.",
        "",
        "| pair | evaluations | solve s | picture | style | affine | edges | clipped |",
        "|---|---|---|---|---|---|---|---|",
        *(line for row in rows for line in _lines(row)),
        "",
        "## Where the time of one evaluation goes",
        "",
        f"CPU time of all threads, medians of {_TIMED}, measured in turn on the first pair: an evaluation of the",
        f"second run {shares['whole'] * 1e3:.0f} ms, without Laplacian and total variation",
        f"{shares['features_only'] * 1e3:.0f} ms; a step of L-BFGS with {_HISTORY} pairs of history",
        f"{shares['optimiser'] * 1e3:.0f} ms. So what is not network takes {shares['rest_share']:.1%}. Local",
        f"affine fit and smoothing, once at the end: {shares['smoothing']:.1f} s.",
    ]


if __name__ == "__main__":
    main()

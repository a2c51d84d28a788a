"""Quality of results: ours beside the published pictures, what fewer or more evaluations give, and ``mode = paper``.

    python -m tests.benchmarks.quality [--parts field sweep paper time] [--pairs 01 09 ...] [--quality high]
        [--sweep 10 20 30 40 80 160] [--sweep-edge 512]
        [--paper-pairs 09 58] [--paper-edge 256] [--paper-evaluations 300]

Parts, each with a table and its rows as JSON under ``docs/benchmarks/``:

- ``field``: every pair at a quality preset, or at several: ``quality-<preset>.md``;
- ``sweep``: every pair with so many evaluations: ``quality-sweep.md``;
- ``paper``: both modes on the same pairs at the same size: ``quality-paper.md``. All of the published 2000 evaluations
  at 700 px take hours a pair on two cores, so a few pairs are solved smaller and shorter unless asked otherwise;
- ``time``: where the time of an evaluation goes, on the first pair: ``quality-time.md``.

Contact sheets (content, style / ours, published; for ``paper`` content, style, published / paper, field) and our
pictures alone are written under ``build/benchmarks/quality/``: the pairs' pictures are not ours to publish.

All of it takes hours. Each row is kept as soon as it is measured, and is good for the code, network, threads and
parameters that it was measured with: a run that was cut short goes on where it ended. ``--anew`` measures again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from services.stylizer.core.paper import PaperSettings
from services.stylizer.core.params import CHOICES, PRESETS, TransferParams
from tests.benchmarks.bench import Bench, given
from tests.benchmarks.evaluation_time import evaluation_times, time_table
from tests.benchmarks.judged import SCORED_EDGE_PX, Row
from tests.benchmarks.pairs import BUILD, ROOT, feature_network, pair_names
from tests.benchmarks.quality_tables import Counts, field_table, paper_table, sweep_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"field": _field, "sweep": _sweep, "paper": _paper, "time": _time}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--pairs", nargs="+")
    parser.add_argument("--quality", nargs="+", choices=CHOICES["quality"], default=["high"])
    parser.add_argument("--sweep", nargs="+", type=int, default=[10, 20, 30, 40, 80, 160])
    parser.add_argument("--sweep-edge", type=int, default=PRESETS["field"]["standard"].solve_edge_px)
    parser.add_argument("--paper-pairs", nargs="+", default=["09", "58"])
    parser.add_argument("--paper-edge", type=int, default=256)
    parser.add_argument("--paper-evaluations", type=int, default=300)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    parser.add_argument("--build", type=Path, default=BUILD / "quality")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    bench = Bench(feature_network(), options)
    for part in options.parts:
        parts[part](bench, options)


def _field(bench: Bench, options: argparse.Namespace) -> None:
    for quality in options.quality:
        params = TransferParams.chosen(quality=quality)
        rows = []
        for pair in pair_names(options.pairs):
            row, picture = bench.row(pair, params)
            rows.append(row)
            bench.sheet(f"{quality}/{pair}", [given(pair, "content", "style"), [picture, *given(pair, "published")]])
            shutil.copyfile(picture, options.build / quality / f"{pair}-ours.png")
        bench.write(
            quality,
            f"Quality `{quality}` ({params.solve_edge_px} px, {params.max_evaluations} evaluations) beside the "
            "published pictures",
            f"--parts field --quality {quality}",
            field_table(rows),
            {"params": asdict(params), "counts": asdict(Counts.of(rows)), "rows": [asdict(row) for row in rows]},
        )


def _sweep(bench: Bench, options: argparse.Namespace) -> None:
    rows: dict[int, list[Row]] = {evaluations: [] for evaluations in options.sweep}
    for pair in pair_names(options.pairs):
        for evaluations in options.sweep:
            params = TransferParams(solve_edge_px=options.sweep_edge, max_evaluations=evaluations)
            rows[evaluations].append(bench.row(pair, params)[0])
    bench.write(
        "sweep",
        f"What more evaluations give at {options.sweep_edge} px",
        f"--parts sweep --sweep {' '.join(map(str, options.sweep))} --sweep-edge {options.sweep_edge}",
        sweep_table(rows),
        {
            "solve_edge_px": options.sweep_edge,
            "counts": {evaluations: asdict(Counts.of(found)) for evaluations, found in rows.items()},
            "rows": {evaluations: [asdict(row) for row in found] for evaluations, found in rows.items()},
        },
    )


def _paper(bench: Bench, options: argparse.Namespace) -> None:
    edge = options.paper_edge
    modes = (
        TransferParams(mode="paper", solve_edge_px=edge, max_evaluations=options.paper_evaluations),
        TransferParams(solve_edge_px=edge),
    )
    rows = []
    for pair in pair_names(options.paper_pairs):
        (paper, paper_picture), (field, field_picture) = (bench.row(pair, params) for params in modes)
        rows.append((paper, field))
        bench.sheet(f"paper/{pair}", [given(pair, "content", "style", "published"), [paper_picture, field_picture]])
    published = PaperSettings().evaluations
    bench.write(
        "paper",
        f"`mode = paper` beside `mode = field`, both solved at {edge} px",
        f"--parts paper --paper-pairs {' '.join(options.paper_pairs)} --paper-edge {edge} "
        f"--paper-evaluations {options.paper_evaluations}",
        [
            f"Here `paper` has {options.paper_evaluations} evaluations at {edge} px; the published pictures had "
            f"{published} at {SCORED_EDGE_PX} px.",
            *paper_table(rows, published),
        ],
        {
            "params": [asdict(params) for params in modes],
            "rows": [[asdict(row) for row in both] for both in rows],
        },
    )


def _time(bench: Bench, options: argparse.Namespace) -> None:
    params = TransferParams.chosen(quality=options.quality[0])
    pair = pair_names(options.pairs)[0]
    levels = evaluation_times(pair, bench.network, params)
    bench.write(
        "time",
        f"Where the time of an evaluation goes, quality `{options.quality[0]}`, pair {pair}",
        f"--parts time --quality {options.quality[0]}",
        time_table(levels, params.preview_every),
        {"pair": pair, "params": asdict(params), "levels": [asdict(level) for level in levels]},
    )


if __name__ == "__main__":
    main()

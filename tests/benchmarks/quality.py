"""Quality of results: ours beside the published pictures, what fewer or more evaluations give, and ``mode = paper``.

    python -m tests.benchmarks.quality [--parts field sweep paper time] [--pairs 01 09 ...] [--quality high]
        [--sweep 10 20 40 80 160] [--sweep-edge 512] [--paper-pairs 09 58] [--paper-edge 256] [--paper-evaluations 300]

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
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.images import open_photo
from services.stylizer.core.paper import PaperSettings
from services.stylizer.core.params import CHOICES, PRESETS, TransferParams
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.evaluation_time import evaluation_times, time_table
from tests.benchmarks.judged import SCORED_EDGE_PX, Judge, Row, solved
from tests.benchmarks.kept import KeptRows
from tests.benchmarks.machine import described, pairs_dir
from tests.benchmarks.pairs import BUILD, LIMITS, ROOT, Pair, feature_network, pair_names, write_sheet
from tests.benchmarks.quality_tables import Counts, field_table, paper_table, sweep_table

_WARM = TransferParams(solve_edge_px=96, max_evaluations=4)
"""A solve that is not measured: it compiles and warms what a service has warm before it is ready."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"field": _field, "sweep": _sweep, "paper": _paper, "time": _time}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--pairs", nargs="+")
    parser.add_argument("--quality", nargs="+", choices=CHOICES["quality"], default=["high"])
    parser.add_argument("--sweep", nargs="+", type=int, default=[10, 20, 40, 80, 160])
    parser.add_argument("--sweep-edge", type=int, default=PRESETS["field"]["standard"].solve_edge_px)
    parser.add_argument("--paper-pairs", nargs="+", default=["09", "58"])
    parser.add_argument("--paper-edge", type=int, default=256)
    parser.add_argument("--paper-evaluations", type=int, default=300)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    parser.add_argument("--build", type=Path, default=BUILD / "quality")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    bench = _Bench(feature_network(), options)
    for part in options.parts:
        parts[part](bench, options)


class _Bench:
    """What the parts share: network, judge, kept rows, and where tables and sheets go."""

    def __init__(self, network: FeatureNetwork, options: argparse.Namespace) -> None:
        self.network, self._options, self._judge = network, options, None
        self._machine = f"{described()}, {torch.get_num_threads()} threads"
        self._kept = KeptRows(options.build / "rows", network, options.anew)

    def row(self, pair: str, params: TransferParams) -> tuple[Row, Path]:
        """Measured, or as it was kept; and the file of our picture."""
        row, picture = self._kept.row(pair, params, lambda: solved(self._judging(pair), self.network, params))
        o, p = row.ours, row.published
        print(
            f"{pair} {params.mode} {params.solve_edge_px} px {o.evaluations} evaluations {o.solve_seconds:.1f} s: "
            f"style {o.quality.style_relative:.4f} ({p.style_relative:.4f}), affine "
            f"{o.quality.affine_per_pixel_e6:.0f} ({p.affine_per_pixel_e6:.0f}), edges {o.quality.edges:.3f} "
            f"({p.edges:.3f})",
            flush=True,
        )
        return row, picture

    def sheet(self, name: str, rows: Sequence[Sequence[Path]]) -> None:
        """Pictures side by side."""
        write_sheet(name, [[_pixels(path) for path in row] for row in rows], self._options.build)

    def write(self, name: str, title: str, command: str, lines: Sequence[str], record: dict[str, Any]) -> None:
        """A table and its figures."""
        pairs = f" --pairs {' '.join(self._options.pairs)}" if self._options.pairs else ""
        info = self.network.info
        head = [
            f"# {title}",
            "",
            f"Made by `python -m tests.benchmarks.quality {command}{pairs}`.",
            f"{self._machine}, features {info.name}/{info.version}.",
        ]
        text = "\n".join([*head, *lines])
        print(text)
        self._options.out.mkdir(parents=True, exist_ok=True)
        (self._options.out / f"quality-{name}.md").write_text(text, encoding="utf-8")
        whole = {"machine": self._machine, "features": f"{info.name}/{info.version}", **record}
        (self._options.out / f"quality-{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

    def _judging(self, pair: str) -> Judge:
        if self._judge is None:
            solved(Judge(Pair.load(pair, _WARM.solve_edge_px), self.network), self.network, _WARM)
        if self._judge is None or self._judge.pair.name != pair:
            self._judge = Judge(Pair.load(pair, SCORED_EDGE_PX), self.network)
        return self._judge


def _field(bench: _Bench, options: argparse.Namespace) -> None:
    for quality in options.quality:
        params = TransferParams.chosen(quality=quality)
        rows = []
        for pair in pair_names(options.pairs):
            row, picture = bench.row(pair, params)
            rows.append(row)
            bench.sheet(f"{quality}/{pair}", [_given(pair, "content", "style"), [picture, *_given(pair, "published")]])
            shutil.copyfile(picture, options.build / quality / f"{pair}-ours.png")
        bench.write(
            quality,
            f"Quality `{quality}` ({params.solve_edge_px} px, {params.max_evaluations} evaluations) beside the "
            "published pictures",
            f"--parts field --quality {quality}",
            field_table(rows),
            {"params": asdict(params), "counts": asdict(Counts.of(rows)), "rows": [asdict(row) for row in rows]},
        )


def _sweep(bench: _Bench, options: argparse.Namespace) -> None:
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


def _paper(bench: _Bench, options: argparse.Namespace) -> None:
    edge = options.paper_edge
    modes = (
        TransferParams(mode="paper", solve_edge_px=edge, max_evaluations=options.paper_evaluations),
        TransferParams(solve_edge_px=edge),
    )
    rows = []
    for pair in pair_names(options.paper_pairs):
        (paper, paper_picture), (field, field_picture) = (bench.row(pair, params) for params in modes)
        rows.append((paper, field))
        bench.sheet(f"paper/{pair}", [_given(pair, "content", "style", "published"), [paper_picture, field_picture]])
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


def _time(bench: _Bench, options: argparse.Namespace) -> None:
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


def _given(pair: str, *names: str) -> list[Path]:
    return [pairs_dir() / pair / f"{name}.png" for name in names]


def _pixels(path: Path) -> NDArray[np.uint8]:
    return open_photo(path.read_bytes(), path.name, LIMITS).pixels()


if __name__ == "__main__":
    main()

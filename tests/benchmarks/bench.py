"""What the parts of ``tests.benchmarks.quality`` share: measuring, sheets, tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.images import open_photo
from services.stylizer.core.params import TransferParams
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.judged import SCORED_EDGE_PX, Judge, Row, solved
from tests.benchmarks.kept import KeptRows
from tests.benchmarks.machine import described, pairs_dir
from tests.benchmarks.pairs import LIMITS, Pair, write_sheet
from tests.benchmarks.report import report

__all__ = ["Bench", "given"]

_WARM = TransferParams(solve_edge_px=96, max_evaluations=4)
"""A solve that is not measured: it compiles and warms what a service has warm before it is ready."""


class Bench:
    """The network, the judge of the pair at hand, the kept rows, and where tables and sheets go.

    Args:
        network: that is measured.
        options: of the command line: ``build``, ``out``, ``pairs`` and ``anew``.
    """

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
        whole = {"machine": self._machine, "features": f"{info.name}/{info.version}", **record}
        report([*head, *lines], self._options.out, f"quality-{name}", whole)

    def _judging(self, pair: str) -> Judge:
        if self._judge is None:
            solved(Judge(Pair.load(pair, _WARM.solve_edge_px), self.network), self.network, _WARM)
        if self._judge is None or self._judge.pair.name != pair:
            self._judge = Judge(Pair.load(pair, SCORED_EDGE_PX), self.network)
        return self._judge


def given(pair: str, *names: str) -> list[Path]:
    """Files of a pair's own pictures."""
    return [pairs_dir() / pair / f"{name}.png" for name in names]


def _pixels(path: Path) -> NDArray[np.uint8]:
    return open_photo(path.read_bytes(), path.name, LIMITS).pixels()

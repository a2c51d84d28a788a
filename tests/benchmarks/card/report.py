"""The tables of the benchmark of a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.benchmarks.card.accuracy import Accuracy
from tests.benchmarks.card.evaluation import Evaluation
from tests.benchmarks.card.rates import Machine
from tests.benchmarks.card.solves import Solve, Throughput
from tests.benchmarks.machine import described

__all__ = ["report"]


def report(
    found: Machine,
    network: str,
    evaluations: Sequence[Evaluation],
    accurate: Sequence[Accuracy],
    solves: Sequence[Solve],
    throughputs: Sequence[Throughput],
    renders: Mapping[int, float],
    command: str,
) -> list[str]:
    """As Markdown."""
    kinds = list(evaluations[0].shares)
    products = ", ".join(f"{rate / 1e12:.2f} TFLOP/s in {name}" for name, rate in found.flops.items())
    return [
        "# What the machine could do, and what the solver does",
        "",
        f"Made by `{command}`. {described()}. {found.name}, {network}.",
        f"Dense products: {products}; copies: {found.copy_bytes / 1e9:.0f} GB/s.",
        "",
        "## One evaluation on pixels, forward and backward",
        "| long edge | ms | GFLOP | TFLOP/s | of the product's rate | floor of operations, ms | GB "
        f"| floor of bytes, ms | operators | peak MiB | {' | '.join(kinds)} |",
        f"|{'---|' * (10 + len(kinds))}",
        *(
            f"| {e.edge_px} px | {1e3 * e.seconds:.2f} | {e.operations / 1e9:.1f} "
            f"| {e.operations / e.seconds / 1e12:.3f} | {e.floor_operations / e.seconds:.0%} "
            f"| {1e3 * e.floor_operations:.2f} | {e.bytes / 1e9:.2f} | {1e3 * e.floor_bytes:.2f} "
            f"| {e.operators} | {e.peak_bytes / 2**20:.0f} | {' | '.join(f'{e.shares[kind]:.0%}' for kind in kinds)} |"
            for e in evaluations
        ),
        "",
        "## What less than float64 costs the terms of features and their gradient",
        "| long edge | convolutions | value, relative error | gradient, relative error | cosine |",
        f"|{'---|' * 5}",
        *(f"| {a.edge_px} px | {a.precision} | {a.value:.1e} | {a.gradient:.1e} | {a.cosine:.4f} |" for a in accurate),
        "",
        "## Solves, and the published method on the same photos",
        "| long edge | s | evaluations | style | affine, e-6 | paper: s | evaluations | style | affine, e-6 "
        "| times faster than 2000 evaluations |",
        f"|{'---|' * 10}",
        *(
            f"| {s.edge_px} px | {s.seconds:.3f} | {s.evaluations} | {s.style:.3f} | {s.affine:.1f} "
            f"| {s.paper_seconds:.2f} | {s.paper_evaluations} | {s.paper_style:.3f} | {s.paper_affine:.1f} "
            f"| {2000 / s.paper_evaluations * s.paper_seconds / s.seconds:.0f} |"
            for s in solves
        ),
        "",
        "## Many solves at once",
        "Differences are those of pictures, in levels of 255, from the one that was solved alone.",
        "",
        "| long edge | slots | solves/s | times one slot | mean batch | peak MiB | foretold MiB | mean difference "
        "| largest |",
        f"|{'---|' * 9}",
        *(
            f"| {t.edge_px} px | {t.slots} | {t.per_second:.2f} "
            f"| {t.per_second / _first(throughputs, t).per_second:.2f} | {t.batch:.1f} | {t.peak_bytes / 2**20:.0f} "
            f"| {t.foretold_bytes / 2**20:.0f} | {255 * t.difference:.2f} "
            f"| {255 * t.largest:.1f} |"
            for t in throughputs
        ),
        "",
        "## Rendering, 8 bits",
        "| MP | ms |",
        "|---|---|",
        *(f"| {megapixels} | {1e3 * seconds:.0f} |" for megapixels, seconds in renders.items()),
        "",
    ]


def _first(throughputs: Sequence[Throughput], like: Throughput) -> Throughput:
    return next(each for each in throughputs if each.edge_px == like.edge_px)

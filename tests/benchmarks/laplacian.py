"""The matting Laplacian: compiled loops beside torch and SciPy, and the steps that the proximal step needs.

    python -m tests.benchmarks.laplacian [--repeats 15] [--pairs 01 09 13]

Writes ``docs/benchmarks/laplacian.md``. The ways of a row take turns in one process, so that what else runs on the
machine falls on all of them; a ratio is the median of the ratios of the turns. SciPy's product has its best case: its
three columns lie side by side.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.matting import MattingLaplacian, assembled_laplacian
from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT, Pair
from tests.benchmarks.report import report

_EDGES_PX = (256, 512, 700, 1024)
_MUS = (1.0, 3.0, 10.0, 30.0)
_MOST_STEPS = 40
_ENOUGH = 0.95
"""Share of the exact solution's fall of energy that a step count must reach."""

_EXACT_STEPS = 200  # conjugate gradients; 12 times √(1 + 9 · 30), so that what is left is rounding
_SMOOTH_STEPS = 8  # of the proximal step that is timed, as the solve uses it


@dataclass(frozen=True)
class Speed:
    """One size's medians, milliseconds; ratios are of turns."""

    height: int
    width: int
    milliseconds: dict[str, float]
    ratios: dict[str, float]
    floats_a_pixel: dict[str, float]
    construction: dict[str, float]


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--edges", type=int, nargs="*", default=_EDGES_PX)
    parser.add_argument("--pairs", nargs="*", default=["01", "09", "13"])
    parser.add_argument("--steps-edge", type=int, default=700)
    options = parser.parse_args()
    speeds = [_speed(edge, options.repeats) for edge in options.edges]
    steps = {name: _steps(name, options.steps_edge) for name in options.pairs}
    report(_page(speeds, steps, options), ROOT / "docs/benchmarks", "laplacian")


def _picture(height: int, width: int, seed: int) -> Tensor:
    """Smooth colours with grain, float32 in 0..1; the time of a product does not depend on what is in the picture."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(1, 3, 12, 18, generator=generator)
    smooth = functional.interpolate(colours, size=(height, width), mode="bicubic")[0]
    return (smooth + 0.02 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)


def _speed(edge: int, repeats: int) -> Speed:
    height, width = round(edge * 2 / 3), edge
    I, x = _picture(height, width, 1), _picture(height, width, 2)
    began = time.perf_counter()
    matrix = assembled_laplacian(I.permute(1, 2, 0).numpy())
    assembled = time.perf_counter() - began
    began = time.perf_counter()
    laplacian = MattingLaplacian(I)
    made = time.perf_counter() - began
    columns = np.ascontiguousarray(x.double().flatten(1).T.numpy())
    x64, laplacian64 = x.double(), MattingLaplacian(I.double())
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: laplacian64.apply(x64),
        "ours32": lambda: laplacian.apply(x),
        "scipy": lambda: matrix @ columns,
        "torch": lambda: laplacian64.apply_unfused(x64),
        "smooth": lambda: laplacian.chebyshev_smooth(x, 3.0, _SMOOTH_STEPS),
    }
    _check(laplacian64.apply(x64), matrix @ columns)
    for way in ways.values():
        way()
    turns: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            turns[name].append(1000 * (time.perf_counter() - began))
    ratios = {
        name: statistics.median(s / o for s, o in zip(turns[other], turns[ours], strict=True))
        for name, other, ours in (
            ("scipy", "scipy", "ours"),
            ("scipy32", "scipy", "ours32"),
            ("torch", "torch", "ours"),
        )
    }
    pixels = height * width
    in_csr = (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) / 8
    return Speed(
        height,
        width,
        {name: statistics.median(values) for name, values in turns.items()},
        ratios,
        {"ours": _floats(laplacian) / pixels, "scipy": in_csr / pixels},
        {"ours": 1000 * made, "scipy": 1000 * assembled},
    )


def _check(product: Tensor, expected: np.ndarray) -> None:
    difference = float(np.abs(product.flatten(1).T.numpy() - expected).max())
    if difference > 1e-6:
        raise SystemExit(f"products differ by {difference}: nothing to be compared")


def _floats(laplacian: MattingLaplacian) -> int:
    return sum(kept.numel() for kept in vars(laplacian).values() if isinstance(kept, Tensor))


@dataclass(frozen=True)
class Steps:
    """How near the proximal step of a published picture comes to the exact one, for one μ.

    Attributes:
        mu: μ.
        exact_fall: share of the picture's energy that the exact solution takes away.
        chebyshev: fewest steps for :data:`_ENOUGH` of that fall.
        gradients: likewise, by conjugate gradients.
        left: distance of the Chebyshev step so found to the exact solution, over that of the picture.
        at_eight: share of the exact fall after :data:`_SMOOTH_STEPS` Chebyshev steps.
    """

    mu: float
    exact_fall: float
    chebyshev: int | None
    gradients: int | None
    left: float
    at_eight: float


def _steps(name: str, edge_px: int) -> list[Steps]:
    pair = Pair.load(name, edge_px)
    laplacian, T = MattingLaplacian(pair.I), pair.P.double()
    before = float(laplacian.energy(T)[0])
    rows = []
    for mu in _MUS:
        exact = laplacian.smooth(T, mu, _EXACT_STEPS)
        fall = before - float(laplacian.energy(exact)[0])

        def share(x: Tensor, fall: float = fall) -> float:
            return (before - float(laplacian.energy(x)[0])) / fall

        def fewest(smooth: Callable[[Tensor, float, int], Tensor], mu: float = mu) -> int | None:
            counts = range(1, _MOST_STEPS + 1)
            return next((n for n in counts if share(smooth(T, mu, n)) >= _ENOUGH), None)

        chebyshev = fewest(laplacian.chebyshev_smooth)
        near = laplacian.chebyshev_smooth(T, mu, chebyshev or _MOST_STEPS)
        left = float((near - exact).norm() / (T - exact).norm())
        at_eight = share(laplacian.chebyshev_smooth(T, mu, _SMOOTH_STEPS))
        rows.append(Steps(mu, fall / before, chebyshev, fewest(laplacian.smooth), left, at_eight))
    return rows


def _page(speeds: list[Speed], steps: dict[str, list[Steps]], options: argparse.Namespace) -> list[str]:
    lines = [
        "# The matting Laplacian's product and its proximal step",
        "",
        f"Made by `python -m tests.benchmarks.laplacian --repeats {options.repeats}`. {described()}.",
        f"Threads: {torch.get_num_threads()}; SciPy's product uses one. Medians of {options.repeats} turns that the"
        " ways take one after the other; ratios are medians of the turns' ratios.",
        "",
        "## One product M x, three channels",
        "",
        "| picture | ours, ms | ours on float32, ms | SciPy CSR, ms | torch, ms | SciPy / ours | SciPy / ours"
        f" on float32 | torch / ours | proximal step of {_SMOOTH_STEPS} on float32, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in speeds:
        ms, r = s.milliseconds, s.ratios
        times = " | ".join(f"{ms[name]:.1f}" for name in ("ours", "ours32", "scipy", "torch"))
        ratios = " | ".join(f"{r[name]:.1f}" for name in ("scipy", "scipy32", "torch"))
        lines.append(f"| {s.width}x{s.height} | {times} | {ratios} | {ms['smooth']:.0f} |")
    lines += [
        "",
        "Ours and torch compute from the guide; SciPy multiplies the assembled float64 matrix by float64 columns.",
        "Arithmetic is float64 everywhere; *on float32* means that guide, argument and result are float32.",
        "",
        "| picture | kept, numbers a pixel | kept by SciPy, 8-byte words a pixel | construction, ms | SciPy's, ms |",
        "|---|---|---|---|---|",
    ]
    for s in speeds:
        kept, made = s.floats_a_pixel, s.construction
        figures = f"{kept['ours']:.0f} | {kept['scipy']:.1f} | {made['ours']:.1f} | {made['scipy']:.0f}"
        lines.append(f"| {s.width}x{s.height} | {figures} |")
    lines += [
        "",
        f"## Steps of (1 + μM)⁻¹ T, {options.steps_edge} px",
        "",
        "T is the pair's published picture. *Steps*: fewest for 95 % of the exact solution's fall of xᵀMx.",
        "*Left*: distance to the exact solution after that many Chebyshev steps, over the distance from T.",
        "",
        "| pair | μ | the exact solution takes away | Chebyshev steps | conjugate gradient steps | left"
        f" | share of the fall after {_SMOOTH_STEPS} Chebyshev steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in steps.items():
        for row in rows:
            counts = " | ".join(f"over {_MOST_STEPS}" if n is None else str(n) for n in (row.chebyshev, row.gradients))
            figures = f"{row.exact_fall:.1%} | {counts} | {row.left:.3f} | {row.at_eight:.1%}"
            lines.append(f"| {name} | {row.mu:g} | {figures} |")
    return lines


if __name__ == "__main__":
    main()

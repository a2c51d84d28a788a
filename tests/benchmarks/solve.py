"""The solver on the development pairs, beside the published pictures; and where an evaluation's time goes.

    python -m tests.benchmarks.solve [--edge 256] [--evaluations 40] [--pairs 01 09 ...]

Writes ``docs/benchmarks/solve-<edge>.md`` and ``.json``, and contact sheets (content, style / ours, published) under
``build/benchmarks/``. The pairs' pictures are not ours to publish, so the sheets stay out of the repository.

Ours is the look rendered at the photo's full size; both pictures are then reduced to the solve size in the same way and
scored with the same masks. Seconds are the solve stage's on this machine; ratios are measured in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from services.common.config import StylizerSettings
from services.common.images import ImageLimits, OutputFormat, Photo, encode_photo, open_photo
from services.common.label_maps import decode_label_map
from services.common.models import find_model
from services.stylizer.core.params import TransferParams
from services.stylizer.core.render import render
from services.stylizer.core.results import Quality
from services.stylizer.core.solve import identity_grid
from services.stylizer.core.transfer import Regions, Transfer, TransferResult
from services.stylizer.features import FeatureNetwork, load_features
from tests.benchmarks.machine import described, models_dir, pairs_dir

_LIMITS = ImageLimits.of(StylizerSettings())
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    """One pair's figures."""

    pair: str
    evaluations: int
    solve_seconds: float
    warm_start_seconds: float
    ours: Quality
    published: Quality


def main() -> None:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=TransferParams().max_evaluations)
    parser.add_argument("--pairs", nargs="*")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs/benchmarks")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    network = load_features(find_model(models_dir(), "features", "auto"), torch.device("cpu"))
    params = TransferParams(solve_edge_px=options.edge, max_evaluations=options.evaluations)
    rows, last = [], None
    for name in options.pairs or sorted(path.name for path in pairs_dir().iterdir()):
        row, last = _pair(name, network, params)
        rows.append(row)
        print(_line(row), flush=True)
    assert last is not None
    shares = _shares(*last)
    text = _report(rows, shares, network, params)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"solve-{options.edge}.md").write_text(text)
    record = {"machine": described(), "params": asdict(params), "rows": [asdict(row) for row in rows], "shares": shares}
    (options.out / f"solve-{options.edge}.json").write_text(json.dumps(record, indent=1) + "\n")


def _pair(name: str, network: FeatureNetwork, params: TransferParams) -> tuple[Row, tuple[Transfer, TransferResult]]:
    folder, edge = pairs_dir() / name, params.solve_edge_px
    content, style, published = (_photo(folder / f"{part}.png") for part in ("content", "style", "published"))
    I, S, P = (_tensor(photo.proxy(edge, None)) for photo in (content, style, published))
    transfer = Transfer(
        network.trunk,
        params,
        I,
        S,
        _regions(folder / "content_labels.png", I),
        _regions(folder / "style_labels.png", S),
        {},
    )
    result = transfer.run(lambda _: None, lambda _: None, lambda: False)
    goal = transfer.goal(result.matches)
    pixels = render(result.field, content.pixels(), params.strength, params.preserve, 8, lambda: False)
    encoded, _ = encode_photo(pixels, content, OutputFormat(format="png"))
    ours = transfer.score(_tensor(open_photo(encoded, "result", _LIMITS).proxy(edge, None)), result.matches, goal)
    row = Row(
        name,
        result.solution.evaluations,
        result.stage_seconds["solve"],
        result.stage_seconds["warm_start"],
        ours,
        transfer.score(P, result.matches, goal),
    )
    _sheet(name, content, style, pixels, published)
    return row, (transfer, result)


def _photo(path: Path) -> Photo:
    return open_photo(path.read_bytes(), path.name, _LIMITS)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _regions(path: Path, proxy: torch.Tensor) -> Regions:
    labels = decode_label_map(path.read_bytes(), {}, path.name, _LIMITS).resized(proxy.shape[2], proxy.shape[1])
    names = [labels.names.get(index, "") for index in range(max(labels.names) + 1)]
    return Regions(torch.from_numpy(labels.indices.copy()), tuple(names))


def _sheet(name: str, content: Photo, style: Photo, ours: np.ndarray, published: Photo) -> None:
    height, width = ours.shape[:2]
    sheet = np.zeros((2 * height, 2 * width, 3), np.uint8)
    for index, pixels in enumerate((content.pixels(), style.pixels(), ours, published.pixels())):
        part = pixels[:height, :width]
        top, left = (index // 2) * height, (index % 2) * width
        sheet[top : top + part.shape[0], left : left + part.shape[1]] = part
    folder = _ROOT / "build/benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(_encoded(sheet))


def _encoded(pixels: np.ndarray) -> bytes:
    import pyvips

    return bytes(pyvips.Image.new_from_array(pixels).pngsave_buffer())


def _shares(transfer: Transfer, result: TransferResult) -> dict[str, float]:
    """Time of one evaluation and of its parts at full solve size, in turn, medians of nine."""
    B = transfer.warm_start(transfer.warm_field(result.matches))
    objective = transfer.objective(max(transfer.I.shape[1:]), result.matches, B, lambda: transfer.goal(result.matches))
    grid = identity_grid(transfer.I.device).requires_grad_(True)
    O = objective.picture(grid.detach())

    def whole() -> None:
        grid.grad = None
        objective(grid)[0].backward()

    def features_only() -> None:
        leaf = O.detach().clone().requires_grad_(True)
        goal = objective.goal
        features = goal.trunk(leaf[None], goal.layers.all)
        (goal.style(features) + goal.content(features)).backward()

    def warm_start() -> None:
        transfer.warm_start(transfer.warm_field(transfer.match()))

    times: dict[str, list[float]] = {"whole": [], "features_only": [], "warm_start": []}
    for _ in range(9):
        for name, part in (("whole", whole), ("features_only", features_only), ("warm_start", warm_start)):
            times[name].append(_seconds(part))
    medians = {name: statistics.median(values) for name, values in times.items()}
    solve = result.stage_seconds["solve"] + result.stage_seconds["warm_start"]
    rest = statistics.median(1 - f / w for f, w in zip(times["features_only"], times["whole"], strict=True))
    medians["rest_of_evaluation_share"] = rest
    medians["rest_and_warm_start_share"] = rest + medians["warm_start"] / solve
    return medians


def _seconds(part: Callable[[], None]) -> float:
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def _line(row: Row) -> str:
    o, p = row.ours, row.published
    mark = "yes" if o.style_relative < p.style_relative else "no"
    figures = (
        *(f"{o.style_relative:.4f}", f"{p.style_relative:.4f}", mark),
        *(f"{o.affine_per_pixel_e6:.0f}", f"{p.affine_per_pixel_e6:.0f}"),
        *(f"{o.edges:.3f}", f"{p.edges:.3f}", f"{o.clipped_share:.3f}", f"{p.clipped_share:.3f}"),
    )
    return f"| {row.pair} | {row.evaluations} | {row.solve_seconds:.1f} | {' | '.join(figures)} |"


def _report(rows: list[Row], shares: dict[str, float], network: FeatureNetwork, params: TransferParams) -> str:
    lower = sum(row.ours.style_relative < row.published.style_relative for row in rows)
    affine = sum(row.ours.affine_per_pixel_e6 < row.published.affine_per_pixel_e6 for row in rows)
    edges = sum(row.ours.edges > row.published.edges for row in rows)
    slowest = max(row.solve_seconds for row in rows)
    median = statistics.median(row.solve_seconds for row in rows)
    edge, most = params.solve_edge_px, params.max_evaluations
    lines = [
        f"# Field solve at {edge} px beside the published pictures",
        "",
        f"Made by `python -m tests.benchmarks.solve --edge {edge} --evaluations {most}`.",
        f"{described()}, features {network.info.name}/{network.info.version}, given masks. Scored at {edge} px as",
        "[quality.md](../quality.md) defines; ours is rendered at full size first. Lower is better but for edges.",
        "",
        "| pair | evaluations | solve s | style | published | lower | affine | published | edges | published "
        "| clipped | published |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        f"Style lower than published on {lower} of {len(rows)}, affine lower on {affine}, edges higher on {edges}. "
        f"Solve: median {median:.1f} s, slowest {slowest:.1f} s.",
        "",
        "## Where the time of one evaluation goes",
        "",
        f"At full solve size, medians of nine, measured in turn: a whole evaluation {shares['whole'] * 1e3:.0f} ms,",
        f"the same picture through network, style and content loss alone {shares['features_only'] * 1e3:.0f} ms; so",
        f"Laplacian, grid and penalties take {shares['rest_of_evaluation_share']:.1%}. Matching, warm start and masks",
        f"take {shares['warm_start'] * 1e3:.0f} ms once; with them it is {shares['rest_and_warm_start_share']:.1%}",
        "of the solve.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

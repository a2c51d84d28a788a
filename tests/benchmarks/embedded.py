"""What the embedded models give beside the full ones: trunks side by side, and masks side by side.

    python -m tests.benchmarks.embedded [--pairs 01 09 ...] [--quality standard]

Each pair is solved with VGG-19 and with ``vgg19-student`` on the given masks, and with ``vgg19-student`` on one region
and on the masks of the network in the models' folder (``--variants scene``: of the package's own, when it has one); one
after the other, so that a busy machine slows all alike. Every result is rendered at full size and scored by VGG-19
with the given masks. Writes ``docs/benchmarks/embedded.md`` and ``.json``; sheets (content, style, every variant) go
to ``build/benchmarks/embedded/``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.images import Photo
from services.common.label_maps import LabelMap, single_region
from services.common.models import embedded_models_dir, find_model
from services.segmentation.network import Network
from services.segmentation.options import Options
from services.segmentation.segmenter import segment
from services.stylizer.core.params import CHOICES, TransferParams
from services.stylizer.core.transfer import Regions
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.judged import SCORED_EDGE_PX, Judge, Row, solved
from tests.benchmarks.machine import described, models_dir
from tests.benchmarks.pairs import BUILD, ROOT, Pair, feature_network, levels, pair_names, write_sheet
from tests.benchmarks.report import report

_WARM: Final = TransferParams(solve_edge_px=96, max_evaluations=4)
_Masks = Callable[[Pair], Pair]

_TITLES: Final[Mapping[str, str]] = {
    "vgg": "VGG-19, given masks",
    "student": "student, given masks",
    "one": "student, one region",
    "scene": "student, masks of the package's own network",
    "teacher": "student, masks of the models' folder",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Solve, score, and write table and sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+")
    parser.add_argument("--quality", choices=CHOICES["quality"], default="standard")
    parser.add_argument("--variants", nargs="+", choices=_TITLES, default=["vgg", "student", "one", "teacher"])
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    params = TransferParams.chosen(quality=options.quality)
    vgg, student = feature_network(), feature_network("builtin")
    scene = _network("builtin") if "scene" in options.variants else None
    teacher = _network("auto") if "teacher" in options.variants else None
    variants: dict[str, tuple[FeatureNetwork, _Masks]] = {
        "vgg": (vgg, lambda pair: pair),
        "student": (student, lambda pair: pair),
        "one": (student, _without_masks),
        "scene": (student, lambda pair: _with_masks(pair, scene)),
        "teacher": (student, lambda pair: _with_masks(pair, teacher)),
    }
    names = pair_names(options.pairs)
    rows: dict[str, list[Row]] = {variant: [] for variant in options.variants}
    for network in (vgg, student):
        solved(Judge(Pair.load(names[0], _WARM.solve_edge_px), network), network, _WARM)  # compiles and warms
    for name in names:
        judge = Judge(Pair.load(name, SCORED_EDGE_PX), vgg)
        pictures: list[NDArray[np.uint8]] = []
        for variant in options.variants:
            network, masks = variants[variant]
            row, picture = solved(judge, network, params, masks(Pair.load(name, params.solve_edge_px)))
            rows[variant].append(row)
            pictures.append(picture)
            q = row.ours.quality
            print(
                f"{name} {variant}: style {q.style_relative:.4f}, affine {q.affine_per_pixel_e6:.0f}, "
                f"edges {q.edges:.3f}, {row.ours.solve_seconds:.1f} s",
                flush=True,
            )
        write_sheet(name, [[levels(judge.pair.I), levels(judge.pair.S), *pictures]], BUILD / "embedded")
    _write(rows, options, params)


def _network(wanted: str) -> Network:
    model = find_model(models_dir(), "segmentation", wanted, embedded_models_dir("segmentation"))
    assert model is not None, f"no segmentation network {wanted}"
    return Network(model, "cpu", torch.get_num_threads())


def _without_masks(pair: Pair) -> Pair:
    sizes = [(picture.shape[2], picture.shape[1]) for picture in (pair.I, pair.S)]
    return _with_maps(pair, [single_region(*size) for size in sizes])


def _with_masks(pair: Pair, network: Network | None) -> Pair:
    """As the gateway does: one region for both if either photo is one."""
    assert network is not None, "its variant was asked for"
    maps = [_map(photo, picture.shape, network) for photo, picture in ((pair.content, pair.I), (pair.style, pair.S))]
    return (
        _without_masks(pair) if any(list(found.names.values()) == ["all"] for found in maps) else _with_maps(pair, maps)
    )


def _map(photo: Photo, shape: Sequence[int], network: Network) -> LabelMap:
    return segment(photo.proxy(max(shape), None), network, shape[2], shape[1], Options()).label_map


def _with_maps(pair: Pair, maps: Sequence[LabelMap]) -> Pair:
    content, style = (_regions(found) for found in maps)
    return replace(pair, content_regions=content, style_regions=style)


def _regions(found: LabelMap) -> Regions:
    names = tuple(found.names.get(index, "") for index in range(max(found.names) + 1))
    return Regions(torch.from_numpy(found.indices.copy()), names)


def _write(rows: Mapping[str, Sequence[Row]], options: argparse.Namespace, params: TransferParams) -> None:
    pairs = f" --pairs {' '.join(options.pairs)}" if options.pairs else ""
    variants = list(rows)
    command = f"--quality {options.quality} --variants {' '.join(variants)}{pairs}"
    lines = [
        f"# Embedded models beside the full ones, quality `{options.quality}`",
        "",
        f"Made by `python -m tests.benchmarks.embedded {command}`.",
        f"{described()}, {torch.get_num_threads()} threads, {params.solve_edge_px} px, "
        f"{params.max_evaluations} evaluations.",
        f"Scored by VGG-19 at {SCORED_EDGE_PX} px with the given masks as [quality.md](../quality.md) defines: style "
        "distance, affine residual, edges.",
        "",
        *[f"- **{variant}**: {_TITLES[variant]}" for variant in variants],
        "",
        "| pair | " + " | ".join(f"{v} style | affine | edges | solve s" for v in variants) + " |",
        "|---" * (1 + 4 * len(variants)) + "|",
    ]
    for index, first in enumerate(rows[variants[0]]):
        cells = []
        for variant in variants:
            ours = rows[variant][index].ours
            q = ours.quality
            cells += [
                f"{q.style_relative:.4f}",
                f"{q.affine_per_pixel_e6:.0f}",
                f"{q.edges:.3f}",
                f"{ours.solve_seconds:.1f}",
            ]
        lines.append(f"| {first.pair} | " + " | ".join(cells) + " |")
    lines += ["", *_ratios(rows)]
    record = {variant: [asdict(row) for row in found] for variant, found in rows.items()}
    whole = {"machine": described(), "params": asdict(params), "rows": record}
    report(lines, ROOT / "docs/benchmarks", "embedded", whole)


def _ratios(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    lines = ["| of each pair, one over the other | median | geometric mean | least | most | below 1 | alike |"]
    lines.append("|---" * 7 + "|")
    for name, other in (("student", "vgg"), ("scene", "one"), ("teacher", "one"), ("scene", "vgg")):
        if name not in rows or other not in rows:
            continue
        for what, value in _VALUES.items():
            ratios = [value(ours) / value(theirs) for ours, theirs in zip(rows[name], rows[other], strict=True)]
            lines.append(
                f"| {name} / {other}, {what} | {statistics.median(ratios):.2f} "
                f"| {statistics.geometric_mean(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} "
                f"| {sum(ratio < 1 for ratio in ratios)} of {len(ratios)} | {sum(ratio == 1 for ratio in ratios)} |"
            )
    return lines


_VALUES: Final[Mapping[str, Callable[[Row], float]]] = {
    "style": lambda row: row.ours.quality.style_relative,
    "affine": lambda row: row.ours.quality.affine_per_pixel_e6,
    "edges": lambda row: row.ours.quality.edges,
    "solve seconds": lambda row: row.ours.solve_seconds,
}


if __name__ == "__main__":
    main()

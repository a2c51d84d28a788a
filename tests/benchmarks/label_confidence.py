"""What the numbers of the confidence rule were chosen on: how far a network's probabilities can be believed.

    python -m tests.benchmarks.label_confidence [--models-dir DIR] [--model NAME] [--every 4]

Writes ``docs/benchmarks/label-confidence.md``: what share of a region's pixels is right by its mean probability, on
every fourth photo of MSRC v2 (under ``../shared/data``); what the rule measures on the development pairs' photos; and
agreement with their hand-made masks for other limits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.class_sets import MSRC
from services.common.images import open_photo
from services.common.label_maps import decode_label_map
from services.common.taxonomy import COMMON_LABELS
from services.segmentation import confidence
from services.segmentation.network import Network
from services.segmentation.options import Options
from services.segmentation.sampling import fitted_size
from services.segmentation.segmenter import regions_of
from services.segmentation.views import View, averaged
from tests.benchmarks.label_maps import find_network
from tests.benchmarks.label_scores import pooled, score
from tests.benchmarks.machine import described, models_dir, pairs_dir
from tests.benchmarks.pairs import LIMITS, ROOT, pair_names
from tests.benchmarks.report import report

# The order of the indices in ../shared/data/labels/msrc.
_MSRC_NAMES = (
    *("void", "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face"),
    *("car", "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat"),
)
_LEAST_SHARE = 0.005
_LIMITS = (0.5, 0.6, 0.65, 0.7, 0.75)


@dataclass(frozen=True)
class Judged:
    """An MSRC photo: its mean probability, the share that is right, and both for its regions."""

    confidence: float
    right: float
    regions: tuple[tuple[float, float], ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=models_dir())
    parser.add_argument("--model", default="auto")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args(arguments)
    network = find_network(options.models_dir, options.model, options.threads)
    photos = list(_msrc(network, options.every))
    lines = [
        "# How far a network's probabilities can be believed",
        "",
        f"`python -m tests.benchmarks.label_confidence`, network {network.model.name}/{network.model.version}.",
        f"{described()}.",
        "",
        *_region_table(photos),
        *_photo_table(photos),
        *_pair_tables(network),
    ]
    report(lines, options.out, "label-confidence")


def _msrc(network: Network, every: int) -> Iterator[Judged]:
    labels = np.array([COMMON_LABELS.index(MSRC[name]) for name in _MSRC_NAMES])
    data = pairs_dir().parent
    photos = {path.stem: path for path in (data / "photos/msrc").iterdir()}
    for file in sorted((data / "labels/msrc").glob("*.png"))[::every]:
        if file.stem not in photos:
            continue
        planes = averaged([_view(network, photos[file.stem], network.input_edge_px)[0]], network.labels).planes
        truth = np.asarray(Image.open(file).resize(planes.shape[:0:-1], Image.Resampling.NEAREST))
        known = truth > 0
        if not known.any():
            continue
        winners, best = planes.argmax(axis=0), planes.max(axis=0)
        right = winners == labels[truth]
        masks = [winners == label for label in np.unique(winners)]
        regions = tuple(
            (float(best[mask].mean()), float(right[mask & known].mean()))
            for mask in masks
            if mask.mean() >= _LEAST_SHARE and (mask & known).any()
        )
        yield Judged(float(best.mean()), float(right[known].mean()), regions)


def _view(network: Network, path: Path, edge_px: int) -> tuple[View, NDArray[np.float32]]:
    photo = open_photo(path.read_bytes(), path.name, LIMITS)
    pixels = photo.proxy(network.input_edge_px, None)
    size = network.input_size(pixels.shape[1], pixels.shape[0])
    view = View(network.logits(pixels), *size, network.align_corners)
    return view, photo.proxy(edge_px, None)


def _region_table(photos: Sequence[Judged]) -> list[str]:
    regions = np.array([region for photo in photos for region in photo.regions])
    lines = [
        f"{len(photos)} photos of MSRC v2, unlabelled pixels left out, regions of at least 0.5 % of a photo. MSRC has",
        "no ground and few interiors, so all shares are too low; their order counts.",
        "",
        "| mean probability of a region | regions | mean share of its pixels that are right | less than half right |",
        "|---|---|---|---|",
    ]
    for low in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        right = regions[(regions[:, 0] >= low) & (regions[:, 0] < low + 0.1), 1]
        if len(right):
            cells = f"{low:.1f} to {low + 0.1:.1f} | {len(right)} | {right.mean():.0%} | {(right < 0.5).mean():.0%}"
            lines.append(f"| {cells} |")
    return [*lines, ""]


def _photo_table(photos: Sequence[Judged]) -> list[str]:
    figures = np.array([(photo.confidence, photo.right) for photo in photos])
    lines = ["| mean probability of a photo | photos | mean share of its pixels that are right |", "|---|---|---|"]
    for low, high in ((0.0, 0.74), (0.74, 0.8), (0.8, 0.85), (0.85, 0.9), (0.9, 0.95), (0.95, 1.01)):
        right = figures[(figures[:, 0] >= low) & (figures[:, 0] < high), 1]
        if len(right):
            lines.append(f"| {low:.2f} to {min(high, 1):.2f} | {len(right)} | {right.mean():.0%} |")
    return [*lines, ""]


def _pair_tables(network: Network) -> list[str]:
    given, rows = [], []
    for pair in pair_names(None):
        for part in ("content", "style"):
            view, photo = _view(network, pairs_dir() / pair / f"{part}.png", 700)
            labels_png = (pairs_dir() / pair / f"{part}_labels.png").read_bytes()
            size = fitted_size(photo.shape[1], photo.shape[0], 700)
            hand = decode_label_map(labels_png, {}, part, LIMITS).resized(*size)
            given.append((view, photo, hand.indices))
            planes = averaged([view], network.labels).planes
            at = np.array(photo.shape[:2]) / planes.shape[1:]
            nearest = [
                ((np.arange(n) + 0.5) * step).astype(np.intp) for n, step in zip(planes.shape[1:], at, strict=True)
            ]
            pixels = photo[nearest[0][:, None], nearest[1]]
            seen = (pixels.max(axis=2) > 10.5 / 255) & (pixels.min(axis=2) < 252.5 / 255)
            labels = planes.argmax(axis=0)
            means = [(labels == label, planes[label][labels == label].mean()) for label in np.unique(labels)]
            sure = sum((mask for mask, mean in means if mean >= confidence.MIN_LABEL_CONFIDENCE), np.zeros_like(seen))
            rows.append((f"{pair} {part}", float(planes.max(axis=0).mean()), float((sure & seen).mean()), seen.mean()))
    lines = [
        "The pairs' photos, least sure first: mean probability; share that has a credible label and is neither black",
        "nor blown out; share that is neither black nor blown out.",
        "",
        "| photo | mean probability | judged | with light |",
        "|---|---|---|---|",
        *(
            f"| {name} | {mean:.3f} | {judged:.0%} | {light:.0%} |"
            for name, mean, judged, light in sorted(rows, key=_mean)
        ),
        "",
        "Agreement of unrefined maps with the hand-made ones, means over the pairs' photos, for other limits:",
        "",
        "| least mean probability of a label | agreement | border recall | precision | regions |",
        "|---|---|---|---|---|",
    ]
    standard = confidence.MIN_LABEL_CONFIDENCE
    for limit in _LIMITS:
        confidence.MIN_LABEL_CONFIDENCE = limit
        mean = pooled(
            [
                score(
                    regions_of(
                        [view], photo, network.labels, hand.shape[1], hand.shape[0], Options("none")
                    ).label_map.indices,
                    hand,
                )
                for view, photo, hand in given
            ]
        )
        figures = f"{mean.agreement:.3f} | {mean.recall:.3f} | {mean.precision:.3f} | {mean.regions:.1f}"
        lines.append(f"| {limit:g} | {figures} |")
    confidence.MIN_LABEL_CONFIDENCE = standard
    return lines


def _mean(row: tuple[str, float, float, float]) -> float:
    return row[1]


if __name__ == "__main__":
    main()

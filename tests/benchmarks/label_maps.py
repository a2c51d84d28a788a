"""Label maps beside hand-made ones: networks, refinements, the confidence rule.

    python -m tests.benchmarks.label_maps [--pairs 01 16 ...] [--models-dir DIR] [--models NAME ...]
        [--variants none guided crf flip scales] [--agreement --split services/segmentation/training/split.json]

For every photo of the development pairs, reduced to 700 px, and every network and variant: agreement with the hand-made
nine-colour map by the best one-to-one matching of regions, recall and precision of borders within 3 px, and what the
confidence rule did. Writes ``docs/benchmarks/label-maps.md`` and ``.json``; contact sheets (photo, every variant,
hand-made) go to ``build/benchmarks/label_maps/``, for the pairs' pictures are not ours to publish.

``--agreement`` compares the other networks' grouped labels with the first one's, before the confidence rule, on the
photos that the split's list "held_out" names under ``../shared/data/photos``: by name, and by matching of regions as
with hand-made maps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.images import Photo, open_photo
from services.common.label_maps import decode_label_map
from services.common.models import find_model
from services.segmentation.confidence import LabelVerdict
from services.segmentation.network import Network
from services.segmentation.options import Options
from services.segmentation.sampling import fitted_size
from services.segmentation.segmenter import segment
from services.segmentation.views import View, averaged
from tests.benchmarks.label_scores import Score, matched_share, pooled, score
from tests.benchmarks.label_sheets import Panel, write_label_sheet
from tests.benchmarks.machine import described, models_dir, pairs_dir
from tests.benchmarks.pairs import BUILD, LIMITS, ROOT, pair_names
from tests.benchmarks.report import report

__all__ = ["VARIANTS", "Row", "find_network"]

VARIANTS: Mapping[str, Options] = {
    "none": Options("none"),
    "guided": Options("guided"),
    "crf": Options("crf"),
    "flip": Options("guided", flip=True),
    "scales": Options("guided", scales=(0.75, 1.0, 1.25), flip=True),
}
_DESCRIPTIONS = {
    "none": "unrefined",
    "guided": "guided filter (default)",
    "crf": "fully connected CRF",
    "flip": "guided, mirrored too",
    "scales": "guided, scales 0.75 1 1.25, mirrored too",
}
_SCORED_EDGE_PX = 700
_AGREEMENT_EDGE_PX = 320


@dataclass(frozen=True)
class Row:
    """One photo with one network and variant."""

    photo: str
    network: str
    variant: str
    score: Score
    verdicts: tuple[LabelVerdict, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write tables and sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+")
    parser.add_argument("--models-dir", type=Path, default=models_dir())
    parser.add_argument(
        "--models",
        nargs="+",
        default=["auto"],
        help="names, or folders with a manifest.json; others are held to the first",
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--split", type=Path, default=ROOT / "services/segmentation/training/split.json")
    parser.add_argument("--photos", type=Path, default=pairs_dir().parent / "photos")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    parser.add_argument("--build", type=Path, default=BUILD / "label_maps")
    options = parser.parse_args(arguments)
    networks = [find_network(options.models_dir, name, options.threads) for name in options.models]
    rows = [
        row
        for pair in pair_names(options.pairs)
        for part in ("content", "style")
        for row in _photo_rows(pair, part, networks, options.variants, options.build)
    ]
    agreements = _agreements(networks, options.split, options.photos) if options.agreement else {}
    report(_document(rows, agreements, _command(options)), options.out, "label-maps")
    record = {"machine": described(), "rows": [_record(row) for row in rows], "agreements": agreements}
    text = json.dumps(record, indent=None, separators=(",", ":")).replace("},{", "},\n{")
    (options.out / "label-maps.json").write_text(text + "\n", encoding="utf-8")


def _record(row: Row) -> dict[str, Any]:
    """Without verdicts: those of the first variant stand in the document."""
    return {"photo": row.photo, "network": row.network, "variant": row.variant, **asdict(row.score)}


def find_network(folder: Path, name: str, threads: int) -> Network:
    """Load a segmentation network by its name in a models folder, or by the path of its version's folder."""
    if (path := Path(name).resolve()).joinpath("manifest.json").is_file():
        folder, name = path.parents[1], f"{path.parent.name}/{path.name}"
    model = find_model(folder, "segmentation", name)
    if model is None:
        raise SystemExit(f"{folder}: no segmentation model {name!r}")
    return Network(model, "cpu", threads)


def _photo_rows(pair: str, part: str, networks: Sequence[Network], variants: Sequence[str], build: Path) -> list[Row]:
    folder = pairs_dir() / pair
    photo = open_photo((folder / f"{part}.png").read_bytes(), part, LIMITS)
    width, height = fitted_size(photo.info.width_px, photo.info.height_px, _SCORED_EDGE_PX)
    labels_png = (folder / f"{part}_labels.png").read_bytes()
    hand = decode_label_map(labels_png, {}, f"{part}_labels", LIMITS).resized(width, height)
    rows, panels = [], [Panel(f"{pair} {part}")]
    for network in networks:
        for variant in variants:
            options = VARIANTS[variant]
            edge = max(_SCORED_EDGE_PX, round(network.input_edge_px * max(options.scales)))
            regions = segment(photo.proxy(edge, None), network, width, height, options)
            found = score(regions.label_map.indices, hand.indices)
            rows.append(Row(f"{pair} {part}", network.model.name, variant, found, regions.verdicts))
            title = (
                f"{network.model.name}, {_DESCRIPTIONS[variant]}: agreement {found.agreement:.2f}, "
                f"borders recall {found.recall:.2f} precision {found.precision:.2f}"
            )
            panels.append(Panel(title, regions.label_map))
    panels.append(Panel("made by hand", hand))
    write_label_sheet(build / f"{pair}-{part}.png", photo.proxy(_SCORED_EDGE_PX, None), panels)
    print(f"{pair} {part}: {' '.join(f'{row.variant} {row.score.agreement:.2f}' for row in rows)}", flush=True)
    return rows


def _agreements(networks: Sequence[Network], split: Path, photos: Path) -> dict[str, tuple[float, float]]:
    """Share of the held-out photos' pixels on which each other network's grouped label is the first one's.

    Then the same with regions matched one to one, whatever their names.
    """
    names = json.loads(split.read_text(encoding="utf-8"))["held_out"]
    shares: dict[str, list[tuple[float, float]]] = {network.model.name: [] for network in networks[1:]}
    for name in names:
        photo = open_photo((photos / name).read_bytes(), name, LIMITS)
        first, *others = (_grouped(photo, network) for network in networks)
        for network, labels in zip(networks[1:], others, strict=True):
            shares[network.model.name].append((float((labels == first).mean()), matched_share(labels, first)))
    means = {name: np.mean(rows, axis=0).tolist() for name, rows in shares.items()}
    return {name: (by_name, matched) for name, (by_name, matched) in means.items()}


def _grouped(photo: Photo, network: Network) -> NDArray[np.uint8]:
    pixels = photo.proxy(network.input_edge_px, None)
    size = network.input_size(pixels.shape[1], pixels.shape[0])
    probabilities = averaged([View(network.logits(pixels), *size, network.align_corners)], network.labels)
    size = fitted_size(photo.info.width_px, photo.info.height_px, _AGREEMENT_EDGE_PX)
    return probabilities.at_size(*size).argmax(axis=0).astype(np.uint8)


def _command(options: argparse.Namespace) -> str:
    words = ["python -m tests.benchmarks.label_maps"]
    if options.pairs:
        words += ["--pairs", *options.pairs]
    if options.models != ["auto"]:
        words += ["--models", *options.models]
    if options.variants != list(VARIANTS):
        words += ["--variants", *options.variants]
    return " ".join([*words, "--agreement"] if options.agreement else words)


def _document(rows: Sequence[Row], agreements: Mapping[str, tuple[float, float]], command: str) -> list[str]:
    lines = [
        "# Label maps beside hand-made ones",
        "",
        f"`{command}`",
        f"{described()}.",
        "",
        f"{len({row.photo for row in rows})} photos at {_SCORED_EDGE_PX} px, means over them.",
        "*Agreement*: share of the pixels on which regions agree that are matched one to one as well as they can be;",
        "hand-made maps have their own idea of what a region is, so 1 is not to be had. *Recall*: share of the",
        "hand-made borders that have one of ours within 3 px; *precision*: the other way round. A photo that became",
        "one region has precision 1, recall 0 and as agreement the share of the largest hand-made region.",
        "",
        "| network | variant | agreement | recall | precision | regions | photos of one region |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, variant in dict.fromkeys((row.network, row.variant) for row in rows):
        these = [row for row in rows if (row.network, row.variant) == (network, variant)]
        mean = pooled([row.score for row in these])
        single = sum(not _standing(row) for row in these)
        lines.append(
            f"| {network} | {_DESCRIPTIONS[variant]} | {mean.agreement:.3f} | {mean.recall:.3f} "
            f"| {mean.precision:.3f} | {mean.regions:.1f} | {single} |"
        )
    if agreements:
        lines += [
            "",
            f"Share of the held-out photos' pixels, at {_AGREEMENT_EDGE_PX} px, on which a network's most probable",
            "common label is the first network's, before the confidence rule; and with regions matched one to one:",
            "",
            "| network | by name | matched |",
            "|---|---|---|",
            *(f"| {name} | {by_name:.1%} | {matched:.1%} |" for name, (by_name, matched) in agreements.items()),
        ]
    lines += ["", "## What the confidence rule did", ""]
    shown = [
        row for row in rows if row.variant == ("guided" if "guided" in {r.variant for r in rows} else rows[0].variant)
    ]
    lines += [
        "Labels with at least 0.5 % of the photo, largest first: share, mean probability. The rule comes before the",
        "refinement, so it is the same for the first three variants.",
        "",
        "| photo | network | agreement | standing (*softened*) | merged | dropped |",
        "|---|---|---|---|---|---|",
        *(_verdict_line(row) for row in shown),
    ]
    return lines


def _standing(row: Row) -> list[LabelVerdict]:
    return [verdict for verdict in row.verdicts if verdict.verdict in ("kept", "softened")]


def _verdict_line(row: Row) -> str:
    cells: dict[str, list[str]] = {"standing": [], "merged": [], "dropped": []}
    for verdict in row.verdicts:
        if verdict.area_share < 0.005:
            continue
        text = f"{verdict.label} {verdict.area_share:.1%} {verdict.confidence:.2f}"
        if verdict.verdict in ("kept", "softened"):
            cells["standing"].append(f"*{text}*" if verdict.verdict == "softened" else text)
        else:
            cells[verdict.verdict].append(f"{text} → {verdict.merged_into}" if verdict.merged_into else text)
    if not _standing(row):
        cells["standing"].append(
            f"**one region**: {row.verdicts[0].reason.removesuffix(', so the photo is one region')}"
        )
    joined = " | ".join("; ".join(cell) or "–" for cell in cells.values())
    return f"| {row.photo} | {row.network} | {row.score.agreement:.2f} | {joined} |"


if __name__ == "__main__":
    main()

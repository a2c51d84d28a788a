"""The tables of ``tests.benchmarks.quality`` from its rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from services.stylizer.core.results import Quality
from tests.benchmarks.judged import SCORED_EDGE_PX, Row

__all__ = ["Counts", "field_table", "paper_table", "sweep_table"]

_SCORED = (
    f"Scored at {SCORED_EDGE_PX} px with the given masks as [quality.md](../quality.md) defines; ours is the look",
    "rendered onto the photo at its own full size and 8 bits, written to a file and read back. Lower is better but for",
    "edges.",
)
_SECONDS = (
    f"*At {SCORED_EDGE_PX} px* are evaluations in pixels of that size: one at half the long edge counts a quarter.",
    "*Solve* is the solve stage alone; *first preview* runs from matching on until the first evaluation's picture",
    "stands encoded.",
)


@dataclass(frozen=True)
class Counts:
    """On how many rows ours is better than the published picture; a tie is not better."""

    rows: int
    style: int
    affine: int
    edges: int
    style_and_affine: int
    all_three: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Counts:
        """Count."""
        better = [_better(row) for row in rows]
        return cls(
            len(rows),
            *(sum(each[term] for each in better) for term in ("style", "affine", "edges")),
            sum(each["style"] and each["affine"] for each in better),
            sum(each["style"] and each["affine"] and each["edges"] for each in better),
        )


def _better(row: Row) -> dict[str, bool]:
    ours, published = row.ours.quality, row.published
    return {
        "style": ours.style_relative < published.style_relative,
        "affine": ours.affine_per_pixel_e6 < published.affine_per_pixel_e6,
        "edges": ours.edges > published.edges,
    }


def field_table(rows: Sequence[Row]) -> list[str]:
    """Pair by pair, ours beside published; counts and seconds below."""
    counts = Counts.of(rows)
    lines = [
        *_SCORED,
        "The better number is bold.",
        *_SECONDS,
        "",
        "| pair | style | published | affine | published | edges | published | flat | published | clipped | published "
        f"| evaluations | at {SCORED_EDGE_PX} px | solve s | first preview s | look bytes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        o = row.ours
        figures = (
            *_beside(o.quality, row.published),
            *(str(o.evaluations), f"{o.full_size_evaluations:.1f}"),
            *(f"{o.solve_seconds:.1f}", f"{o.preview_seconds:.1f}", str(o.look_bytes)),
        )
        lines.append(f"| {row.pair} | {' | '.join(figures)} |")
    return [
        *lines,
        "",
        f"Of {counts.rows} pairs: style lower on {counts.style}, affine lower on {counts.affine}, edges higher on "
        f"{counts.edges}; style and affine on",
        f"{counts.style_and_affine}, all three on {counts.all_three}.",
        "",
        "| | median | most |",
        "|---|---|---|",
        *_spread("solve s", [row.ours.solve_seconds for row in rows]),
        *_spread("first preview s", [row.ours.preview_seconds for row in rows]),
        *_spread(f"evaluations at {SCORED_EDGE_PX} px", [row.ours.full_size_evaluations for row in rows]),
        *_spread("look bytes", [row.ours.look_bytes for row in rows], 0),
        "",
    ]


def sweep_table(by_evaluations: Mapping[int, Sequence[Row]]) -> list[str]:
    """What so many evaluations give: medians over the pairs."""
    lines = [
        *_SCORED,
        "Medians over the pairs; ratios and the difference are taken pair by pair. *At most* is what a solve may use;",
        "one that no longer gains stops earlier.",
        "",
        "| at most | used | "
        f"at {SCORED_EDGE_PX} px | style / published | affine / published | edges − published | solve s | slowest "
        "| style lower | affine lower | edges higher | style and affine | all three |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for evaluations, rows in by_evaluations.items():
        seconds = [row.ours.solve_seconds for row in rows]
        scores = [(row.ours.quality, row.published) for row in rows]
        figures = (
            f"{statistics.median(row.ours.evaluations for row in rows):.0f}",
            f"{statistics.median(row.ours.full_size_evaluations for row in rows):.1f}",
            f"{statistics.median(o.style_relative / p.style_relative for o, p in scores):.2f}",
            f"{statistics.median(o.affine_per_pixel_e6 / p.affine_per_pixel_e6 for o, p in scores):.2f}",
            f"{statistics.median(o.edges - p.edges for o, p in scores):+.3f}",
            *(f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"),
            *(str(count) for name, count in asdict(Counts.of(rows)).items() if name != "rows"),
        )
        lines.append(f"| {evaluations} | {' | '.join(figures)} |")
    return [*lines, "", f"Counts are of {len(rows)} pairs.", ""]


def paper_table(rows: Sequence[tuple[Row, Row]], published_evaluations: int) -> list[str]:
    """``mode = paper`` and ``mode = field`` on the same pairs."""
    lines = [
        *_SCORED,
        *_SECONDS,
        "",
        f"| pair | picture | evaluations | at {SCORED_EDGE_PX} px | solve s "
        "| style | affine | edges | flat | clipped |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for paper, field in rows:
        for start, ours in ((f"{paper.pair} | paper", paper.ours), ("| field", field.ours)):
            used = f"{ours.evaluations} | {ours.full_size_evaluations:.1f} | {ours.solve_seconds:.1f}"
            lines.append(f"| {start} | {used} | {' | '.join(_figures(ours.quality))} |")
        used = f"{published_evaluations} | {published_evaluations} | "
        lines.append(f"| | published | {used} | {' | '.join(_figures(paper.published))} |")
    return [*lines, ""]


def _figures(q: Quality) -> tuple[str, ...]:
    likeness = f"{q.style_relative:.4f}", f"{q.affine_per_pixel_e6:.0f}", f"{q.edges:.3f}"
    return *likeness, f"{q.flat_deviation:.2f}", f"{q.clipped_share:.3f}"


def _beside(ours: Quality, published: Quality) -> list[str]:
    """Ours and published in turn, the better one bold."""
    better = [
        *(ours.style_relative - published.style_relative, ours.affine_per_pixel_e6 - published.affine_per_pixel_e6),
        *(published.edges - ours.edges, ours.flat_deviation - published.flat_deviation),
        ours.clipped_share - published.clipped_share,
    ]
    cells = []
    for o, p, excess in zip(_figures(ours), _figures(published), better, strict=True):
        cells += [f"**{o}**" if excess < 0 else o, f"**{p}**" if excess > 0 else p]
    return cells


def _spread(name: str, values: Sequence[float], digits: int = 1) -> list[str]:
    return [f"| {name} | {statistics.median(values):.{digits}f} | {max(values):.{digits}f} |"]

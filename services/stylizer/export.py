"""The lookup tables of a look: which ones, fitted on which pixels, and how far they are off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.images import cielab
from services.stylizer.core.colour_difference import ciede2000
from services.stylizer.core.cube import CUBE_LINE_BYTES, cube_text
from services.stylizer.core.lut import apply_lut, fit_lut
from services.stylizer.jobs import ExportJob, Lut

__all__ = ["ColourPairs", "lookup_tables"]


@dataclass(frozen=True, eq=False)
class ColourPairs:
    """What a look does to the pixels of a photo at the look's own size.

    Attributes:
        I: (N, 3) the photo, RGB 0..1.
        O: (N, 3) the look at full strength, RGB, not clipped.
        indices: (N,) label of each pixel.
        names: what the indices stand for.
        profile: ICC profile of both, None = sRGB.
    """

    I: NDArray[np.float32]
    O: NDArray[np.float32]
    indices: NDArray[np.uint8]
    names: tuple[str, ...]
    profile: bytes | None


def lookup_tables(
    pairs: ColourPairs, job: ExportJob, should_stop: Callable[[], bool]
) -> tuple[tuple[Lut, ...], tuple[str, ...]]:
    """Fit the tables that a job asks for.

    A label's table is fitted and measured on the pixels that have this label in the look; near its borders the look
    blends labels, which is part of the fit error. Differences are CIEDE2000 between CIELAB values (D50) that the
    photo's own profile gives, or sRGB if it has none.

    Returns:
        The tables, and the labels that got none because no pixel has them.

    Raises:
        InvalidArgument: the look has no such label, or the tables are larger than a reply may be.
        FailedPrecondition: no pixel of the photo has the label.
        SolveCancelled: ``should_stop`` said so.
    """
    if job.label and job.label not in pairs.names:
        raise InvalidArgument("label", repr(job.label), f"the look has: {', '.join(sorted(pairs.names))}")
    present = {name: np.flatnonzero(pairs.indices == index) for index, name in enumerate(pairs.names)}
    absent = tuple(name for name, pixels in present.items() if len(pixels) == 0)
    if job.label in absent:
        having = ", ".join(sorted(set(pairs.names) - set(absent)))
        raise FailedPrecondition("label", repr(job.label), f"no pixel of the photo has it; some have: {having}")
    if job.per_label:
        wanted = [name for name in pairs.names if name not in absent]
    else:
        wanted, absent = [job.label], ()
    total_bytes = len(wanted) * job.points**3 * CUBE_LINE_BYTES
    if total_bytes > job.max_bytes:
        raise InvalidArgument(
            "points",
            job.points,
            f"{len(wanted)} tables of {total_bytes} bytes do not fit into a message of {job.max_bytes} bytes, "
            "ask for fewer points or for one label at a time",
        )
    if not (job.label or job.per_label):
        present = {"": np.arange(len(pairs.I))}
    return tuple(_lut(pairs, name, present[name], job.points, should_stop) for name in wanted), absent


def _lut(pairs: ColourPairs, label: str, pixels: NDArray[np.intp], points: int, should_stop: Callable[[], bool]) -> Lut:
    I, O = pairs.I[pixels], np.clip(pairs.O[pixels], 0.0, 1.0)
    table = fit_lut(I, O, points, should_stop)
    difference = ciede2000(cielab(apply_lut(table, I), pairs.profile), cielab(O, pairs.profile))
    share = len(pixels) / len(pairs.I)
    mean, p95, worst = float(difference.mean()), float(np.percentile(difference, 95)), float(difference.max())
    space = "sRGB" if pairs.profile is None else "in the space of the ICC profile of the photo"
    comments = (
        f"On {share:.1%} of the photo, CIEDE2000 to the look: mean {mean:.2f}, 95th percentile {p95:.2f}, "
        f"maximum {worst:.2f}.",
        f"RGB values in and out are {space}.",
    )
    cube = cube_text(table, f"dpst: {label or 'whole picture'}", comments)
    return Lut(label, points, cube, share, mean, p95, worst)

"""Masks must never hurt: what becomes of labels and pixels that a network is not sure of.

The rule, with the numbers below; docs/labels.md has what they were calibrated on:

1. A label is credible if its mean probability where it is the most probable is at least ``MIN_LABEL_CONFIDENCE``. One
   that is not gives its probability to the related credible label that is most probable there, if that one has at least
   ``MIN_PARTNER_PROBABILITY`` and the two together are credible (MERGED); otherwise it is taken out (DROPPED) and the
   next best label has its pixels.
2. A photo that shows the network nothing it knows becomes one region: if the most probable label's probability,
   averaged over the photo, is under ``MIN_PHOTO_CONFIDENCE``; if less than ``MIN_JUDGED_SHARE`` of the photo is both
   under credible labels and neither black nor blown out; or if the labels that step 1 drops have more than
   ``MAX_DROPPED_SHARE`` of it, ``MAX_DROPPED_BESIDE_ONE_SHARE`` if one label is left only: a sky that towers and lamps
   are counted to is no sky.
3. Labels that are left with less than ``MIN_AREA_SHARES`` of the photo merge or are dropped in the same way, the
   smallest first.
4. Pixels where no label that is left has ``MIN_PIXEL_CONFIDENCE`` take the probabilities of the nearest pixel that is
   sure. A label that stands and lost pixels on the way is SOFTENED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from services.common.taxonomy import COMMON_LABELS, MIN_AREA_SHARES, RELATED

__all__ = [
    "MAX_DROPPED_BESIDE_ONE_SHARE",
    "MAX_DROPPED_SHARE",
    "MIN_JUDGED_SHARE",
    "MIN_LABEL_CONFIDENCE",
    "MIN_PARTNER_PROBABILITY",
    "MIN_PHOTO_CONFIDENCE",
    "MIN_PIXEL_CONFIDENCE",
    "Judgement",
    "LabelVerdict",
    "judge",
]

MIN_PHOTO_CONFIDENCE = 0.74
MIN_JUDGED_SHARE = 1 / 3
MAX_DROPPED_SHARE = 0.25
MAX_DROPPED_BESIDE_ONE_SHARE = 0.05
MIN_LABEL_CONFIDENCE = 0.7
MIN_PARTNER_PROBABILITY = 0.1
MIN_PIXEL_CONFIDENCE = 0.4
# Losing less than one pixel in fifty is no news.
_SOFTENED_SHARE = 0.02

Verdict = Literal["kept", "softened", "merged", "dropped"]


@dataclass(frozen=True)
class LabelVerdict:
    """What became of one label that a network saw; the fields are those of the message ``LabelVerdict``."""

    label: str
    verdict: Verdict
    area_share: float
    confidence: float
    merged_into: str = ""
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Judgement:
    """The labels that are left, as positions in ``COMMON_LABELS``, ascending; none if the photo is one region.

    ``probabilities`` is (labels left, h, w) and sums to 1; ``verdicts`` has every label that was the most probable
    anywhere, largest first.
    """

    kept: tuple[int, ...]
    probabilities: NDArray[np.float32]
    verdicts: tuple[LabelVerdict, ...]


def judge(probabilities: NDArray[np.float32], visible: NDArray[np.bool_]) -> Judgement:
    """Apply the rule to (common labels, h, w) that sum to 1.

    ``visible`` is (h, w): whether the photo shows something there, that is, is neither black nor blown out.
    """
    winners, best = probabilities.argmax(axis=0), probabilities.max(axis=0)
    shares = np.bincount(winners.ravel(), minlength=len(COMMON_LABELS)) / winners.size
    sums = np.bincount(winners.ravel(), weights=best.ravel(), minlength=len(COMMON_LABELS)) / winners.size
    confidences = sums / np.maximum(shares, 1e-12)
    seen = [int(label) for label in np.argsort(-shares, kind="stable") if shares[label] > 0]
    verdicts = {
        label: LabelVerdict(COMMON_LABELS[label], "kept", float(shares[label]), float(confidences[label]))
        for label in seen
    }
    standing = [label for label in seen if confidences[label] >= MIN_LABEL_CONFIDENCE]
    left = probabilities.copy()
    for label in seen[::-1]:
        if label not in standing:
            why = f"it is {confidences[label]:.2f} sure, {MIN_LABEL_CONFIDENCE:g} is asked for"
            verdicts[label] = _give_up(left, label, winners == label, standing, verdicts[label], why)
    dropped = sum(verdict.area_share for verdict in verdicts.values() if verdict.verdict == "dropped")
    judged = float((np.isin(winners, standing) & visible).mean())
    if reason := _out_of_world(float(best.mean()), judged, dropped, len(standing)):
        gone = tuple(
            replace(verdict, verdict="dropped", merged_into="", reason=reason) for verdict in verdicts.values()
        )
        return Judgement((), np.ones((1, 1, 1), np.float32), gone)

    left[[label for label in range(len(left)) if label not in standing]] = 0
    while len(standing) > 1:
        now = left.argmax(axis=0)
        counts = np.bincount(now.ravel(), minlength=len(left)) / now.size
        smallest = min(standing, key=lambda label: counts[label] / _least(label))
        if counts[smallest] >= _least(smallest):
            break
        standing.remove(smallest)
        why = f"it has {counts[smallest]:.2%} of the photo, {_least(smallest):.1%} is asked for"
        verdicts[smallest] = _give_up(left, smallest, now == smallest, standing, verdicts[smallest], why)
    kept = tuple(sorted(standing))
    sure = _without_doubt(left[list(kept)])
    final = np.array(kept)[sure.argmax(axis=0)]
    for label in kept:
        lost = float((final != label)[winners == label].mean())
        if lost >= _SOFTENED_SHARE:
            reason = f"{lost:.0%} of its pixels were doubtful and went to the labels around them"
            verdicts[label] = replace(verdicts[label], verdict="softened", reason=reason)
    return Judgement(kept, sure, tuple(verdicts.values()))


def _out_of_world(confidence: float, judged: float, dropped: float, standing: int) -> str:
    if confidence < MIN_PHOTO_CONFIDENCE:
        return (
            f"the network is {confidence:.2f} sure of the photo, {MIN_PHOTO_CONFIDENCE:g} is asked for, "
            "so the photo is one region"
        )
    if judged < MIN_JUDGED_SHARE:
        return (
            f"{judged:.0%} of the photo is neither black nor blown out and has a credible label, "
            f"{MIN_JUDGED_SHARE:.0%} is asked for, so the photo is one region"
        )
    if dropped > MAX_DROPPED_SHARE:
        return (
            f"labels that are not credible have {dropped:.0%} of the photo, at most {MAX_DROPPED_SHARE:.0%} is "
            "allowed, so the photo is one region"
        )
    if standing == 1 and dropped > MAX_DROPPED_BESIDE_ONE_SHARE:
        return (
            f"one label is credible only, and those that are not have {dropped:.0%} of the photo, at most "
            f"{MAX_DROPPED_BESIDE_ONE_SHARE:.0%} is allowed beside it, so the photo is one region"
        )
    return ""


def _least(label: int) -> float:
    return MIN_AREA_SHARES[COMMON_LABELS[label]]


def _give_up(
    left: NDArray[np.float32],
    label: int,
    where: NDArray[np.bool_],
    standing: Sequence[int],
    verdict: LabelVerdict,
    why: str,
) -> LabelVerdict:
    """Merge or drop ``label``, whose region is ``where``; changes ``left``."""
    related = [COMMON_LABELS.index(name) for name in RELATED[COMMON_LABELS[label]]]
    there = {other: float(left[other][where].mean()) for other in related if other in standing} if where.any() else {}
    partner = max(there, key=lambda other: there[other], default=None)
    if (
        partner is not None
        and there[partner] >= MIN_PARTNER_PROBABILITY
        and float(left[label][where].mean()) + there[partner] >= MIN_LABEL_CONFIDENCE
    ):
        left[partner] += left[label]
        left[label] = 0
        return replace(verdict, verdict="merged", merged_into=COMMON_LABELS[partner], reason=why)
    left[label] = 0
    return replace(verdict, verdict="dropped", reason=why)


def _without_doubt(left: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill pixels that no label has with their nearest neighbour that one has; normalise."""
    doubtful = left.max(axis=0) < MIN_PIXEL_CONFIDENCE
    if doubtful.any() and not doubtful.all():
        rows, columns = distance_transform_edt(doubtful, return_distances=False, return_indices=True)
        left = left[:, rows, columns]
    left = left + np.float32(1e-7)  # where all that is left was impossible, they share equally
    return np.asarray(left / left.sum(axis=0), np.float32)

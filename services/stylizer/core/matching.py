"""Which label of the style photo steers which label of the content photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.stylizer.core.errors import LabelsUnmatched

__all__ = ["MIN_CONTENT_SHARE", "MIN_STYLE_SHARE", "LabelMatch", "match_labels"]

MIN_STYLE_SHARE: Final = 0.002
"""Share of the style photo below which a label's statistics are not trusted (85 pixels of 256 x 170)."""

MIN_CONTENT_SHARE: Final = 0.001
"""Share of the content photo below which a missing partner is no reason to refuse a request."""


@dataclass(frozen=True)
class LabelMatch:
    """One label of the content photo and where its style comes from.

    Attributes:
        content_label: its name.
        style_label: name of the style photo's label; empty for ``global`` and ``kept``.
        kind: ``same``, ``merged``, ``global`` (the whole style photo) or ``kept`` (region left as it is).
        content_share: share of the content photo, 0..1.
        style_share: share of the style photo, 0..1; 1 for ``global``, 0 for ``kept``.
    """

    content_label: str
    style_label: str
    kind: str
    content_share: float
    style_share: float


def match_labels(
    content: Mapping[str, float],
    style: Mapping[str, float],
    policy: str,
    related: Mapping[str, Sequence[str]],
) -> tuple[LabelMatch, ...]:
    """Match every content label.

    Args:
        content: share of the content photo by label name.
        style: share of the style photo by label name.
        policy: ``merge``, ``global``, ``keep`` or ``reject``, for labels without a large enough partner.
        related: for a label, other labels from most to least related; used by ``merge``.

    Returns:
        One match for each content label, largest first.

    Raises:
        LabelsUnmatched: ``reject`` and a content label of at least :data:`MIN_CONTENT_SHARE` has no partner.
    """
    usable = {name: share for name, share in style.items() if share >= MIN_STYLE_SHARE}
    matches: list[LabelMatch] = []
    for name, share in sorted(content.items(), key=lambda item: (-item[1], item[0])):
        if name in usable:
            matches.append(LabelMatch(name, name, "same", share, usable[name]))
            continue
        if policy == "reject" and share >= MIN_CONTENT_SHARE:
            have = ", ".join(sorted(usable)) or "none"
            raise LabelsUnmatched("content_labels", name, f"the style photo must have it (it has: {have})")
        partner = next((other for other in related.get(name, ()) if other in usable), None)
        if policy == "keep":
            matches.append(LabelMatch(name, "", "kept", share, 0.0))
        elif policy == "merge" and partner is not None:
            matches.append(LabelMatch(name, partner, "merged", share, usable[partner]))
        else:
            matches.append(LabelMatch(name, "", "global", share, 1.0))
    return tuple(matches)

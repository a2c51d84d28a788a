"""What the report says about regions that were found automatically, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dpst.v1 import labels_pb2

from gateway.regions import Regions, is_one_region

__all__ = ["label_notes"]

# Verdicts on smaller regions stand in the report but are no news to a person.
_WORTH_SAYING_SHARE = 0.01
_WORDS = {
    labels_pb2.VERDICT_SOFTENED: "softened",
    labels_pb2.VERDICT_MERGED: "merged",
    labels_pb2.VERDICT_DROPPED: "dropped",
}


def label_notes(content: Regions, style: Regions) -> list[str]:
    """Sentences about built-in models, photos that became one region, and labels that were not taken as they came."""
    models = [regions.model for regions in (content, style) if regions.model is not None]
    notes = [f"Labels: {text}" for text in sorted({model.description for model in models if model.built_in})]
    for name, regions, other in (("content", content, "style"), ("style", style, "content")):
        if regions.model is None:
            continue
        if regions.set_aside:
            notes.append(
                f"Labels: the {name} photo's regions are not used, because the {other} photo has none; "
                "both photos are one region."
            )
        elif is_one_region(regions.labels):
            if regions.verdicts:  # else nobody has looked for any: see the note of the model
                notes.append(f"Labels: the {name} photo is one region: {regions.verdicts[0].reason}.")
        elif changes := "; ".join(_changes(regions.verdicts)):
            notes.append(f"Labels of the {name} photo: {changes}.")
    return notes


def _changes(verdicts: Sequence[labels_pb2.LabelVerdict]) -> Iterator[str]:
    for verdict in verdicts:
        word = _WORDS.get(verdict.verdict)
        if word is not None and verdict.area_share >= _WORTH_SAYING_SHARE:
            into = f" into {verdict.merged_into}" if verdict.merged_into else ""
            yield f"{verdict.label} ({verdict.area_share:.0%}) {word}{into}, because {verdict.reason}"

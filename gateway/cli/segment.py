"""``dpst segment``: the regions of one photo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from dpst.v1 import image_pb2, labels_pb2, segmentation_pb2
from dpst.v1.segmentation_pb2_grpc import SegmentationStub

from gateway.cli.connection import connected
from gateway.cli.failures import explained_failures
from gateway.cli.files import READABLE, WRITABLE, check_writable, write_atomically
from gateway.cli.segmentation import segmentation_flags, segmentation_options
from gateway.stack import local_segmentation

__all__ = ["segment"]


@click.command()
@click.argument("photo", type=READABLE)
@click.option("-o", "--output", "out", type=WRITABLE, required=True, help="Label map, a palette PNG.")
@click.option("--server", metavar="ADDR", help="Segmentation service to use. Without it, one is started for this call.")
@click.option("--model", help="Network as NAME or NAME/VERSION.")
@click.option("--map-edge", type=click.IntRange(0), default=0, help="Long edge of the map; 0 = the photo's own size.")
@segmentation_flags
@click.option("--json", "as_json", is_flag=True, help="Print the legend as JSON.")
@click.option("--verbose", is_flag=True, help="Show the log of the started service.")
def segment(
    photo: Path,
    out: Path,
    server: str | None,
    model: str | None,
    map_edge: int,
    as_json: bool,
    verbose: bool,
    **values: Any,
) -> None:
    """Write the label map of PHOTO and print its legend: index, name and share of every region.

    Below it stands what became of labels that the network was not sure of or saw too little of.
    """
    check_writable(out)
    with explained_failures():
        request = segmentation_pb2.SegmentRequest(
            image=image_pb2.Image(data=photo.read_bytes()),
            model=model or "",
            map_edge_px=map_edge,
            options=segmentation_options(values),
        )
        with connected(server, local_segmentation, verbose) as channel:
            response = SegmentationStub(channel).Segment(request)
        write_atomically(out, response.label_map.png)
    click.echo(_json(response) if as_json else _table(response))


def _table(response: segmentation_pb2.SegmentResponse) -> str:
    lines = [f"{label.index:3d}  {label.area_share:6.1%}  {label.name}" for label in response.label_map.labels]
    model = response.model
    lines += [text for verdict in response.verdicts if (text := _verdict(verdict))]
    return "\n".join([*lines, f"by {model.name}/{model.version} on {model.device}: {model.description}"])


def _verdict(verdict: labels_pb2.LabelVerdict) -> str:
    """One line on a label that did not come through as it was, "" for one that did."""
    if verdict.verdict == labels_pb2.VERDICT_KEPT:
        return ""
    into = f" into {verdict.merged_into}" if verdict.merged_into else ""
    return f"  {verdict.area_share:8.1%}  {verdict.label}: {_word(verdict)}{into}, {verdict.reason}"


def _word(verdict: labels_pb2.LabelVerdict) -> str:
    return labels_pb2.Verdict.Name(verdict.verdict).removeprefix("VERDICT_").lower()


def _json(response: segmentation_pb2.SegmentResponse) -> str:
    model = response.model
    legend = {
        "model": {"name": model.name, "version": model.version, "device": model.device, "built_in": model.built_in},
        "labels": [
            {"index": label.index, "name": label.name, "area_share": label.area_share}
            for label in response.label_map.labels
        ],
        "verdicts": [
            {
                "label": verdict.label,
                "verdict": _word(verdict),
                "area_share": verdict.area_share,
                "confidence": verdict.confidence,
                "merged_into": verdict.merged_into,
                "reason": verdict.reason,
            }
            for verdict in response.verdicts
        ],
        "inference_seconds": response.inference_seconds,
    }
    return json.dumps(legend, indent=2, ensure_ascii=False)

"""``dpst stylize``: one transfer, from files to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import grpc
from dpst.v1 import image_pb2, labels_pb2, photo_style_pb2, progress_pb2, report_pb2
from dpst.v1.photo_style_pb2_grpc import PhotoStyleStub
from google.protobuf.json_format import MessageToDict

from gateway.cli.connection import connected, server_flags
from gateway.cli.failures import explained_failures
from gateway.cli.files import READABLE, WRITABLE, check_writable, write_atomically
from gateway.cli.output import check_format, output_flags, output_options
from gateway.cli.parameters import parameter_flags, params_message
from gateway.cli.progress import Display, shown_progress
from gateway.cli.segmentation import segmentation_flags, segmentation_options
from gateway.stack import local_stack

__all__ = ["stylize"]


@click.command()
@click.argument("content", type=READABLE)
@click.argument("style", type=READABLE)
@click.option("-o", "--output", "out", type=WRITABLE, required=True, help="Result; its suffix decides the format.")
@click.option("--content-labels", type=READABLE, help="Regions of CONTENT: index PNG or nine-colour palette.")
@click.option("--style-labels", type=READABLE, help="Regions of STYLE, likewise.")
@click.option("--segmentation-model", help="Segmentation network as NAME or NAME/VERSION.")
@segmentation_flags
@parameter_flags
@output_flags
@click.option("--report", "report_file", type=WRITABLE, help="Where the report goes, as JSON.")
@click.option("--look", "look_file", type=WRITABLE, help="Where the solved look goes, for dpst render and export-look.")
@server_flags
def stylize(
    content: Path,
    style: Path,
    out: Path,
    server: str | None,
    report_file: Path | None,
    look_file: Path | None,
    timeout: float | None,
    verbose: bool,
    **values: Any,
) -> None:
    """Give CONTENT the look of STYLE."""
    check_format(out)
    check_writable(out, report_file, look_file)
    with explained_failures():
        transfer = _transfer(content, style, out, values)
        with shown_progress() as display:
            display.say("connecting" if server else "starting the services")
            with connected(server, local_stack, verbose) as channel:
                picture, done = _received(channel, transfer, timeout, display)
        write_atomically(out, picture)
        if report_file is not None:
            write_atomically(report_file, _report_json(done.report))
        if look_file is not None:
            write_atomically(look_file, done.look.data)
    _summarise(out, done.report)


def _transfer(content: Path, style: Path, out: Path, values: dict[str, Any]) -> photo_style_pb2.Transfer:
    transfer = photo_style_pb2.Transfer(
        content=image_pb2.Image(data=content.read_bytes()),
        style=image_pb2.Image(data=style.read_bytes()),
        params=params_message(values),
        output=output_options(out, values),
        segmentation_model=values["segmentation_model"] or "",
        segmentation_options=segmentation_options(values),
    )
    if values["content_labels"] is not None:
        transfer.content_labels.CopyFrom(labels_pb2.LabelMap(png=values["content_labels"].read_bytes()))
    if values["style_labels"] is not None:
        transfer.style_labels.CopyFrom(labels_pb2.LabelMap(png=values["style_labels"].read_bytes()))
    return transfer


def _received(
    channel: grpc.Channel, transfer: photo_style_pb2.Transfer, timeout: float | None, display: Display
) -> tuple[bytes, progress_pb2.Done]:
    call = PhotoStyleStub(channel).TransferStream(
        photo_style_pb2.TransferStreamRequest(transfer=transfer), timeout=timeout
    )
    picture = bytearray()
    done = progress_pb2.Done()
    try:
        for event in call:
            if event.HasField("chunk"):
                picture += event.chunk.data
            elif event.HasField("done"):
                done = event.done
            else:
                display.event(event)
    finally:
        call.cancel()  # Ctrl-C ends the work on the server too; no effect on a finished call
    return bytes(picture), done


def _report_json(report: report_pb2.TransferReport) -> bytes:
    fields = MessageToDict(report, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    # JSON of protobuf writes 64-bit numbers as strings; both are far below 2^53.
    fields["peak_memory_bytes"] = report.peak_memory_bytes
    if report.params.HasField("seed"):
        fields["params"]["seed"] = report.params.seed
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()


def _summarise(out: Path, report: report_pb2.TransferReport) -> None:
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    seconds = {stage.stage: stage.seconds for stage in report.stages}
    result = report.result
    click.echo(
        f"{out}: {result.width_px}×{result.height_px}, {result.bit_depth} bit, {report.evaluations} evaluations, "
        f"{seconds.get(report_pb2.STAGE_END_TO_END, 0.0):.1f} s"
    )

"""``dpst render``: a solved look onto a photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import grpc
from dpst.v1 import image_pb2, look_pb2, params_pb2, photo_style_pb2, progress_pb2, report_pb2
from dpst.v1.photo_style_pb2_grpc import PhotoStyleStub

from gateway.cli.connection import connected, server_flags
from gateway.cli.failures import explained_failures
from gateway.cli.files import READABLE, WRITABLE, check_writable, write_atomically
from gateway.cli.output import check_format, output_flags, output_options
from gateway.cli.parameters import FIELDS
from gateway.cli.progress import Display, shown_progress
from gateway.stack import local_stack

__all__ = ["render"]


@click.command()
@click.argument("look", type=READABLE)
@click.argument("photo", type=READABLE)
@click.option("-o", "--output", "out", type=WRITABLE, required=True, help="Result; its suffix decides the format.")
@click.option("--strength", type=float, help=FIELDS["strength"].help)
@click.option("--preserve", type=FIELDS["preserve"].kind, help=FIELDS["preserve"].help)
@output_flags
@server_flags
def render(
    look: Path,
    photo: Path,
    out: Path,
    strength: float | None,
    preserve: str | None,
    server: str | None,
    timeout: float | None,
    verbose: bool,
    **values: Any,
) -> None:
    """Put LOOK, a file that dpst stylize --look wrote, on PHOTO, without solving.

    PHOTO is the one that LOOK was solved for, at any size, or another frame of the same scene.
    """
    check_format(out)
    check_writable(out)
    with explained_failures():
        request = photo_style_pb2.RenderLookRequest(
            look=look_pb2.Look(data=look.read_bytes()),
            content=image_pb2.Image(data=photo.read_bytes()),
            strength=strength,
            preserve=params_pb2.Preserve.Value(f"PRESERVE_{(preserve or 'unspecified').upper()}"),
            output=output_options(out, values),
        )
        with shown_progress() as display:
            display.say("connecting" if server else "starting the services")
            with connected(server, local_stack, verbose) as channel:
                display.say("rendering")
                picture, done = _received(channel, request, timeout, display)
        write_atomically(out, picture)
    seconds = {stage.stage: stage.seconds for stage in done.stages}.get(report_pb2.STAGE_END_TO_END, 0.0)
    result = done.result
    click.echo(f"{out}: {result.width_px}×{result.height_px}, {result.bit_depth} bit, {seconds:.1f} s")


def _received(
    channel: grpc.Channel, request: photo_style_pb2.RenderLookRequest, timeout: float | None, display: Display
) -> tuple[bytes, progress_pb2.RenderDone]:
    call = PhotoStyleStub(channel).RenderLook(request, timeout=timeout)
    picture = bytearray()
    done = progress_pb2.RenderDone()
    try:
        for event in call:
            if event.HasField("chunk"):
                picture += event.chunk.data
            elif event.HasField("done"):
                done = event.done
            else:
                display.queued(event.queued)
    finally:
        call.cancel()  # Ctrl-C ends the work on the server too; no effect on a finished call
    return bytes(picture), done

"""What calls give: progress on the way, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpst.v1 import image_pb2, look_pb2, photo_style_pb2, progress_pb2, report_pb2

__all__ = ["Folded", "LutResult", "Progress", "RenderResult", "TransferResult", "Watched", "progress_of"]


@dataclass(frozen=True)
class Progress:
    """Where a transfer stands.

    Attributes:
        stage: ``queued``, ``segment``, ``decode``, ``warm_start``, ``solve``, ``score``, ``render`` or ``encode``.
        done: share of the solve that is done, 0..1; 0 before it.
        position: requests ahead while it is queued.
        remaining_seconds: the server's estimate of the wait or of the solve; 0 if it has none.
        preview_jpeg: small picture of how it looks so far; empty but for some evaluations.
    """

    stage: str
    done: float = 0.0
    position: int = 0
    remaining_seconds: float = 0.0
    preview_jpeg: bytes = b""


@dataclass(frozen=True)
class TransferResult:
    """A restyled photo.

    Attributes:
        picture: the encoded file, of the content photo's format unless another one was asked for.
        info: facts about it.
        report: how it came to be: parameters, labels, losses, quality, seconds a stage, notes.
        look: for ``render`` and ``export_look``; to be kept by the caller.
    """

    picture: bytes
    info: image_pb2.ImageInfo
    report: report_pb2.TransferReport
    look: look_pb2.Look


@dataclass(frozen=True)
class RenderResult:
    """A photo with a look that was solved before; as in ``TransferResult``."""

    picture: bytes
    info: image_pb2.ImageInfo


@dataclass(frozen=True)
class LutResult:
    """Lookup tables of a look, as .cube files with their fit errors, and labels that no pixel has."""

    luts: tuple[look_pb2.Lut, ...]
    labels_without_pixels: tuple[str, ...]


@dataclass
class Folded:
    """The events of a stream, put together."""

    picture: bytearray = field(default_factory=bytearray)
    info: image_pb2.ImageInfo = field(default_factory=image_pb2.ImageInfo)
    begun: bool = False

    def add(self, chunk: image_pb2.PictureChunk) -> None:
        """Take the next piece of the picture."""
        if chunk.offset_bytes != len(self.picture):
            raise ValueError(f"a chunk at {chunk.offset_bytes} came after {len(self.picture)} bytes")
        self.begun = True
        self.picture += chunk.data
        if chunk.HasField("info"):
            self.info.CopyFrom(chunk.info)


@dataclass
class Watched:
    """A submitted transfer as far as it was watched; ``ref`` is its picture's address in the end."""

    name: str
    ref: str = ""
    _next: int = 0
    _done: progress_pb2.Done | None = None

    def request(self) -> photo_style_pb2.WatchTransferRequest:
        """For what was not seen yet."""
        return photo_style_pb2.WatchTransferRequest(name=self.name, from_sequence=self._next)

    def take(self, reply: photo_style_pb2.WatchTransferResponse) -> Progress | None:
        """Take the next event; what it says about progress."""
        self._next = reply.event.sequence + 1
        if reply.event.HasField("done"):
            self._done, self.ref = reply.event.done, reply.picture.ref
        return progress_of(reply.event)

    def result(self, picture: bytes) -> TransferResult:
        """With this picture."""
        assert self._done is not None, "the server ends every stream with it"  # noqa: S101
        return TransferResult(picture, self._done.report.result, self._done.report, self._done.look)


def progress_of(event: photo_style_pb2.TransferStreamResponse) -> Progress | None:
    """What an event says about progress, None if nothing."""
    kind = event.WhichOneof("event")
    if kind == "queued":
        return Progress("queued", position=event.queued.position, remaining_seconds=event.queued.eta_seconds)
    if kind == "stage":
        return Progress(report_pb2.Stage.Name(event.stage.stage).removeprefix("STAGE_").lower())
    if kind == "iteration":
        done = event.iteration
        share = done.evaluation / max(1, done.max_evaluations)
        return Progress("solve", share, 0, done.remaining_seconds, done.preview_jpeg)
    return None

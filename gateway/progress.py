"""What a transfer under way has achieved, so that another attempt, or another gateway, goes on with it."""

from __future__ import annotations

from dataclasses import dataclass

from dpst.v1 import jobs_pb2, progress_pb2

from gateway.regions import Regions

__all__ = ["Progress"]


@dataclass
class Progress:
    """Regions once they are found, and the newest state of the solve.

    Not a message: one keeps the memory of every value that its fields have ever had until it goes itself, and
    checkpoints of a megabyte or more come twice a second, for hours.

    Attributes:
        regions: of the content and of the style photo.
        checkpoint: of the stylizer.
    """

    regions: tuple[Regions, Regions] | None = None
    checkpoint: progress_pb2.Checkpoint | None = None

    @classmethod
    def read(cls, serialized: bytes) -> Progress:
        """Read a ``TransferProgress``; of no bytes, nothing is achieved."""
        message = jobs_pb2.TransferProgress.FromString(serialized)
        found = message.HasField("content")
        return cls(
            (Regions.kept(message.content), Regions.kept(message.style)) if found else None,
            message.checkpoint if message.HasField("checkpoint") else None,
        )

    def serialized(self) -> bytes:
        """A ``TransferProgress``, for ``read``."""
        message = jobs_pb2.TransferProgress(checkpoint=self.checkpoint)
        if self.regions is not None:
            content, style = self.regions
            message.content.CopyFrom(content.message())
            message.style.CopyFrom(style.message())
        return message.SerializeToString()

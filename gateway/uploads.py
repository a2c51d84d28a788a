"""Uploads and downloads in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from dpst.v1 import image_pb2, uploads_pb2

from gateway.blobs import BlobStore
from gateway.jobs.files import JobFiles
from services.common.config import GatewaySettings
from services.common.errors import InvalidArgument, NotFound, ServiceError
from services.common.images import ImageLimits, open_photo
from services.common.wire import image_info_message

__all__ = ["Uploads"]

_PIECE_BYTES = 1 << 18


class Uploads:
    """The files of callers, see ``BlobStore``; those of submitted transfers are read, too."""

    def __init__(self, settings: GatewaySettings, of_jobs: JobFiles | None = None) -> None:
        self._of_jobs = of_jobs
        self._limits = ImageLimits.of(settings)
        self._store = BlobStore(
            settings.blob_dir, settings.blob_max_bytes, settings.blob_keep_seconds, settings.max_image_bytes
        )

    async def take(self, requests: AsyncIterator[uploads_pb2.UploadImageRequest]) -> uploads_pb2.UploadImageResponse:
        """Keep a file. Raises as ``BlobStore.write``."""
        first = await anext(aiter(requests), uploads_pb2.UploadImageRequest())

        async def pieces() -> AsyncIterator[bytes]:
            yield first.data
            async for request in requests:
                if request.sha256:
                    raise InvalidArgument("sha256", request.sha256[:80], "stands in the first message only")
                yield request.data

        ref, size = await self._store.write(pieces(), first.sha256 or None)
        return uploads_pb2.UploadImageResponse(ref=ref, size_bytes=size)

    async def give(
        self, request: uploads_pb2.DownloadImageRequest
    ) -> AsyncGenerator[uploads_pb2.DownloadImageResponse, None]:
        """Yield a file's pieces, facts about the picture with the first if it is one. Raises as ``BlobStore.read``."""
        data = await self._read(request.ref, "ref")
        if request.offset_bytes >= len(data):
            raise InvalidArgument("offset_bytes", request.offset_bytes, f"must be below {len(data)}, the file's size")
        info = await asyncio.to_thread(self._info, data)
        for start in range(request.offset_bytes, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            chunk = image_pb2.PictureChunk(offset_bytes=start, total_bytes=len(data), data=piece, info=info)
            info = None
            yield uploads_pb2.DownloadImageResponse(chunk=chunk)

    async def fill(self, image: image_pb2.Image, field: str) -> None:
        """Replace ``ref`` by ``data``; other photos stay as they are. Raises as ``BlobStore.read``."""
        if image.WhichOneof("source") == "ref":
            image.data = await self._read(image.ref, f"{field}.ref")

    def close(self) -> None:
        """Remove what is temporary."""
        self._store.close()

    async def _read(self, ref: str, field: str) -> bytes:
        try:
            return await self._store.read(ref, field)
        except NotFound:
            if self._of_jobs is None:
                raise
        return await self._of_jobs.read(ref, field)

    def _info(self, data: bytes) -> image_pb2.ImageInfo | None:
        try:
            return image_info_message(open_photo(data, "ref", self._limits).info)
        except ServiceError:
            return None

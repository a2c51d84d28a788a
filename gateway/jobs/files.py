"""The photos and pictures of submitted transfers: kept as long as a job needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol

from gateway.blobs import BlobStore

__all__ = ["NEW_SECONDS", "FolderFiles", "JobFiles"]

NEW_SECONDS: Final = 3600.0
"""A file may be there for so long before the job that needs it."""


class JobFiles(Protocol):
    """Files by the SHA-256 of their bytes. Every method may be called by several gateways at the same time."""

    async def write(self, data: bytes) -> str:
        """Keep a file; its address. It is kept when this returns. Raises Unavailable, ResourceExhausted."""

    async def read(self, ref: str, field: str) -> bytes:
        """All bytes of a file. Raises NotFound for one that is not there, Unavailable for a damaged one."""

    async def keep_only(self, needed: Collection[str]) -> None:
        """Remove what no job needs any more, but for what was written in the last ``NEW_SECONDS``."""


class FolderFiles:
    """``JobFiles`` in a folder that the gateways of one machine share.

    Args:
        folder: made when it is needed.
        max_file_bytes: largest file.
    """

    def __init__(self, folder: Path, max_file_bytes: int) -> None:
        self._blobs = BlobStore(folder, None, NEW_SECONDS, max_file_bytes)

    async def write(self, data: bytes) -> str:
        """See ``JobFiles``. It is on the disk when this returns; raises as ``BlobStore.put``."""
        return await asyncio.to_thread(self._blobs.put, data)

    async def read(self, ref: str, field: str) -> bytes:
        """See ``JobFiles``."""
        return await self._blobs.read(ref, field)

    async def keep_only(self, needed: Collection[str]) -> None:
        """See ``JobFiles``."""
        await asyncio.to_thread(self._blobs.keep_only, needed)

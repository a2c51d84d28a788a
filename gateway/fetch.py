"""Photos that a caller names instead of sending: uploaded earlier, or where the operator allows to fetch from."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote

import aiohttp
from dpst.v1 import image_pb2
from yarl import URL

from gateway.uploads import Uploads
from services.common.config import GatewaySettings
from services.common.errors import InvalidArgument, NotFound, Unavailable

__all__ = ["Fetcher"]

_RETRY_SECONDS = 2.0
_CHUNK_BYTES = 1 << 18
_SHOWN = 120


class Fetcher:
    """Fills in photos that came as ``ref`` or ``uri``.

    Only URIs that begin with one of ``DPST_URI_PREFIXES`` are asked: same scheme, host and port, and a path below the
    prefix's. Redirects are not followed, proxies of the environment not used, and the address may hold neither
    credentials nor a way up the tree, so that a caller cannot lead the gateway anywhere else.
    """

    def __init__(self, settings: GatewaySettings, uploads: Uploads) -> None:
        self._uploads = uploads
        self._prefixes = tuple(URL(text.strip()) for text in settings.uri_prefixes.split(",") if text.strip())
        self._max_bytes = settings.max_image_bytes
        self._timeout_seconds = settings.uri_timeout_seconds

    async def fill(self, image: image_pb2.Image, field: str) -> None:
        """Replace ``ref`` or ``uri`` by ``data``; other photos stay as they are.

        Raises:
            InvalidArgument: the address is none or not allowed, or what is there is larger than a photo may be.
            NotFound: nothing is there.
            Unavailable: the server there fails, or takes too long, or the stored file is damaged.
        """
        await self._uploads.fill(image, field)
        if image.WhichOneof("source") != "uri":
            return
        url = self._allowed(image.uri, f"{field}.uri")
        try:
            async with asyncio.timeout(self._timeout_seconds), aiohttp.ClientSession(trust_env=False) as session:
                image.data = await self._fetched(session, url, f"{field}.uri")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = "it took too long" if isinstance(error, TimeoutError) else type(error).__name__
            raise Unavailable(f"{field}.uri: {_shown(str(url))} cannot be fetched: {reason}", _RETRY_SECONDS) from error

    def _allowed(self, text: str, field: str) -> URL:
        if not self._prefixes:
            raise InvalidArgument(field, _shown(text), "URIs are not allowed, send the bytes in data")
        try:
            url = URL(text)
            path = unquote(url.raw_path)
            origin = url.origin() if url.absolute and not url.user and not url.password else None
        except ValueError:
            origin, path = None, ""
        climbs = "\\" in path or any(part in (".", "..") for part in unquote(path).split("/"))
        for prefix in self._prefixes:
            if origin == prefix.origin() and not climbs and path.startswith(unquote(prefix.raw_path)):
                return url
        allowed = ", ".join(map(str, self._prefixes))
        raise InvalidArgument(field, _shown(text), f"must begin with one of {allowed}")

    async def _fetched(self, session: aiohttp.ClientSession, url: URL, field: str) -> bytes:
        async with session.get(url, allow_redirects=False) as reply:
            if reply.status in (404, 410):
                raise NotFound(f"{field}: nothing is at {_shown(str(url))}")
            if reply.status != 200:
                raise Unavailable(f"{field}: {_shown(str(url))} answers {reply.status}", _RETRY_SECONDS)
            found = bytearray()
            async for chunk in reply.content.iter_chunked(_CHUNK_BYTES):
                found += chunk
                if len(found) > self._max_bytes:
                    raise InvalidArgument(
                        field, f"more than {self._max_bytes} bytes", f"must have at most {self._max_bytes} bytes"
                    )
            return bytes(found)


def _shown(text: str) -> str:
    return repr(text[:_SHOWN])

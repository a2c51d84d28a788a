"""Photos by address: from allowed places only, whatever a caller writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from dpst.v1 import image_pb2

from gateway.fetch import Fetcher
from gateway.uploads import Uploads
from services.common.config import GatewaySettings
from services.common.errors import InvalidArgument, NotFound, Unavailable

asked: list[str] = []


@pytest.fixture
async def place() -> AsyncIterator[str]:
    asked.clear()

    async def photo(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        name = request.path.rpartition("/")[2]
        if name == "slow":
            await asyncio.sleep(5)
        if name == "elsewhere":
            raise web.HTTPFound("/secret/keys")
        if name == "broken":
            raise web.HTTPInternalServerError
        if name == "gone":
            raise web.HTTPNotFound
        return web.Response(body=b"x" * (3000 if name == "large" else 10))

    app = web.Application()
    app.router.add_get("/{path:.*}", photo)
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("/"))


def fetcher(prefixes: str) -> Fetcher:
    settings = GatewaySettings(uri_prefixes=prefixes, max_image_bytes=2000, uri_timeout_seconds=0.5)
    return Fetcher(settings, Uploads(settings))


async def fetched(place: str, path: str) -> bytes:
    image = image_pb2.Image(uri=f"{place}{path}")
    await fetcher(f"https://other.example/, {place}in/").fill(image, "content")
    assert image.WhichOneof("source") == "data"
    return image.data


async def test_a_photo_below_a_prefix_is_fetched(place: str) -> None:
    assert await fetched(place, "in/a/photo.jpg") == b"x" * 10
    assert await fetched(place, "in/a%20photo.jpg?version=2") == b"x" * 10
    assert asked == ["/in/a/photo.jpg", "/in/a photo.jpg"]


async def test_photos_that_came_as_bytes_stay(place: str) -> None:
    for image in (image_pb2.Image(data=b"bytes"), image_pb2.Image()):
        before = image.SerializeToString()
        await fetcher(f"{place}in/").fill(image, "content")
        assert image.SerializeToString() == before
    assert not asked


@pytest.mark.parametrize(
    "path",
    [
        "secret/keys",
        "in",
        "in/../secret/keys",
        "in/%2e%2e/secret/keys",
        "in/%252e%252e/secret/keys",
        "in/..%2fsecret/keys",
        "in\\..\\secret",
        "inner/photo",
    ],
)
async def test_a_way_out_of_the_prefix_is_refused(place: str, path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"content\.uri: got .* must begin with one of"):
        await fetched(place, path)
    assert not asked


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        "ftp://127.0.0.1/in/photo",
        "//127.0.0.1/in/photo",
        "in/photo",
        "http://[::1/in/photo",
        "http://127.0.0.1:99999/in/photo",
        "",
        "\x00",
    ],
)
async def test_other_places_are_refused(place: str, uri: str) -> None:
    with pytest.raises(InvalidArgument, match="must begin with one of"):
        await fetcher(f"{place}in/").fill(image_pb2.Image(uri=uri), "content")
    assert not asked


async def test_the_prefixes_host_with_other_credentials_or_port_is_another_place(place: str) -> None:
    host = place.removeprefix("http://").rstrip("/")
    for uri in (f"http://user:word@{host}/in/photo", f"https://{host}/in/photo", "http://127.0.0.1/in/photo"):
        with pytest.raises(InvalidArgument):
            await fetcher(f"{place}in/").fill(image_pb2.Image(uri=uri), "content")
    assert not asked


async def test_without_prefixes_no_address_is_allowed(place: str) -> None:
    with pytest.raises(InvalidArgument, match="URIs are not allowed, send the bytes"):
        await fetcher("").fill(image_pb2.Image(uri=f"{place}in/photo"), "content")


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("elsewhere", Unavailable, "answers 302"),
        ("broken", Unavailable, "answers 500"),
        ("gone", NotFound, "nothing is at"),
        ("slow", Unavailable, "it took too long"),
        ("large", InvalidArgument, "more than 2000 bytes, must have at most 2000"),
    ],
)
async def test_what_the_place_answers(place: str, name: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        await fetched(place, f"in/{name}")
    assert asked == [f"/in/{name}"], "no redirect is followed"


async def test_a_place_that_is_away() -> None:
    with pytest.raises(Unavailable, match="cannot be fetched"):
        await fetcher("http://127.0.0.1:1/").fill(image_pb2.Image(uri="http://127.0.0.1:1/photo"), "style")


@pytest.mark.parametrize(
    "prefix", ["file:///srv/", "https://photos.internal/in", "photos.internal/", "https://a/../b/ x"]
)
def test_prefixes_are_checked_at_the_start(prefix: str) -> None:
    with pytest.raises(ValueError, match="must be http"):
        GatewaySettings(uri_prefixes=prefix)

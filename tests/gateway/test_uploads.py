"""Uploads and downloads over a real gateway, and the folder behind them."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from dpst.v1 import image_pb2, photo_style_pb2, uploads_pb2

from gateway import blobs
from gateway.blobs import BlobStore
from services.common.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from tests.gateway.fakes import World, photo, segmented, solved, transfer

DAY = 86_400.0


def pieces(data: bytes, sha256: str = "", size: int = 1 << 16) -> Iterator[uploads_pb2.UploadImageRequest]:
    for start in range(0, max(1, len(data)), size):
        yield uploads_pb2.UploadImageRequest(data=data[start : start + size], sha256="" if start else sha256)


async def upload(world: World, data: bytes, sha256: str = "") -> str:
    reply = await world.stub.UploadImage(pieces(data, sha256))
    assert reply.size_bytes == len(data)
    return reply.ref


async def download(world: World, ref: str, offset: int = 0) -> list[image_pb2.PictureChunk]:
    request = uploads_pb2.DownloadImageRequest(ref=ref, offset_bytes=offset)
    return [reply.chunk async for reply in world.stub.DownloadImage(request)]


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_what_was_uploaded_is_used_and_downloaded(world: World) -> None:
    content = photo()
    ref = await upload(world, content, hashlib.sha256(content).hexdigest())
    assert ref == hashlib.sha256(content).hexdigest()
    world.segmentation.replies, world.stylizer.replies = [segmented()] * 2, [solved()]
    await world.events(transfer(content=image_pb2.Image(ref=ref)))
    assert world.stylizer.requests[0].content.data == content
    (chunk,) = await download(world, ref)
    assert (chunk.data, chunk.total_bytes, chunk.info.width_px) == (content, len(content), 48)


async def test_a_broken_download_goes_on(world: World) -> None:
    data = os.urandom(600_000)
    ref = await upload(world, data)
    chunks = await download(world, ref)
    assert [chunk.offset_bytes for chunk in chunks] == [0, 1 << 18, 1 << 19]
    assert b"".join(chunk.data for chunk in chunks) == data
    assert not chunks[0].HasField("info"), "it is no picture"
    assert b"".join(chunk.data for chunk in await download(world, ref, 300_001)) == data[300_001:]
    for offset in (600_000, 1 << 60):
        error = await refused(download(world, ref, offset))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "must be below 600000" in (error.details() or "")


@pytest.mark.parametrize(
    ("data", "sha256", "reason"),
    [
        (b"", "", "data: got nothing"),
        (b"abc", "0" * 64, f"sha256: got {'0' * 64}, the bytes that came have ba7816bf"),
        (b"abc", "../../etc/passwd", "sha256: got '../../etc/passwd', must be 64 digits"),
        (bytes((2 << 20) + 1), "", "data: got more than 2097152 bytes"),
    ],
)
async def test_other_files_are_refused(world: World, data: bytes, sha256: str, reason: str) -> None:
    error = await refused(world.stub.UploadImage(pieces(data, sha256)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in (error.details() or "")


@pytest.mark.parametrize("ref", ["0" * 64, "../../../../etc/passwd", "ab", "A" * 64])
async def test_unknown_addresses_are_refused(world: World, ref: str) -> None:
    code = grpc.StatusCode.NOT_FOUND if ref == "0" * 64 else grpc.StatusCode.INVALID_ARGUMENT
    request = photo_style_pb2.TransferStreamRequest(transfer=transfer(style=image_pb2.Image(ref=ref)))
    for call, field in ((download(world, ref), "ref"), (world.stub.TransferStream(request).read(), "style.ref")):
        error = await refused(call)
        assert error.code() is code
        assert (error.details() or "").startswith(field)


async def test_an_upload_that_is_no_message_is_refused(world: World) -> None:
    async with grpc.aio.insecure_channel(world.address) as channel:
        error = await refused(channel.stream_unary("/dpst.v1.PhotoStyle/UploadImage")(iter([b"\xff\xff"])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def given(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def stored(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_those_not_asked_for_longest_make_room(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 2500, DAY, 1000)
    first, second, third = [(await store.write(given(bytes([n]) * 1000), None))[0] for n in range(3)]
    now = time.time()
    for age, ref in ((30, first), (20, second), (10, third)):
        if (path := tmp_path / ref[:2] / ref).exists():
            os.utime(path, (now - age, now - age))
    kept = {path.name for path in stored(tmp_path)}
    assert third in kept
    assert len(kept) == 2
    await store.read(second, "ref")
    await store.write(given(b"new" * 100), None)
    fourth, _ = await store.write(given(b"newer" * 200), None)
    assert {path.name for path in stored(tmp_path)} >= {second, fourth}
    with pytest.raises(NotFound, match="upload the file again"):
        await store.read(third, "ref")


async def test_nobody_asked_for_it_for_a_day(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 10_000, DAY, 1000)
    old, _ = await store.write(given(b"old"), None)
    left = tmp_path / "incoming" / "of-a-killed-process"
    left.touch()
    for path in (tmp_path / old[:2] / old, left):
        os.utime(path, (1, 1))
    new, _ = await store.write(given(b"new"), None)
    assert [path.name for path in stored(tmp_path)] == [new]


async def test_an_upload_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    store = BlobStore(tmp_path, 10_000, DAY, 1000)
    with pytest.raises(Unavailable):
        await store.write(broken(), None)
    assert not stored(tmp_path)


async def test_a_damaged_file_is_removed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 10_000, DAY, 1000)
    ref, _ = await store.write(given(b"photo"), None)
    (tmp_path / ref[:2] / ref).write_bytes(b"phot0")
    with pytest.raises(Unavailable, match="were damaged"):
        await store.read(ref, "content.ref")
    with pytest.raises(NotFound, match=r"content\.ref"):
        await store.read(ref, "content.ref")


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [(errno.ENOSPC, ResourceExhausted, "is full"), (errno.EIO, Unavailable, "Input/output error")],
)
async def test_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], reason: str
) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(blobs, "_append", failing)
    with pytest.raises(kind, match=reason):
        await BlobStore(tmp_path, 10_000, DAY, 1000).write(given(b"photo"), None)
    assert not stored(tmp_path)


async def test_a_temporary_folder_goes_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = BlobStore(None, 10_000, DAY, 1000)
    assert not os.listdir(tmp_path), "made when it is needed"
    await store.write(given(b"photo"), None)
    assert stored(tmp_path)
    store.close()
    assert not os.listdir(tmp_path)


async def test_the_address_must_stand_in_the_first_message(world: World) -> None:
    late = [uploads_pb2.UploadImageRequest(data=b"a"), uploads_pb2.UploadImageRequest(data=b"b", sha256="0" * 64)]
    error = await refused(world.stub.UploadImage(iter(late)))
    assert "first message only" in (error.details() or "")


async def test_refusals_name_the_address(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"content\.ref"):
        await BlobStore(tmp_path, 1, 1, 1).read("zz", "content.ref")

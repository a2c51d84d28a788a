"""Submitted transfers through a real gateway with fake services behind it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import time
import uuid
from pathlib import Path

import grpc
import grpc.aio
import pytest
from dpst.v1 import image_pb2, jobs_pb2, params_pb2, photo_style_pb2, progress_pb2, stylizer_pb2, uploads_pb2
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2

from gateway.jobs.files import NEW_SECONDS
from services.common import errors
from tests.gateway.fakes import World, eventually, forever, photo, segmented, solved, transfer


@pytest.fixture(params=["sqlite", "nats"])
def job_settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Both engines do the same."""
    if request.param == "sqlite":
        return {"jobs_url": f"sqlite:{tmp_path / 'jobs'}"}
    return {"jobs_url": request.getfixturevalue("nats").url, "jobs_nats_prefix": f"p{uuid.uuid4().hex}"}


async def submit(world: World, **fields: object) -> operations_pb2.Operation:
    return await world.stub.SubmitTransfer(photo_style_pb2.SubmitTransferRequest(transfer=transfer(**fields)))


async def watch(world: World, name: str, from_sequence: int = 0) -> list[photo_style_pb2.WatchTransferResponse]:
    call = world.stub.WatchTransfer(photo_style_pb2.WatchTransferRequest(name=name, from_sequence=from_sequence))
    return [reply async for reply in call]


async def ended(world: World, name: str, seconds: float = 20) -> operations_pb2.Operation:
    request = operations_pb2.WaitOperationRequest(name=name, timeout=duration_pb2.Duration(seconds=int(seconds)))
    operation = await world.operations.WaitOperation(request)
    assert operation.done
    return operation


def metadata(operation: operations_pb2.Operation) -> jobs_pb2.TransferMetadata:
    found = jobs_pb2.TransferMetadata()
    assert operation.metadata.Unpack(found)
    return found


def result(operation: operations_pb2.Operation) -> jobs_pb2.TransferResult:
    found = jobs_pb2.TransferResult()
    assert operation.response.Unpack(found), operation.error
    return found


async def refused(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_submitted_transfer_is_done_and_its_picture_is_there(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved(b"the picture")]
    operation = await submit(world, request_id="mine", params=params_pb2.TransferParams(strength=0.5))
    assert operation.name.startswith("operations/")
    assert not operation.done
    found = result(operation := await ended(world, operation.name))
    assert found.picture.ref == hashlib.sha256(b"the picture").hexdigest()
    assert found.report.request_id == "mine"
    assert found.report.evaluations == 2
    told = metadata(operation)
    assert told.state == jobs_pb2.TRANSFER_STATE_DONE
    assert (told.evaluations, told.max_evaluations, told.attempts, told.request_id) == (2, 2, 1, "mine")
    (request,) = world.stylizer.requests
    assert (request.content.data, request.params.strength) == (photo(), 0.5)
    call = world.stub.DownloadImage(uploads_pb2.DownloadImageRequest(ref=found.picture.ref))
    assert b"".join([piece.chunk.data async for piece in call]) == b"the picture"


async def test_events_are_watched_from_any_number_on(world: World) -> None:
    gate = asyncio.Event()

    async def later() -> object:
        await gate.wait()
        return solved()[3]

    world.segmentation.replies = [segmented(), segmented()]
    events = solved()
    world.stylizer.replies = [[*events[:3], later, *events[4:]]]
    name = (await submit(world)).name
    call = world.stub.WatchTransfer(photo_style_pb2.WatchTransferRequest(name=name))
    seen = [await call.read() for _ in range(5)]
    assert [reply.event.WhichOneof("event") for reply in seen] == ["accepted", "stage", "queued", "stage", "iteration"]
    call.cancel()
    gate.set()
    rest = await watch(world, name, seen[-1].event.sequence + 1)
    assert [reply.event.WhichOneof("event") for reply in rest] == ["iteration", "done"]
    assert [reply.event.sequence for reply in (*seen, *rest)] == list(range(1, 8))
    assert rest[-1].picture.ref == result(await ended(world, name)).picture.ref
    assert rest[-1].event.done.report.evaluations == 2
    assert [reply.event.sequence for reply in await watch(world, name)] == list(range(1, 8))
    error = await refused(watch(world, "operations/none"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_the_same_request_id_is_the_same_operation(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    first = await submit(world, request_id="once")
    assert (await submit(world, request_id="once")).name == first.name
    done = await ended(world, first.name)
    assert await submit(world, request_id="once") == done
    error = await refused(submit(world, request_id="once", segmentation_model="other"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "request_id: got 'once', was given to another transfer"


async def test_what_cannot_be_done_is_refused_at_once(world: World) -> None:
    for fields, says in (
        ({"content": image_pb2.Image(data=b"none")}, "content: got 4 bytes"),
        ({"request_id": "a b"}, "request_id"),
        ({"priority": 17}, "priority: got 17"),
        ({"style": image_pb2.Image(ref="0" * 64)}, "style.ref"),
    ):
        error = await refused(submit(world, **fields))
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        assert says in error.details()
    listed = await world.operations.ListOperations(operations_pb2.ListOperationsRequest())
    assert not listed.operations


async def test_a_refusal_ends_the_job_with_its_details(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [errors.InvalidArgument("params.strength", 7, "allowed: 0..1")]
    operation = await ended(world, (await submit(world)).name)
    assert metadata(operation).state == jobs_pb2.TRANSFER_STATE_FAILED
    assert operation.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert operation.error.message == "params.strength: got 7, allowed: 0..1"
    assert operation.error.details
    error = await refused(watch(world, operation.name))
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, operation.error.message)


async def test_a_full_stylizer_costs_no_attempt_and_segments_nothing(world: World) -> None:
    world.room.replies = [errors.ResourceExhausted("queue full", 0.1, errors.Shortage.QUEUE)] * 6
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    operation = await ended(world, (await submit(world)).name)
    assert metadata(operation).attempts == 1
    assert result(operation).report.evaluations == 2


async def test_too_little_memory_is_an_attempt(world: World) -> None:
    world.room.replies = [errors.ResourceExhausted("too large", 0.1, errors.Shortage.MEMORY)] * 2  # one a replica
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    operation = await ended(world, (await submit(world)).name)
    assert metadata(operation).attempts == 2


async def test_a_failed_attempt_goes_on_from_its_checkpoint_with_the_same_regions(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    kept = stylizer_pb2.StylizeResponse(checkpoint=progress_pb2.Checkpoint(data=b"half way", evaluations=1))
    broken = [*solved()[:3], kept, errors.DeadlineExceeded("too slow today")]
    world.stylizer.replies = [broken, solved()]
    operation = await ended(world, (await submit(world)).name)
    assert metadata(operation).attempts == 2
    assert [request.checkpoint.data for request in world.stylizer.requests] == [b"", b"half way"]
    first, second = world.stylizer.requests
    assert (first.content_labels, first.style_labels) == (second.content_labels, second.style_labels)
    report = result(operation).report
    assert report.content_segmentation_model.name == "fake-net"
    sequences = [reply.event.sequence for reply in await watch(world, operation.name)]
    assert sequences == sorted(set(sequences))
    assert world.count("dpst_submitted_retries_total") == 1


async def test_a_checkpoint_that_nobody_can_read_is_dropped(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    kept = stylizer_pb2.StylizeResponse(checkpoint=progress_pb2.Checkpoint(data=b"old", evaluations=1))
    stale = errors.FailedPrecondition("checkpoint.version", 1, "this service reads version 2")
    world.stylizer.replies = [[*solved()[:3], kept, stale], solved()]
    operation = await ended(world, (await submit(world)).name)
    assert result(operation).report.evaluations == 2
    assert [request.checkpoint.data for request in world.stylizer.requests] == [b"", b""]


@pytest.mark.parametrize(
    ("reply", "code", "says"),
    [
        ([*solved()[:3], errors.DeadlineExceeded("too slow")], grpc.StatusCode.DEADLINE_EXCEEDED, "too slow"),
        (
            [*solved()[:3], errors.ResourceExhausted("out of memory", 0.1, errors.Shortage.MEMORY)],
            grpc.StatusCode.ABORTED,
            "out of memory",
        ),
        (ValueError("a bug"), grpc.StatusCode.INTERNAL, "internal error"),
    ],
)
async def test_after_all_attempts_a_job_is_dead_and_says_why(
    world: World, reply: object, code: grpc.StatusCode, says: str
) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    replicas = 2 if code is grpc.StatusCode.ABORTED else 1  # of one that is full another one is asked
    world.stylizer.replies = [reply] * (2 * replicas)
    operation = await ended(world, (await submit(world)).name)
    assert metadata(operation).state == jobs_pb2.TRANSFER_STATE_DEAD
    assert operation.error.code == code.value[0]
    assert f"given up after 2 attempts: {says}" in operation.error.message


@pytest.mark.parametrize("running", [True, False])
async def test_cancel_reaches_the_solve(world: World, running: bool) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [[*solved()[:3], forever]]
    names = [(await submit(world, request_id=name)).name for name in ("first", "second")]
    await eventually(lambda: len(world.stylizer.requests) == 1)
    await world.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=names[0 if running else 1]))
    if running:
        world.segmentation.replies = [segmented(), segmented()]
        world.stylizer.replies = [solved()]
    operation = await ended(world, names[0 if running else 1])
    assert metadata(operation).state == jobs_pb2.TRANSFER_STATE_CANCELLED
    assert operation.error.code == grpc.StatusCode.CANCELLED.value[0]
    if running:
        await eventually(lambda: world.stylizer.cancelled == 1)
        assert result(await ended(world, names[1]))
    error = await refused(world.operations.CancelOperation(operations_pb2.CancelOperationRequest(name="operations/x")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_gateway_that_stops_gives_its_job_back(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    kept = stylizer_pb2.StylizeResponse(checkpoint=progress_pb2.Checkpoint(data=b"half way", evaluations=1))
    world.stylizer.replies = [[*solved()[:3], kept, forever]]
    name = (await submit(world)).name
    events = world.stub.WatchTransfer(photo_style_pb2.WatchTransferRequest(name=name))
    for _ in range(5):
        await events.read()
    events.cancel()
    world.runner.cancel()
    await asyncio.wait({world.runner})
    async with asyncio.timeout(5):
        while True:  # a server takes a moment to hand it out again
            if (claim := await world.engine.store.claim(world.engine.policy)) is not None:
                break
            await asyncio.sleep(0.01)
    assert jobs_pb2.TransferProgress.FromString(claim.progress).checkpoint.data == b"half way"
    assert claim.metadata.attempts == 1, "it was no fault of the job"
    await eventually(lambda: world.stylizer.cancelled == 1)


async def test_operations_are_listed_filtered_and_deleted(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    name = (await submit(world)).name
    await ended(world, name)

    async def names(wanted: str) -> list[str]:
        request = operations_pb2.ListOperationsRequest(name="operations", filter=wanted)
        return [each.name for each in (await world.operations.ListOperations(request)).operations]

    assert await names("") == await names("done = true") == await names('state = "DONE"') == [name]
    assert await names("done=false") == await names("state = DEAD") == []
    error = await refused(names("size > 3"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "done = true|false" in error.details()
    assert (await world.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))).name == name
    await world.operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name))
    error = await refused(world.operations.GetOperation(operations_pb2.GetOperationRequest(name=name)))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_what_is_under_way_is_not_deleted_and_waiting_ends_with_its_timeout(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [[*solved()[:3], forever]]
    name = (await submit(world)).name
    await eventually(lambda: len(world.stylizer.requests) == 1)
    error = await refused(world.operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    request = operations_pb2.WaitOperationRequest(name=name, timeout=duration_pb2.Duration(nanos=200_000_000))
    assert not (await world.operations.WaitOperation(request)).done


async def test_a_photo_that_was_deleted_underneath_ends_the_job_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.room.replies = [errors.ResourceExhausted("queue full", 0.5, errors.Shortage.QUEUE)]
    world.room.replies.append(errors.ResourceExhausted("queue full", 0.5, errors.Shortage.QUEUE))
    name = (await submit(world)).name
    await eventually(lambda: len(world.room.requests) == 2)
    ref = hashlib.sha256(photo()).hexdigest()
    real = time.time
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: real() + 2 * NEW_SECONDS)
        await world.engine.files.keep_only(())
    operation = await ended(world, name)
    assert metadata(operation).state == jobs_pb2.TRANSFER_STATE_FAILED
    assert operation.error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert f"content: {ref} is not here" in operation.error.message


@pytest.mark.parametrize("job_settings", ["sqlite"], indirect=True)
async def test_a_full_disk_refuses_a_submission(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gateway.blobs.BlobStore._publish", full)
    error = await refused(submit(world))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "the disk for uploads is full"


async def test_a_job_of_an_older_version_is_done(world: World) -> None:
    """Fields that are no more, or not yet, do no harm: here one that nobody knows."""
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    sent = photo_style_pb2.SubmitTransferRequest(transfer=transfer())
    unknown = sent.transfer.SerializeToString() + b"\xfa\x3e\x03new"  # field 1007, a string
    request = photo_style_pb2.SubmitTransferRequest(transfer=photo_style_pb2.Transfer.FromString(unknown))
    assert result(await ended(world, (await world.stub.SubmitTransfer(request)).name))


async def test_photos_of_a_job_outlive_the_uploads(world: World) -> None:
    async def pieces():
        yield uploads_pb2.UploadImageRequest(data=photo())

    uploaded = await world.stub.UploadImage(pieces())
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    operation = await ended(world, (await submit(world, content=image_pb2.Image(ref=uploaded.ref))).name)
    assert result(operation)
    assert await world.engine.files.read(uploaded.ref, "content") == photo()

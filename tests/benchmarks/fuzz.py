"""Mutated requests to every RPC of a stack: none may crash it, hang it, or be answered as if the server were at fault.

    python -m tests.benchmarks.fuzz [--count 10000] [--seed 0] [--out build/benchmarks/fuzz]

Valid requests are changed in their bytes, in their photos, label maps, looks and checkpoints, or cut, and sent with a
deadline of 30 s. Writes how often each code came, and each request that was answered with INTERNAL or UNKNOWN as a
file.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from dpst.v1 import (
    image_pb2,
    labels_pb2,
    params_pb2,
    photo_style_pb2,
    photo_style_pb2_grpc,
    progress_pb2,
    segmentation_pb2,
    stylizer_pb2,
    stylizer_pb2_grpc,
    uploads_pb2,
)
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.common.label_maps import single_region
from services.common.wire import label_map_to_message
from tests.benchmarks.machine import described
from tests.faults.cluster import Cluster, cluster, picture

__all__ = ["Attack", "attacks", "fuzzed"]

_OURS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_DEADLINE_SECONDS = 30.0
_AT_A_TIME = 4
_SHAKEN = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_ENUM)
_PARAMS = params_pb2.TransferParams(solve_edge_px=64, max_evaluations=1, preview_every=0)


@dataclass(frozen=True)
class Attack:
    """A method of a process, and a valid request of it; ``kind`` is the channel's method."""

    process: str
    method: str
    kind: str
    request: Message


async def attacks(found: Cluster) -> list[Attack]:
    """Every RPC that takes a photo, a look, a label map or a checkpoint."""
    content, style = (image_pb2.Image(data=picture(seed, 96, 64)) for seed in (1, 2))
    labels = label_map_to_message(single_region(96, 64))
    stylize = stylizer_pb2.StylizeRequest(
        content=content, style=style, content_labels=labels, style_labels=labels, params=_PARAMS
    )
    async with grpc.aio.insecure_channel(found.ports["stylizer-0"]) as channel:
        call: Any = stylizer_pb2_grpc.StylizerStub(channel).Stylize(stylize)
        done = [event async for event in call][-1].done
    resumed = stylizer_pb2.StylizeRequest()
    resumed.CopyFrom(stylize)
    resumed.checkpoint.CopyFrom(progress_pb2.Checkpoint(data=done.look.data, version=1))
    transfer = photo_style_pb2.Transfer(content=content, style=style, params=_PARAMS, content_labels=labels)
    segment = segmentation_pb2.SegmentRequest(
        image=content, map_edge_px=128, options=labels_pb2.SegmentationOptions(scales=[0.5, 1.0], flip=True)
    )
    look, photo = done.look, content
    submission = photo_style_pb2.SubmitTransferRequest(transfer=transfer)
    async with grpc.aio.insecure_channel(found.ports["gateway"]) as channel:
        submit: Any = photo_style_pb2_grpc.PhotoStyleStub(channel).SubmitTransfer
        name = (await submit(submission)).name
    operations = "google.longrunning.Operations"
    asked = stylizer_pb2.CheckRoomRequest(params=_PARAMS, width_px=96, height_px=64, remaining_seconds=60)
    listed = operations_pb2.ListOperationsRequest(name="operations", filter="done = true", page_size=3, page_token="9")
    waited = operations_pb2.WaitOperationRequest(name=name, timeout=duration_pb2.Duration(seconds=1))
    watched = photo_style_pb2.WatchTransferRequest(name=name, from_sequence=2)
    return [
        Attack("segmentation", "dpst.v1.Segmentation/Segment", "unary_unary", segment),
        Attack("stylizer-0", "dpst.v1.Stylizer/CheckRoom", "unary_unary", asked),
        Attack("stylizer-0", "dpst.v1.Stylizer/Stylize", "unary_stream", stylize),
        Attack("stylizer-0", "dpst.v1.Stylizer/Stylize", "unary_stream", resumed),
        Attack(
            "stylizer-0",
            "dpst.v1.Stylizer/Render",
            "unary_stream",
            stylizer_pb2.RenderRequest(look=look, content=photo),
        ),
        Attack(
            "stylizer-0",
            "dpst.v1.Stylizer/ExportLook",
            "unary_unary",
            stylizer_pb2.StylizerExportLookRequest(look=look, content=photo, points=17),
        ),
        Attack(
            "gateway", "dpst.v1.PhotoStyle/Transfer", "unary_unary", photo_style_pb2.TransferRequest(transfer=transfer)
        ),
        Attack(
            "gateway",
            "dpst.v1.PhotoStyle/TransferStream",
            "unary_stream",
            photo_style_pb2.TransferStreamRequest(transfer=transfer),
        ),
        Attack(
            "gateway",
            "dpst.v1.PhotoStyle/RenderLook",
            "unary_stream",
            photo_style_pb2.RenderLookRequest(look=look, content=photo),
        ),
        Attack(
            "gateway",
            "dpst.v1.PhotoStyle/ExportLook",
            "unary_unary",
            photo_style_pb2.ExportLookRequest(look=look, content=photo, points=17),
        ),
        Attack("gateway", "dpst.v1.PhotoStyle/SubmitTransfer", "unary_unary", submission),
        Attack("gateway", "dpst.v1.PhotoStyle/WatchTransfer", "unary_stream", watched),
        *(
            Attack("gateway", f"{operations}/{method}Operation", "unary_unary", kind(name=name))
            for method, kind in (
                ("Get", operations_pb2.GetOperationRequest),
                ("Cancel", operations_pb2.CancelOperationRequest),
                ("Delete", operations_pb2.DeleteOperationRequest),
            )
        ),
        Attack("gateway", f"{operations}/ListOperations", "unary_unary", listed),
        Attack("gateway", f"{operations}/WaitOperation", "unary_unary", waited),
        Attack(
            "gateway", "dpst.v1.PhotoStyle/UploadImage", "stream_unary", uploads_pb2.UploadImageRequest(data=photo.data)
        ),
        Attack(
            "gateway",
            "dpst.v1.PhotoStyle/DownloadImage",
            "unary_stream",
            uploads_pb2.DownloadImageRequest(ref="ab" * 32),
        ),
    ]


def mutated(request: Message, chance: random.Random) -> bytes:
    """Bytes of a changed request: one of its own byte fields is changed, or its serialised form."""
    changed = type(request)()
    changed.CopyFrom(request)
    if chance.random() < 0.7 and (fields := _byte_fields(changed)):
        owner, name = chance.choice(fields)
        setattr(owner, name, _damaged(getattr(owner, name), chance))
        if chance.random() < 0.3:
            _shake(changed, chance)
        return changed.SerializeToString()
    return _damaged(request.SerializeToString(), chance)


def _byte_fields(message: Message) -> list[tuple[Message, str]]:
    found: list[tuple[Message, str]] = []
    for field, value in message.ListFields():
        if field.type == field.TYPE_BYTES and value:
            found.append((message, field.name))
        elif field.type == field.TYPE_MESSAGE and not field.is_repeated:
            found += _byte_fields(value)
    return found


def _shake(message: Message, chance: random.Random) -> None:
    """Give numbers of a message and of those within odd values."""
    odd: list[Callable[[], float]] = [lambda: 0, lambda: -1, lambda: 2**31 - 1, lambda: float("nan"), lambda: 1e308]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE and not field.is_repeated and chance.random() < 0.7:
            _shake(value, chance)
        elif field.cpp_type in _SHAKEN and not field.is_repeated:
            try:
                setattr(message, field.name, chance.choice(odd)())
            except (ValueError, TypeError):  # not of that type
                continue


def _damaged(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        at = chance.randrange(len(found) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            del found[at:]
        elif kind == 1:
            found[at:at] = chance.randbytes(chance.choice((1, 4, 200)))
        elif kind == 2:
            del found[at : at + chance.choice((1, 4, 200))]
        elif kind == 3 and found:
            found[at % len(found)] ^= 1 << chance.randrange(8)
        elif kind == 4:
            found[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        else:
            found[at:at] = found[: chance.choice((1, 16, 300))]
    return bytes(found)


async def fuzzed(found: Cluster, count: int, seed: int, findings: Path) -> Counter[str]:
    """Send so many mutated requests; how often each code came. What was answered as our fault goes to ``findings``."""
    chance, codes = random.Random(seed), Counter[str]()
    targets = await attacks(found)
    places = asyncio.Semaphore(_AT_A_TIME)
    channels = {name: grpc.aio.insecure_channel(address) for name, address in found.ports.items()}

    async def send(attack: Attack, data: bytes, number: int) -> None:
        async with places:
            channel, method = channels[attack.process], f"/{attack.method}"
            code = grpc.StatusCode.OK
            try:
                callable_ = getattr(channel, attack.kind)(method)
                call = callable_(iter([data]) if attack.kind == "stream_unary" else data, timeout=_DEADLINE_SECONDS)
                if attack.kind == "unary_stream":
                    async for _ in call:
                        pass
                else:
                    await call
            except grpc.aio.AioRpcError as error:
                code = error.code()
                if code in _OURS:
                    _write(findings / f"{attack.method.replace('/', '-')}-{seed}-{number}.bin", data)
                    print(attack.method, code.name, error.details(), flush=True)
            codes[code.name] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            attack = chance.choice(targets)
            group.create_task(send(attack, mutated(attack.request, chance), number))
            if number % 50 == 0:
                await asyncio.sleep(0)
    for channel in channels.values():
        await channel.close()
    return codes


async def _run(count: int, seed: int, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), stylizers=1, queue_limit="64", jobs_url=f"sqlite:{folder}/jobs") as found:
            worker = found.worker_of("stylizer-0")
            codes = await fuzzed(found, count, seed, out / "findings")
            alive = found.worker_of("stylizer-0") == worker
    lines = [
        "# Mutated requests",
        "",
        f"Made by `python -m tests.benchmarks.fuzz --count {count} --seed {seed}`. {described()}.",
        "",
        "| code | answers |",
        "|---|---|",
        *(f"| {code} | {number} |" for code, number in codes.most_common()),
        "",
        f"The worker {'lived' if alive else 'was lost and replaced'}.",
    ]
    _write(out / "fuzz.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def main() -> None:
    """Attack a stack of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/fuzz"))
    options = parser.parse_args()
    asyncio.run(_run(options.count, options.seed, options.out))


if __name__ == "__main__":
    main()

"""Channels to one server that are opened at once and closed, again and again: a process that ends well or is killed.

``python -m tests.faults.opened_at_once service|client TARGET SECONDS``
"""

from __future__ import annotations

import asyncio
import sys
import time

import grpc.aio
from dpst_client.connection import Settings

from services.common.client import channel_options

CHANNELS = 4
PAUSE_SECONDS = 0.002
"""In which each of the channels finds its server and begins to watch its health."""


def opened(kind: str, target: str) -> grpc.aio.Channel:
    """A channel as our services or as callers have it."""
    if kind == "client":
        return Settings().channel(grpc.aio, target)
    return grpc.aio.insecure_channel(target, options=channel_options(1 << 20, "dpst.v1.PhotoStyle"))


async def main() -> None:
    """Print how often all were opened."""
    kind, target, seconds = sys.argv[1:]
    rounds, end = 0, time.monotonic() + float(seconds)
    while time.monotonic() < end:
        channels = [opened(kind, target) for _ in range(CHANNELS)]
        for channel in channels:
            channel.get_state(try_to_connect=True)
        await asyncio.sleep(PAUSE_SECONDS)
        for channel in channels:
            await channel.close()
        rounds += 1
    print(rounds)


if __name__ == "__main__":
    asyncio.run(main())

"""All three services on this machine, as children of this process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.child import Address, Child, StackError
from services.common.client import channel_options
from services.common.config import GatewaySettings, ProcessSettings, SegmentationSettings, StylizerSettings

__all__ = ["Stack", "StackError", "local_segmentation", "local_stack"]

# Loading VGG-19 from a slow disk and its first pass take about 20 s; on a busy two-core machine several times that.
_READY_LIMIT_SECONDS = 180.0
_POLL_SECONDS = 0.1
# After its drain a process only closes files and its worker.
_EXIT_SECONDS = 10.0
_FREE_PORTS = {"port": "0", "http_port": "0", "host": "127.0.0.1"}

_Start = Callable[[str, str, Mapping[str, str]], None]


@dataclass(frozen=True)
class Stack:
    """Running services by name ("segmentation", "stylizer", "gateway"), in starting order."""

    children: Mapping[str, Child]
    addresses: Mapping[str, Address]

    def check(self, wait_seconds: float = 0.0) -> None:
        """Raise ``StackError`` if a child has ended; wait up to ``wait_seconds`` for one to do so."""
        for index, child in enumerate(self.children.values()):
            child.check(wait_seconds if index == 0 else 0.0)


@contextmanager
def local_stack(
    log_folder: Path | None = None,
    gateway: Mapping[str, str] | None = None,
    every: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Start the three services, yield them once the gateway is able to work, and stop them after.

    ``gateway`` holds settings of the gateway alone ("port", ...), ``every`` settings of all three; without them every
    port is a free one. Logs go to ``log_folder``/<name>.log, or to this process's standard error. Raises
    ``StackError`` if a service does not start, ``pydantic.ValidationError`` for settings it could not start with.
    """
    for kind in (SegmentationSettings, StylizerSettings, GatewaySettings):
        kind()
    settings = {**(every or {}), **_FREE_PORTS}
    with _children(log_folder) as (start, children):
        start("segmentation", "services.segmentation", settings)
        start("stylizer", "services.stylizer", settings)
        addresses = {name: child.address() for name, child in children.items()}
        targets = {f"{name}_address": address.grpc for name, address in addresses.items()}
        start("gateway", "gateway", {**settings, **(gateway or {}), **targets})
        addresses["gateway"] = children["gateway"].address()
        stack = Stack(children, addresses)
        _wait_until_serving(stack, addresses["gateway"].grpc, "dpst.v1.PhotoStyle")
        yield stack


@contextmanager
def local_segmentation(log_folder: Path | None = None, every: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Start the segmentation service alone; otherwise as ``local_stack``."""
    SegmentationSettings()
    with _children(log_folder) as (start, children):
        start("segmentation", "services.segmentation", {**(every or {}), **_FREE_PORTS})
        stack = Stack(children, {"segmentation": children["segmentation"].address()})
        _wait_until_serving(stack, stack.addresses["segmentation"].grpc, "dpst.v1.Segmentation")
        yield stack


@contextmanager
def _children(log_folder: Path | None) -> Iterator[tuple[_Start, dict[str, Child]]]:
    children: dict[str, Child] = {}
    with tempfile.TemporaryDirectory(prefix="dpst-") as folder:

        def start(name: str, module: str, settings: Mapping[str, str]) -> None:
            log = log_folder / f"{name}.log" if log_folder else None
            children[name] = Child(name, module, Path(folder), settings, log)

        try:
            yield start, children
        finally:
            _stop(children)


def _stop(children: Mapping[str, Child]) -> None:
    """Stop the gateway first: what it still forwards needs the others."""
    limit_seconds = ProcessSettings().drain_seconds + _EXIT_SECONDS
    try:
        for name, child in reversed(list(children.items())):
            child.terminate()
            if name == "gateway":
                child.reap(limit_seconds)
        for child in children.values():
            child.reap(limit_seconds)
    except BaseException:  # a second Ctrl-C: no more patience
        for child in children.values():
            child.reap(0)
        raise


def _wait_until_serving(stack: Stack, target: str, service: str) -> None:
    limit = time.monotonic() + _READY_LIMIT_SECONDS
    request = health_pb2.HealthCheckRequest(service=service)
    with grpc.insecure_channel(target, options=channel_options(1 << 20)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                if stub.Check(request, timeout=5.0).status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass  # the check of the children tells whether it is worth asking again
            stack.check(wait_seconds=_POLL_SECONDS)
            if time.monotonic() > limit:
                raise StackError("gateway", f"the services were not ready within {_READY_LIMIT_SECONDS:.0f} s")

"""The frame of every gRPC process: ports, health, reflection, start, drain, exit status."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc.aio
import structlog
from aiohttp import web
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import ValidationError

from services.common.allocator import keep_freed_memory
from services.common.calls import HEALTH_SERVICE
from services.common.config import ProcessSettings, settings_problems, unknown_settings
from services.common.health import Health
from services.common.http import bound_http, http_app
from services.common.keys import KeyFileError
from services.common.logs import configure_logs
from services.common.metrics import Metrics
from services.common.models import ModelError
from services.common.server import PortTakenError, bind, host_port, make_server
from services.common.tls import TlsError, server_credentials
from services.common.tracing import TracingError, configure_tracing, stop_tracing

__all__ = ["Service", "StartError", "run_process"]

_log = structlog.stdlib.get_logger(__name__)

_Settings = TypeVar("_Settings", bound=ProcessSettings)


class StartError(Exception):
    """Why a process cannot start: its text goes to the log, and the exit status is 1."""


class Service(Protocol):
    """What a process serves; ``names`` are full gRPC service names such as "dpst.v1.Stylizer"."""

    names: tuple[str, ...]

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicers."""

    async def start(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        """Warm up in the background, with the ports bound; ``await serving(True)`` once able to work.

        ``serving`` may be called again later. An exception ends the process with status 1. What still runs after
        ``stop`` is cancelled.
        """

    async def stop(self) -> None:
        """Clean up, after the last call has ended."""


def run_process(name: str, kind: type[_Settings], make: Callable[[_Settings, Metrics], Service]) -> int:
    """Serve ``make(settings, metrics)`` until SIGTERM or SIGINT.

    ``kind`` is read from the environment. Returns the exit status: 0, 1 if the process could not start or broke, 2 for
    settings that it cannot have.
    """
    keep_freed_memory()
    try:
        settings = kind()
    except ValidationError as error:
        configure_logs(name, ProcessSettings.model_construct())
        _log.error("wrong settings", reason=settings_problems(error))
        return 2
    configure_logs(name, settings)
    if unknown := unknown_settings(os.environ):
        _log.error("wrong settings", reason=f"{', '.join(unknown)}: no such setting; `dpst config` lists them all")
        return 2
    try:
        configure_tracing(name, settings)
        asyncio.run(_serve(settings, Metrics(), lambda metrics: make(settings, metrics)))
    except (StartError, PortTakenError, ModelError, KeyFileError, TlsError, TracingError) as error:
        _log.error("cannot start", reason=str(error))
        return 1
    except Exception as error:
        _log.exception("process failed", reason=str(error))
        return 1
    finally:
        stop_tracing()
    return 0


async def _serve(settings: ProcessSettings, metrics: Metrics, make: Callable[[Metrics], Service]) -> None:
    service = make(metrics)  # inside the event loop, because channels belong to one
    stopping = _stop_requested(settings)
    state = Health(service.names)
    server = make_server(settings, metrics)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    service.register(server)
    if settings.reflection:
        names = (*service.names, HEALTH_SERVICE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    http: web.AppRunner | None = None
    starting: asyncio.Future[Any] | None = None
    grace: float | None = None  # nothing is running yet
    beside = grpc.aio.server()  # health in plain text, for orchestrators that have no certificate
    health_pb2_grpc.add_HealthServicer_to_server(state, beside)
    try:
        grpc_port = bind(server, settings.host, settings.port, server_credentials(settings))
        health_port = None if settings.health_port is None else bind(beside, settings.host, settings.health_port)
        http, http_port = await _http(metrics, state, settings)
        await server.start()
        await beside.start()
        _announce(settings, {"grpc": grpc_port, "http": http_port, "health": health_port})
        # What there is now stays: each look through it for garbage would stop the event loop.
        gc.collect()
        gc.freeze()
        starting = asyncio.ensure_future(service.start(state.serving))
        await _stop_or_failure(stopping, starting)
        _log.info("draining", seconds=settings.drain_seconds, delay_seconds=settings.drain_delay_seconds)
        grace = settings.drain_seconds
    finally:
        await state.drain()
        if grace is not None:
            await asyncio.sleep(settings.drain_delay_seconds)
        await server.stop(grace)
        await beside.stop(None)
        # Only now: what ``start`` looks after, such as a worker, is what the calls of the grace time worked with.
        await service.stop()
        if starting is not None:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        if http is not None:
            await http.cleanup()
    _log.info("stopped")


def _stop_requested(settings: ProcessSettings) -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if settings.exit_with_parent:
        descriptor = sys.stdin.fileno()

        def on_input() -> None:
            if not os.read(descriptor, 4096):
                loop.remove_reader(descriptor)
                stopping.set()

        loop.add_reader(descriptor, on_input)
    return stopping


async def _http(metrics: Metrics, state: Health, settings: ProcessSettings) -> tuple[web.AppRunner, int]:
    try:
        return await bound_http(http_app(metrics.registry, lambda: state.ready), settings.host, settings.http_port)
    except OSError as error:
        raise PortTakenError(settings.host, settings.http_port) from error


def _announce(settings: ProcessSettings, ports: Mapping[str, int | None]) -> None:
    addresses = {name: host_port(settings.host, port) for name, port in ports.items() if port is not None}
    _log.info("listening", **addresses)
    if settings.address_file is not None:
        # Whoever waits for the file must never read half of it.
        partial = Path(f"{settings.address_file}.partial")
        partial.write_text(json.dumps(addresses), encoding="utf-8")
        partial.replace(settings.address_file)


async def _stop_or_failure(stopping: asyncio.Event, starting: asyncio.Future[Any]) -> None:
    """Wait for ``stopping``; raise what ``starting`` raises before."""
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await waiting
    finally:
        waiting.cancel()

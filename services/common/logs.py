"""Structured logs on standard error, and one id per request across all processes.

The id travels in gRPC metadata as ``x-request-id``; inside a process it lives in structlog's context variables, so it
stands in every line that is logged while the request is handled.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from dpst.v1 import photo_style_pb2
from structlog.types import EventDict, Processor, WrappedLogger

from services.common.calls import HEALTH_SERVICE, ServerCall, final_code, send_first, split_method
from services.common.config import ProcessSettings

__all__ = ["REQUEST_ID_KEY", "bind_request_id", "configure_logs", "current_request_id", "is_request_id", "logged_call"]

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_log = structlog.stdlib.get_logger(__name__)


def configure_logs(process: str, settings: ProcessSettings) -> None:
    """Send every log line of this process, the libraries' too, to standard error in the format asked for."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
    ]
    rendered: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if settings.log_format == "json":
        rendered += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        rendered += [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendered))
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    logging.getLogger("pyvips").setLevel(logging.WARNING)  # at INFO it tells of every thread pool
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.UnicodeDecoder(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _named(process: str) -> Callable[[WrappedLogger, str, EventDict], EventDict]:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return add


def is_request_id(text: str) -> bool:
    """Whether ``text`` may serve as a request id: 1 to 128 of ``[A-Za-z0-9._-]``."""
    return _REQUEST_ID.fullmatch(text) is not None


def bind_request_id(wanted: str = "") -> str:
    """Bind ``wanted``, or a new id if it is empty or malformed, to the current context and return it."""
    request_id = wanted if is_request_id(wanted) else uuid.uuid4().hex
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id


def current_request_id() -> str:
    """Return the id bound to the current context, or an empty string."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


@asynccontextmanager
async def logged_call(call: ServerCall) -> AsyncIterator[None]:
    """Bind the call's request id, return it with the first response, and log one line when the call has ended."""
    request_id = bind_request_id(_wanted_id(call))
    send_first((REQUEST_ID_KEY, request_id))
    started = time.perf_counter()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        quiet = split_method(call.method)[0] == HEALTH_SERVICE
        _log.log(
            logging.DEBUG if quiet else logging.INFO,
            "rpc finished",
            method=call.method,
            code=final_code(call.context, error).name,
            seconds=round(time.perf_counter() - started, 4),
        )
        structlog.contextvars.unbind_contextvars("request_id")


def _wanted_id(call: ServerCall) -> str:
    request = call.request
    if isinstance(request, photo_style_pb2.TransferRequest | photo_style_pb2.TransferStreamRequest):
        named = request.transfer.request_id
        if is_request_id(named):
            return named
    for key, value in call.context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            return str(value)
    return ""

"""The server a command talks to: one that was named, or a stack of its own for as long as the command runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click
import grpc

from gateway.stack import Stack, StackError
from services.common.client import channel_options
from services.common.config import ProcessSettings

__all__ = ["connected", "reached", "server_flags"]

# Failures that only the log explains; any other code says itself what the caller did wrong.
_OURS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
_FLAGS = (
    click.option("--server", metavar="ADDR", help="Gateway to use. Without it, a stack is started for this call."),
    click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Deadline of the call in seconds."),
    click.option("--verbose", is_flag=True, help="Show the logs of the started services."),
)


def server_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags ``server``, ``timeout`` and ``verbose`` to a click command that calls the gateway."""
    for option in reversed(_FLAGS):
        command = option(command)
    return command


@contextmanager
def connected(
    server: str | None, own: Callable[[Path | None], AbstractContextManager[Stack]], verbose: bool
) -> Iterator[grpc.Channel]:
    """Yield a channel to what ``reached`` gives."""
    with reached(server, own, verbose) as target, _channel(target) as channel:
        yield channel


@contextmanager
def reached(
    server: str | None, own: Callable[[Path | None], AbstractContextManager[Stack]], verbose: bool
) -> Iterator[str]:
    """Yield the address of ``server``, or of the last service of the stack that ``own(log_folder)`` starts.

    The stack's logs go to a temporary folder, are shown if the command fails because of the stack, and are written to
    standard error instead if ``verbose``.
    """
    if server is not None:
        yield server
        return
    with tempfile.TemporaryDirectory(prefix="dpst-logs-") as folder:
        logs = None if verbose else Path(folder)
        try:
            with own(logs) as stack:
                try:
                    yield list(stack.addresses.values())[-1].grpc
                except grpc.RpcError:
                    stack.check()  # if a service died, that is the better explanation
                    raise
        except StackError as error:
            _show(logs, error.name)
            raise
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() in _OURS:
                _show(logs, "*")
            raise


def _channel(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target, options=channel_options(ProcessSettings().max_message_bytes))


def _show(logs: Path | None, names: str) -> None:
    for log in sorted(logs.glob(f"{names}.log")) if logs else ():
        text = log.read_text(encoding="utf-8", errors="replace").rstrip()
        if text:
            click.echo(f"--- {log.stem} ---\n{text}", err=True)

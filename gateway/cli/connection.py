"""The server a command talks to: one that was named, or a stack of its own for as long as the command runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click
import grpc

from gateway.stack import Stack, StackError
from services.common.client import channel_options
from services.common.config import ProcessSettings

__all__ = ["connected"]


@contextmanager
def connected(
    server: str | None, own: Callable[[Path | None], AbstractContextManager[Stack]], verbose: bool
) -> Iterator[grpc.Channel]:
    """Yield a channel to ``server``, or to the last service of the stack that ``own(log_folder)`` starts.

    The stack's logs go to a temporary folder, are shown if the command fails because of the stack, and are written to
    standard error instead if ``verbose``.
    """
    if server is not None:
        with _channel(server) as channel:
            yield channel
        return
    with tempfile.TemporaryDirectory(prefix="dpst-logs-") as folder:
        logs = None if verbose else Path(folder)
        try:
            with own(logs) as stack, _channel(list(stack.addresses.values())[-1].grpc) as channel:
                try:
                    yield channel
                except grpc.RpcError:
                    stack.check()  # if a service died, that is the better explanation
                    raise
        except (StackError, grpc.RpcError) as error:
            if logs is not None and _ours(error):
                _show(logs)
            raise


def _channel(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target, options=channel_options(ProcessSettings().max_message_bytes))


def _ours(error: Exception) -> bool:
    """Whether the log explains ``error``: a caller's mistake is explained by its own text."""
    if not isinstance(error, grpc.Call):
        return True
    return error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)


def _show(logs: Path) -> None:
    for log in sorted(logs.glob("*.log")):
        text = log.read_text(encoding="utf-8", errors="replace").rstrip()
        if text:
            click.echo(f"--- {log.stem} ---\n{text}", err=True)

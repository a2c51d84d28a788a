"""What a person sees when a command fails: one line, and an exit status that scripts can tell apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click
import grpc
from pydantic import ValidationError

from gateway.stack import StackError
from services.common.config import settings_problems
from services.common.models import ModelError

__all__ = ["explained_failures", "stop_on_sigterm"]

_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def stop_on_sigterm() -> None:
    """A supervisor's way to say Ctrl-C; elsewhere than in the main thread signals are not ours to set."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def explained_failures() -> Iterator[None]:
    """Turn expected failures into ``error: ...`` on standard error and an exit status: 1, or 130 for Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from None
    except grpc.RpcError as error:
        code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
        text = error.details() if isinstance(error, grpc.Call) else str(error)
        _fail(f"{code}: {text}", _FAILED)
    except ValidationError as error:
        _fail(settings_problems(error), _USAGE)
    except (StackError, ModelError, OSError) as error:
        _fail(str(error), _FAILED)


def _fail(text: str, status: int) -> None:
    click.echo(f"error: {text}", err=True)
    raise click.exceptions.Exit(status) from None

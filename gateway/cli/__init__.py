"""The ``dpst`` command."""

from __future__ import annotations

import os
import signal
import threading

# Before grpc is imported: its core reports every lost connection on standard error, where our own line stands.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import click

from gateway.cli.batch import batch
from gateway.cli.config import config
from gateway.cli.export_look import export_look
from gateway.cli.keys import keys
from gateway.cli.models import models
from gateway.cli.render import render
from gateway.cli.segment import segment
from gateway.cli.stylize import stylize
from gateway.cli.up import up

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dpst", message="dpst %(version)s")
def main() -> None:
    """Put one photo's light and weather on another; the result is still a photograph."""
    if threading.current_thread() is threading.main_thread():  # elsewhere signals are not ours to set
        # A shell ignores SIGINT for what it starts in the background, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)


main.add_command(up)
main.add_command(stylize)
main.add_command(batch)
main.add_command(render)
main.add_command(export_look)
main.add_command(segment)
main.add_command(models)
main.add_command(keys)
main.add_command(config)

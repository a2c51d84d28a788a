"""``dpst up``: all services on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from gateway.cli.failures import explained_failures, stop_on_sigterm
from gateway.stack import local_stack
from services.common.models.location import default_models_dir

__all__ = ["up"]

_CHECK_SECONDS = 0.5
_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the gateway listens on.")
@click.option("--port", type=_PORT, default=50051, show_default=True, help="gRPC port of the gateway; 0 = a free one.")
@click.option("--http-port", type=_PORT, default=8080, show_default=True, help="Port of /metrics, /healthz, /readyz.")
@click.option("--models-dir", type=click.Path(exists=True, file_okay=False), help="Folder of networks.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where networks run.")
@click.option(
    "--jobs-dir",
    type=click.Path(file_okay=False),
    help="Folder of submitted transfers, unless DPST_JOBS_URL is set. Default: ~/.local/share/dpst/jobs.",
)
@click.option("--log-format", type=click.Choice(["console", "json"]), help="Default: console on a terminal, else json.")
def up(
    host: str,
    port: int,
    http_port: int,
    models_dir: str | None,
    device: str | None,
    jobs_dir: str | None,
    log_format: str | None,
) -> None:
    """Start segmentation, stylizer and gateway on this machine, and stop them on Ctrl-C."""
    every = {"log_format": log_format or ("console" if sys.stderr.isatty() else "json"), "reflection": "true"}
    if models_dir is not None:
        every["models_dir"] = str(Path(models_dir).absolute())
    if device is not None:
        every["device"] = device
    gateway = {"host": host, "port": str(port), "http_port": str(http_port)}
    if jobs_dir is not None or "DPST_JOBS_URL" not in os.environ:
        folder = Path(jobs_dir) if jobs_dir else default_models_dir().with_name("jobs")
        gateway["jobs_url"] = f"sqlite:{folder.absolute()}"
    stop_on_sigterm()
    with explained_failures():
        started = False
        try:
            with local_stack(gateway=gateway, every=every) as stack:
                started = True
                for name, address in stack.addresses.items():
                    click.echo(f"{name:12s} grpc {address.grpc}  http {address.http}")
                click.echo("ready; Ctrl-C stops")
                while True:
                    stack.check(_CHECK_SECONDS)
        except KeyboardInterrupt:
            if not started:
                raise
    click.echo("stopped")

"""The worker process: owns the device and the warm weights, runs one job at a time.

It is spawned, never forked (CUDA does not survive a fork), and talks over one pipe. Nothing of gRPC runs here, so
health checks answer in milliseconds while it computes.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import structlog
import torch

from services.common.config import StylizerSettings
from services.common.errors import ServiceError
from services.common.images import ImageLimits
from services.common.logs import bind_request_id, configure_logs
from services.common.models import ModelError, embedded_models_dir, find_model, user_models_dir
from services.stylizer.core.affine_render import render
from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.params import CHOICES, TransferParams
from services.stylizer.core.transfer import Regions, Transfer
from services.stylizer.features import FeatureNetwork, load_features, pick_device
from services.stylizer.jobs import Ended, Failed, Job, Ready, WorkerEvent
from services.stylizer.pipeline import Pipeline, service_error

__all__ = ["worker_main"]

_log = structlog.stdlib.get_logger(__name__)


def worker_main(settings: StylizerSettings, pipe: Connection, cancelled: ctypes.c_longlong) -> None:
    """Run jobs until None comes instead of one, or the pipe closes.

    Args:
        settings: of the stylizer process.
        pipe: receives ``(number, job)``, sends ``(number, event)``; number 0 is the start.
        cancelled: number of the job that is to stop.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which drains
    configure_logs("stylizer.worker", settings)
    try:
        network = _warm_network(settings)
    except ModelError as error:
        pipe.send((0, Failed(error)))
        return
    pipe.send((0, Ready(network.info)))
    while True:
        try:
            number, job = pipe.recv()
        except EOFError:
            return
        if job is None:
            return
        _run(network, settings, pipe, number, job, _should_stop(cancelled, number))


def _run(
    network: FeatureNetwork,
    settings: StylizerSettings,
    pipe: Connection,
    number: int,
    job: Job,
    should_stop: Callable[[], bool],
) -> None:
    bind_request_id(job.request_id)
    began = time.monotonic()

    def emit(event: WorkerEvent) -> None:
        pipe.send((number, event))

    outcome = "done"
    try:
        Pipeline(network, ImageLimits.of(settings), emit, should_stop).run(job)
    except SolveCancelled:
        outcome = "cancelled"
    except Exception as error:
        outcome = "failed"
        public = service_error(error)
        if not isinstance(public, ServiceError):
            _log.exception("job failed")
            public = RuntimeError(f"{type(error).__name__}: {error}")  # the original may not pickle
        emit(Failed(public))
    emit(Ended())
    _log.info("job ended", job=type(job).__name__, outcome=outcome, seconds=round(time.monotonic() - began, 3))


def _should_stop(cancelled: ctypes.c_longlong, number: int) -> Callable[[], bool]:
    parent = multiprocessing.parent_process()

    def should_stop() -> bool:
        return cancelled.value == number or (parent is not None and not parent.is_alive())

    return should_stop


def _warm_network(settings: StylizerSettings) -> FeatureNetwork:
    """Load the weights and run once through everything, so that the first request compiles nothing."""
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    torch.set_flush_denormal(True)
    device = pick_device(settings.device)
    models_dir = settings.models_dir or user_models_dir()
    model = find_model(models_dir, "features", settings.features_model, embedded_models_dir("features"))
    network = load_features(model, device)
    generator = torch.Generator().manual_seed(0)
    I, S = (torch.rand(3, 96, 96, generator=generator).to(device) for _ in range(2))
    regions = Regions(torch.zeros(96, 96, dtype=torch.uint8, device=device), ("all",))
    for mode in CHOICES["mode"]:
        params = TransferParams(mode=mode, max_evaluations=2)  # field: one on the grid, one on pixels
        transfer = Transfer(network.trunk, params, I, S, regions, regions, {})
        result = transfer.run(lambda _: None, lambda _: None, lambda: False)
    for source, bit_depth in itertools.product((np.uint8, np.uint16), (8, 16)):
        pixels = np.zeros((8, 8, 3), source)
        render(result.outcome.coefficients, pixels, 1.0, "none", bit_depth, lambda: False)
    info = network.info
    log = _log.warning if info.built_in else _log.info
    log("feature network is warm", model=info.name, device=info.device, description=info.description)
    return network

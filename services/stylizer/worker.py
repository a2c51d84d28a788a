"""The worker process: owns one device and the warm weights, runs as many jobs at a time as it has slots.

It is spawned, never forked (CUDA does not survive a fork), and talks over one pipe. Nothing of gRPC runs here, so
health checks answer in milliseconds while it computes. Its main thread only listens and beats: a heart that stands
still tells the parent that the whole process does, and a job that has not asked for long whether it should stop, that
this job does.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import structlog
import torch

from services.common.config import StylizerSettings
from services.common.errors import ServiceError
from services.common.images import ImageLimits
from services.common.logs import bind_request_id, configure_logs
from services.common.models import ModelError
from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.evaluator import Evaluator
from services.stylizer.features import FeatureNetwork
from services.stylizer.jobs import Ended, Failed, Job, Ready, WorkerEvent
from services.stylizer.pipeline import Pipeline, service_error
from services.stylizer.vitals import Vitals
from services.stylizer.warm_up import warm_network

__all__ = ["worker_main"]

_log = structlog.stdlib.get_logger(__name__)


_BEAT_SECONDS = 0.25


class _Running:
    """A job that is being computed."""

    def __init__(self) -> None:
        self.moved = time.monotonic()
        self.cancelled = False

    def should_stop(self) -> bool:
        self.moved = time.monotonic()
        return self.cancelled


class _Worker:
    def __init__(self, network: FeatureNetwork, settings: StylizerSettings, pipe: Connection) -> None:
        self._network, self._settings, self._pipe = network, settings, pipe
        self._evaluator = Evaluator(network.trunk, _most_in_batch(settings, network.device))
        self._running: dict[int, _Running] = {}
        self._sending = threading.Lock()

    @property
    def moved(self) -> float:
        return min((running.moved for running in list(self._running.values())), default=time.monotonic())

    def begin(self, number: int) -> None:
        self._running[number] = _Running()

    def cancel(self, number: int | None = None) -> None:
        """Stop one job within an evaluation, or all."""
        for each, running in list(self._running.items()):
            if number in (each, None):
                running.cancelled = True

    def emit(self, number: int, event: WorkerEvent) -> None:
        with self._sending:
            self._pipe.send((number, event))

    def run(self, number: int, job: Job) -> None:
        bind_request_id(job.request_id)
        running = self._running[number]
        began = time.monotonic()

        def emit(event: WorkerEvent) -> None:
            running.moved = time.monotonic()
            self.emit(number, event)

        outcome = "done"
        try:
            limits = ImageLimits.of(self._settings)
            Pipeline(self._network, limits, emit, running.should_stop, self._evaluator).run(job)
        except SolveCancelled:
            outcome = "cancelled"
        except Exception as error:
            outcome = "failed"
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()  # in pieces that fit nobody
            public = service_error(error)
            if not isinstance(public, ServiceError):
                _log.exception("job failed")
                public = RuntimeError(f"{type(error).__name__}: {error}")  # the original may not pickle
            emit(Failed(public))
        seconds = round(time.monotonic() - began, 3)
        _log.info("job ended", job=type(job).__name__, outcome=outcome, seconds=seconds)
        del self._running[number]
        self.emit(number, Ended())


def card_bytes() -> tuple[int, int]:
    """Bytes of this process's tensors on cards, and bytes that PyTorch holds of them; zeros where none is in use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 0, 0
    cards = range(
        torch.cuda.device_count()
    )  # the n-th worker has the n-th, which is not its current one in each thread
    return sum(map(torch.cuda.memory_allocated, cards)), sum(map(torch.cuda.memory_reserved, cards))


def _most_in_batch(settings: StylizerSettings, device: torch.device) -> int:
    """Pictures that go through the network at once; the cores of a CPU are as busy with one."""
    return settings.evaluation_batch or (settings.slots if device.type == "cuda" else 1)


def worker_main(settings: StylizerSettings, index: int, pipe: Connection, vitals: Vitals) -> None:
    """Run jobs until the pipe closes or says so.

    Args:
        settings: of the stylizer process.
        index: of this worker, from 0; with CUDA that of its device.
        pipe: receives ``(number, job)``, ``(number, None)`` to cancel that job and ``None`` to end; sends ``(number,
            event)``, where number 0 is the start.
        vitals: in shared memory.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a whole process group is told, but the parent is who drains
        signal.signal(number, signal.SIG_IGN)
    configure_logs("stylizer.worker", settings)
    threads = ThreadPoolExecutor(settings.slots, "slot", initializer=_prepare_thread, initargs=(settings,))
    try:
        network = threads.submit(warm_network, settings, index).result()
    except ModelError as error:
        pipe.send((0, Failed(error)))
        return
    worker = _Worker(network, settings, pipe)
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
        vitals.card_room = torch.cuda.mem_get_info(network.device)[0]
    vitals.beat = vitals.moved = time.monotonic()
    worker.emit(0, Ready(network.info))
    while True:
        vitals.beat, vitals.moved = time.monotonic(), worker.moved
        vitals.card_allocated, vitals.card_reserved = card_bytes()
        if not pipe.poll(_BEAT_SECONDS):
            continue
        try:
            message = pipe.recv()
        except EOFError:  # the parent is gone
            message = None
        if message is None:
            break
        number, job = message
        if job is None:
            worker.cancel(number)
        else:
            worker.begin(number)
            threads.submit(worker.run, number, job)
    worker.cancel()
    threads.shutdown(wait=True, cancel_futures=True)


def _prepare_thread(settings: StylizerSettings) -> None:
    """Each thread has its own processor flags and its own team of helpers."""
    cores = settings.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // (settings.slots * settings.workers)))
    torch.set_flush_denormal(True)

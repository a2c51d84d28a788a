"""One job from files to a file: what the worker does between two pipe messages."""

from __future__ import annotations

import hashlib
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from services.common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, ServiceError, Shortage
from services.common.images import ImageLimits, Photo, encode_photo, encode_preview, open_photo, output_bit_depth
from services.common.label_maps import LabelMap, check_matches_photo, single_region
from services.common.taxonomy import RELATED
from services.stylizer.core.affine_render import render
from services.stylizer.core.checkpoint import Checkpoint, Journal
from services.stylizer.core.errors import CheckpointError, LabelsUnmatched, LookError, ParameterError
from services.stylizer.core.evaluator import Evaluator
from services.stylizer.core.look import Look
from services.stylizer.core.look_field import LookField
from services.stylizer.core.params import RANGES, TransferParams
from services.stylizer.core.solve import Progress
from services.stylizer.core.transfer import Regions, Transfer
from services.stylizer.export import ColourPairs, lookup_tables
from services.stylizer.features import FeatureNetwork
from services.stylizer.jobs import (
    Checkpointed,
    Exported,
    ExportJob,
    Finished,
    Iterated,
    Job,
    NetworkInfo,
    Picture,
    Rendered,
    RenderJob,
    StageBegan,
    StylizeJob,
    WorkerEvent,
)
from services.stylizer.shapes import MOST_STRETCH, solve_size

__all__ = ["Pipeline", "service_error"]

_MAX_ASPECT = 32
"""Long over short edge: beyond it the proxy would exceed 1024 px."""

_ASPECT_TOLERANCE = 0.02 + MOST_STRETCH
"""A look fits another frame whose aspect ratio differs by less; the masks are stretched by that much."""

_RETRY_SECONDS = 5.0
"""Advice to a caller for whose job there was no memory: those beside it will have ended."""

_LEAST_BUDGET_SECONDS = 1e-3
"""One evaluation is made whatever the budget; 0 would be none."""

_CHECKPOINT_SECONDS = 0.5
"""Work that is lost at most with a worker, and one evaluation; one checkpoint costs about 10 ms and has 1 to 3 MB."""


class Pipeline:
    """Runs jobs on a warm network.

    Args:
        network: the feature network.
        limits: of the photos.
        emit: takes every event, in order.
        should_stop: polled at every evaluation and strip.
        evaluator: of the network, shared with the jobs beside this one; None is one of its own.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        limits: ImageLimits,
        emit: Callable[[WorkerEvent], None],
        should_stop: Callable[[], bool],
        evaluator: Evaluator | None = None,
    ) -> None:
        self._network, self._limits, self._emit, self._should_stop = network, limits, emit, should_stop
        self._evaluator = evaluator or Evaluator(network.trunk)
        self._seconds: dict[str, float] = {}

    def run(self, job: Job) -> None:
        """Run a job to its last event.

        Raises:
            ServiceError: the job cannot be done as asked.
            SolveCancelled: ``should_stop`` said so.
        """
        self._seconds = {}
        if isinstance(job, StylizeJob):
            self._stylize(job)
        elif isinstance(job, ExportJob):
            self._export(job)
        else:
            self._render(job)

    def _stylize(self, job: StylizeJob) -> None:
        params, device = job.params, self._network.device
        with self._stage("decode"):
            content = open_photo(job.content, "content", self._limits)
            style = open_photo(job.style, "style", self._limits)
            I = content.reduced(*_solve_size(content, params, "content"), content.working_profile)
            S = style.reduced(*_solve_size(style, params, "style"), content.working_profile)
            content_regions = self._regions(job.content_labels, content, I, "content_labels")
            style_regions = self._regions(job.style_labels, style, S, "style_labels")
        unknown = sorted(set(params.label_strengths) - set(content_regions.names))
        if unknown:
            have = ", ".join(sorted(content_regions.names))
            raise InvalidArgument(f"params.label_strengths[{unknown[0]}]", "no such label", f"the photo has: {have}")
        journal = self._journal(job)
        transfer = Transfer(
            trunk=self._network.trunk,
            params=_in_time(job, journal),
            I=_tensor(I, device),
            S=_tensor(S, device),
            content=content_regions,
            style=style_regions,
            related=RELATED,
            evaluator=self._evaluator,
        )
        result = transfer.run(
            lambda stage: self._emit(StageBegan(stage)),
            lambda progress: self._progress(job, progress),
            self._should_stop,
            journal,
        )
        self._seconds.update(result.stage_seconds)
        outcome = result.outcome
        picture = self._picture(content, outcome.coefficients, params.strength, params.preserve, job)
        self._emit(picture)
        self._emit(
            Finished(
                params=params,
                network=self._network.info,
                matches=result.matches,
                first=outcome.first,
                final=outcome.final,
                evaluations=outcome.evaluations,
                stopped_by=outcome.stopped_by,
                quality=result.quality,
                look=outcome.look.to_bytes(),
                stage_seconds=dict(self._seconds),
                peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                content=content.info,
                notes=_notes(job, self._network.info),
            )
        )

    def _render(self, job: RenderJob) -> None:
        with self._stage("decode"):
            content, look, proxy = self._look_and_proxy(job)
        with self._stage("render"), torch.no_grad():
            coefficients = LookField(look, proxy).coefficients()
        picture = self._picture(content, coefficients, job.strength, job.preserve, job)
        self._emit(picture)
        self._emit(Rendered(dict(self._seconds)))

    def _export(self, job: ExportJob) -> None:
        with self._stage("decode"):
            content, look, proxy = self._look_and_proxy(job)
        with self._stage("export"), torch.no_grad():
            I, O = (_colours(picture) for picture in (proxy, _restyled(look, proxy)))
            pairs = ColourPairs(I, O, look.indices.flatten().cpu().numpy(), look.names, content.working_profile)
            luts, absent = lookup_tables(pairs, job, self._should_stop)
        self._emit(Exported(luts, absent, dict(self._seconds)))

    def _look_and_proxy(self, job: RenderJob | ExportJob) -> tuple[Photo, Look, Tensor]:
        """The photo, the look, and the photo at the look's own size."""
        content = open_photo(job.content, "content", self._limits)
        look = Look.from_bytes(job.look).to(self._network.device)
        height, width = look.indices.shape
        photo_aspect, look_aspect = content.info.width_px / content.info.height_px, width / height
        if abs(photo_aspect / look_aspect - 1) > _ASPECT_TOLERANCE + 1 / min(height, width):
            raise InvalidArgument(
                "content",
                f"{content.info.width_px}x{content.info.height_px}",
                f"the look was solved for an aspect ratio of {look_aspect:.3f}",
            )
        proxy = _tensor(content.reduced(width, height, content.working_profile), self._network.device)
        if proxy.shape[1:] != look.indices.shape:
            proxy = functional.interpolate(proxy[None], size=(height, width), mode="bilinear", antialias=True)[0]
        return content, look, proxy

    def _picture(
        self, content: Photo, coefficients: Tensor, strength: float, preserve: str, job: StylizeJob | RenderJob
    ) -> Picture:
        with self._stage("decode", announced=False):
            pixels = content.pixels()
        with self._stage("render"):
            depth = output_bit_depth(content, job.output)
            rendered = render(coefficients, pixels, strength, preserve, depth, self._should_stop)
            del pixels
        with self._stage("encode"):
            return Picture(*encode_photo(rendered, content, job.output))

    def _journal(self, job: StylizeJob) -> Journal:
        key = _key(job, self._network.info)
        resume = Checkpoint.from_bytes(job.checkpoint, key, self._network.device) if job.checkpoint else None

        def keep(checkpoint: Checkpoint) -> None:
            self._emit(Checkpointed(checkpoint.to_bytes(), checkpoint.evaluations))

        return Journal(key, resume, keep, _CHECKPOINT_SECONDS)

    def _progress(self, job: StylizeJob, progress: Progress) -> None:
        every = job.params.preview_every
        preview = b""
        if every and (progress.evaluation == 1 or progress.evaluation % every == 0):
            with torch.no_grad():
                preview = encode_preview(progress.picture().permute(1, 2, 0).cpu().numpy())
        self._emit(
            Iterated(
                progress.evaluation,
                job.params.max_evaluations,
                progress.losses,
                progress.elapsed_seconds,
                progress.remaining_seconds,
                preview,
                self._evaluator.together,
            )
        )

    def _regions(self, labels: LabelMap | None, photo: Photo, proxy: NDArray[np.float32], field: str) -> Regions:
        height, width = proxy.shape[:2]
        if labels is None:
            labels = single_region(width, height)
        else:
            check_matches_photo(labels, photo.info, field)
            labels = labels.resized(width, height)
        names = tuple(dict.fromkeys(labels.names[index] for index in sorted(labels.names)))
        dense = np.zeros(256, np.uint8)
        for index, name in labels.names.items():
            dense[index] = names.index(name)
        return Regions(torch.from_numpy(dense[labels.indices]).to(self._network.device), names)

    @contextmanager
    def _stage(self, name: str, announced: bool = True) -> Iterator[None]:
        if announced:
            self._emit(StageBegan(name))
        began = time.monotonic()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began


def _key(job: StylizeJob, network: NetworkInfo) -> str:
    """Of everything that the points of a solve depend on."""
    values = vars(job.params) | {
        "label_strengths": sorted(job.params.label_strengths.items()),
        "time_budget_seconds": None,
        "preview_every": None,
    }
    digest = hashlib.sha256(repr((sorted(values.items()), network.name, network.version)).encode())
    for file in (job.content, job.style):
        digest.update(hashlib.sha256(file).digest())
    for labels in (job.content_labels, job.style_labels):
        if labels is not None:
            digest.update(repr((labels.indices.shape, sorted(labels.names.items()))).encode())
            digest.update(labels.indices.tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def service_error(error: Exception) -> Exception:
    """The public error that stands for one of the numerics; others come back as they are."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ResourceExhausted(f"the job needs more memory than there is: {error}", _RETRY_SECONDS, Shortage.MEMORY)
    if isinstance(error, LabelsUnmatched):
        return FailedPrecondition(error.field, error.value, error.limit)
    if isinstance(error, LookError | CheckpointError):
        kind = InvalidArgument if ".data" in error.field else FailedPrecondition
        return kind(error.field, error.value, error.limit)
    if isinstance(error, ParameterError):
        return InvalidArgument(f"params.{error.field}", error.value, error.limit)
    return error


def _solve_size(photo: Photo, params: TransferParams, field: str) -> tuple[int, int]:
    """Width and height of the proxy; ``mode = paper`` has the published method's, whose aspect ratio is the photo's."""
    width, height = photo.info.width_px, photo.info.height_px
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise InvalidArgument(field, f"{width}x{height}", f"the aspect ratio must be at most {_MAX_ASPECT}:1")
    return solve_size(width, height, params.solve_edge_px, of_few=params.mode == "field")


def _in_time(job: StylizeJob, journal: Journal) -> TransferParams:
    """The job's parameters with the time budget that is left; it counts from the first start of the solve."""
    if not job.solve_until:
        return job.params
    before = journal.resume.elapsed_seconds if journal.resume else 0.0
    left = max(job.solve_until - time.monotonic(), 0.0) + before
    budget = min(job.params.time_budget_seconds or math.inf, left, RANGES["time_budget_seconds"][1])
    return replace(job.params, time_budget_seconds=max(budget, _LEAST_BUDGET_SECONDS))


def _restyled(look: Look, proxy: Tensor) -> Tensor:
    """The look at full strength on a photo of the look's own size: (3, h, w) RGB 0..1, to the same."""
    return LookField(look, proxy).restyled()


def _colours(picture: Tensor) -> NDArray[np.float32]:
    """The pixels of (3, h, w) in rows: (h·w, 3)."""
    return np.ascontiguousarray(picture.flatten(1).T.cpu().numpy())


def _tensor(pixels: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(device)


def _notes(job: StylizeJob, network: NetworkInfo) -> tuple[str, ...]:
    notes = []
    if network.built_in:
        notes.append("The feature network is the package's own; VGG-19 itself gives better pictures.")
    for labels, photo in ((job.content_labels, "content"), (job.style_labels, "style")):
        if labels is None or len(labels.names) == 1:
            notes.append(f"The {photo} photo is one region.")
    return tuple(notes)

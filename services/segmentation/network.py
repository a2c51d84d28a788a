"""A segmentation network in ONNX Runtime, held to what its manifest says."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import structlog
from numpy.typing import NDArray

from services.common.errors import FailedPrecondition, ResourceExhausted, ServiceError, Shortage
from services.common.models import Model
from services.segmentation.convention import Convention
from services.segmentation.lanes import Lanes
from services.segmentation.sessions import CPU, Device, Placement, device_name, open_session

__all__ = ["Inferred", "Network"]

_log = structlog.stdlib.get_logger(__name__)

# Photos of a batch must come out as they do alone; half-precision multiplication on a GPU costs a thousandth.
_BATCH_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Inferred:
    """``logits`` are (classes, h, w), finite, before the softmax; ``seconds`` is the time that they took."""

    logits: NDArray[np.float32]
    seconds: float


class Network:
    """A loaded network. Raises ModelError if files, manifest and device do not fit together; safe to use from threads.

    ``labels`` are its classes; ``input_edge_px`` is the long edge at which photos enter it; ``provider`` is the
    execution provider that ONNX Runtime really uses, ``device`` its short name, "cpu" or "cuda:0"; ``identity``
    changes whenever the model's files or its manifest do.

    A batch is one tensor on a GPU, and divided over the cores on a CPU (``lanes``).

    Args:
        model: the model's folder.
        device: where it runs; "cuda" refuses to fall back.
        threads: of one computation, 0 = every core.
        tensorrt: whether TensorRT is used where there is a GPU and ONNX Runtime lists it.
        max_batch_size: most photos that ``run`` gets at once.
        stacked: whether a batch becomes one tensor; None = except on a CPU.
    """

    def __init__(
        self,
        model: Model,
        device: Device,
        threads: int,
        *,
        tensorrt: bool = False,
        max_batch_size: int = 1,
        stacked: bool | None = None,
    ) -> None:
        self.model = model
        self.identity = _identity(model)
        self._convention = Convention(model)
        self.labels = self._convention.labels
        self.input_edge_px = self._convention.input_edge_px
        self.align_corners = self._convention.align_corners
        path, placement = model.file("model.onnx"), Placement(device, threads, tensorrt)
        self._session = open_session(path, placement, placement.cores)
        self.provider: str = self._session.get_providers()[0]
        self.device = device_name(self.provider)
        self._stacked = stacked if stacked is not None else self.provider != CPU
        if not self._convention.check(self._session.get_inputs(), self._session.get_outputs()):
            self._stacked = False
        lanes = 0 if self._stacked or self.provider != CPU else min(placement.cores, max_batch_size)
        narrow = [open_session(path, placement, placement.cores // lanes) for _ in range(lanes if lanes > 1 else 0)]
        self._lanes = Lanes(narrow, self._session)

    @property
    def photos_at_a_time(self) -> int:
        """How many photos of a batch run side by side, each on a share of the cores; 1 where a batch is one tensor."""
        return self._lanes.count

    def is_of(self, model: Model) -> bool:
        """Whether this is the network of that folder, unchanged."""
        return self.identity == _identity(model)

    def input_size(self, width: int, height: int, scale: float = 1.0) -> tuple[int, int]:
        """Size (width, height) at which a photo enters the network, at ``scale`` times its usual size."""
        return self._convention.input_size(width, height, scale)

    def prepared(self, photo: NDArray[np.float32], scale: float = 1.0) -> NDArray[np.float32]:
        """Bring an sRGB photo, (H, W, 3), 0..1, of any size into the form that ``run`` takes: (3, h, w)."""
        return self._convention.prepared(photo, scale)

    def logits(self, photo: NDArray[np.float32], scale: float = 1.0) -> NDArray[np.float32]:
        """Run on an sRGB photo, (H, W, 3), 0..1, of any size; returns (classes, h, w) before the softmax.

        Raises FailedPrecondition if the network fails on it, ResourceExhausted for want of memory.
        """
        result = self._attempt(self._session, self.prepared(photo, scale))
        if isinstance(result, Exception):
            raise result
        return result.logits

    def run(self, photos: Sequence[NDArray[np.float32]], done: Callable[[int, Inferred | Exception], None]) -> None:
        """Run on prepared photos of the same shape and return when all are through.

        ``done(position, result)`` is called for each as soon as it is through, from any thread. A photo on which the
        network fails gives FailedPrecondition, or ResourceExhausted for want of memory, and leaves the others alone.
        """
        stack = self._stack(photos) if self._stacked and len(photos) > 1 else None
        if stack is None:
            self._lanes.run(len(photos), lambda session, at: done(at, self._attempt(session, photos[at])))
            return
        for position, photo in enumerate(photos):
            reason = self._convention.misfit(photo, stack[position].logits)
            done(position, stack[position] if reason is None else self._refused(reason))

    def dry_pass(self) -> None:
        """Run on grey photos, so that the first request finds everything allocated and misfits are seen here.

        Raises ModelError if the result is not of the size, the number of labels or the finite values that are due. A
        network that cannot take two photos in one tensor gets them one by one from then on.
        """
        edge = self.input_edge_px
        square, wide = (np.full((height, edge, 3), 0.5, np.float32) for height in (edge, max(1, edge * 3 // 4)))
        wide[:, : edge // 2] = 0.2
        for photo in (self.prepared(square), self.prepared(wide)):
            for session in self._lanes.sessions:
                result = self._attempt(session, photo)
                if isinstance(result, Exception):
                    raise self._convention.error(str(result.__cause__ or result)) from result
        if self._stacked and not self._mixes_nothing_up(photo):
            self._stacked = False
            _log.warning("no batches: the network does not treat two photos as it treats one", model=self.model.name)

    def _attempt(self, session: onnxruntime.InferenceSession, photo: NDArray[np.float32]) -> Inferred | Exception:
        started = time.perf_counter()
        try:
            (result,) = session.run([self._convention.output_name], {self._convention.input_name: photo[None]})
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            return self._failure(photo, error)
        if result.ndim != 4 or len(result) != 1:
            return self._refused(f"{self._convention.output_name} has shape {result.shape}")
        logits = np.asarray(result[0], np.float32)
        reason = self._convention.misfit(photo, logits)
        return Inferred(logits, time.perf_counter() - started) if reason is None else self._refused(reason)

    def _stack(self, photos: Sequence[NDArray[np.float32]]) -> list[Inferred] | None:
        """Run on all photos as one tensor; None if that fails, because each photo must get its own answer then."""
        started = time.perf_counter()
        try:
            (result,) = self._session.run(
                [self._convention.output_name], {self._convention.input_name: np.stack(photos)}
            )
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            _log.warning("batch failed, its photos run alone", size=len(photos), reason=str(error))
            return None
        if result.ndim != 4 or len(result) != len(photos):
            return None
        share = (time.perf_counter() - started) / len(photos)
        return [Inferred(np.asarray(logits, np.float32), share) for logits in result]

    def _mixes_nothing_up(self, photo: NDArray[np.float32]) -> bool:
        photos = [photo, np.ascontiguousarray(photo[:, :, ::-1])]
        stack, alone = self._stack(photos), [self._attempt(self._session, each) for each in photos]
        if stack is None:
            return False
        for one, other in zip(stack, alone, strict=True):
            if not isinstance(other, Inferred) or one.logits.shape != other.logits.shape:
                return False
            if np.abs(one.logits - other.logits).max() > _BATCH_TOLERANCE * np.abs(other.logits).max():
                return False
        return True

    def _failure(self, photo: NDArray[np.float32], error: Exception) -> ServiceError:
        size = f"{photo.shape[2]}x{photo.shape[1]}"
        _log.warning("network failed", model=self.model.name, size=size, reason=str(error))
        if "alloc" in str(error):
            return ResourceExhausted(f"a photo of {size} needs more memory than there is", 2.0, Shortage.MEMORY)
        refused = self._refused(f"it fails at {size}")
        refused.__cause__ = error
        return refused

    def _refused(self, reason: str) -> FailedPrecondition:
        name = f"{self.model.name}/{self.model.version}"
        return FailedPrecondition("model", name, f"which cannot be used on this photo: {reason}; choose another model")


def _identity(model: Model) -> str:
    """Digest of the manifest, which holds the files' digests."""
    return hashlib.sha256(json.dumps(model.manifest, sort_keys=True).encode()).hexdigest()

"""Where a solve stands, as bytes: what another process needs to go on with it.

A safetensors file with the state's tensors and a JSON text as ``meta``. Of the curvature that L-BFGS has found it holds
the last pairs, reduced: all of them at full size are many times larger than the point, and give no more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from services.stylizer.core.curvature import Pair
from services.stylizer.core.errors import CheckpointError
from services.stylizer.core.field import GRID_SHAPE
from services.stylizer.core.params import RANGES
from services.stylizer.core.results import CHECKPOINT_VERSION, Losses

__all__ = ["MAX_CHECKPOINT_BYTES", "PAIRS", "PAIRS_EDGE_PX", "Checkpoint", "Journal"]

_MAX_EDGE: Final = int(RANGES["solve_edge_px"][1])
_MAX_EVALUATIONS: Final = int(RANGES["max_evaluations"][1])

PAIRS: Final = 6
PAIRS_EDGE_PX: Final = 96
"""Pairs of curvature in a checkpoint, and their long edge: 0.5 MB."""

MAX_CHECKPOINT_BYTES: Final = 2 * 3 * _MAX_EDGE**2 + 2 * PAIRS * 2 * 3 * PAIRS_EDGE_PX**2 + 1_000_000
"""Largest serialised checkpoint that is read: a change at the largest size, pairs, and everything else."""

_NO_GRID: Final = (0,)
_SCALES: Final = (1e-30, 1e6)
"""Largest magnitude of a step, or of a change of the gradient, that is stored as it is."""

_NO_PAIRS: Final = np.zeros((0, 2), np.float32)
_COUNTS: Final = ("level", "done", "evaluations", "spent")


@dataclass(frozen=True)
class Checkpoint:
    """State after some evaluations; ``grid`` and ``change`` are those of the best point (``variables.State``).

    Attributes:
        key: of what is solved; a checkpoint of another request is of no use.
        level: position of the scale, or of the run of ``mode = paper``.
        done: evaluations at this level.
        evaluations: over all levels.
        spent: pixels of all evaluations, each counted as the square of its long edge.
        elapsed_seconds: since the solve began, over all processes that worked on it.
        first: losses at the first point of all.
        best: losses at this point.
        grid: (12, D, Gy, Gx) float32; empty in ``mode = paper``.
        change: (3, h, w) float32, stored in 16 bits; in ``mode = paper`` the picture as that mode solves it.
        pairs: what is known of the curvature, see :func:`services.stylizer.core.curvature.compact`; all of one shape,
            stored in 16 bits; none in ``mode = paper``.
    """

    key: str
    level: int
    done: int
    evaluations: int
    spent: int
    elapsed_seconds: float
    first: Losses
    best: Losses
    grid: Tensor
    change: Tensor | None
    pairs: Sequence[Pair] = ()

    def to_bytes(self) -> bytes:
        """The checkpoint as a file."""
        meta = {
            "version": CHECKPOINT_VERSION,
            "key": self.key,
            **{name: getattr(self, name) for name in _COUNTS},
            "elapsed_seconds": self.elapsed_seconds,
            "first": asdict(self.first),
            "best": asdict(self.best),
        }
        arrays = {"grid": self.grid.cpu().numpy(), "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}
        if self.change is not None:
            arrays["change"] = self.change.cpu().numpy().astype(np.float16)
        if self.pairs:
            pairs = torch.stack([torch.stack(pair) for pair in self.pairs])
            scales = pairs.abs().flatten(2).amax(dim=2).clamp(*_SCALES)
            shares = pairs / scales.view(*scales.shape, *[1] * (pairs.ndim - 2))
            arrays |= {"pairs": shares.cpu().numpy().astype(np.float16), "pair_scales": scales.cpu().numpy()}
        return save(arrays)

    @classmethod
    def from_bytes(cls, data: bytes, key: str, device: torch.device) -> Checkpoint:
        """Read a checkpoint of the request that ``key`` stands for.

        Raises:
            CheckpointError: not a checkpoint, of another version or request, or with values that none has.
        """
        if len(data) > MAX_CHECKPOINT_BYTES:
            raise CheckpointError("checkpoint.data", f"{len(data)} bytes", f"must have at most {MAX_CHECKPOINT_BYTES}")
        try:
            arrays = load(data)
            meta: dict[str, Any] = json.loads(arrays["meta"].tobytes())
            if meta["version"] != CHECKPOINT_VERSION:
                raise CheckpointError("checkpoint.version", meta["version"], f"must be {CHECKPOINT_VERSION}")
            if meta["key"] != key:
                raise CheckpointError("checkpoint", "one of another request", "must be of this one")
            counts = {name: int(meta[name]) for name in _COUNTS}
            elapsed_seconds = float(meta["elapsed_seconds"])
            first, best = (Losses(**{k: float(v) for k, v in meta[name].items()}) for name in ("first", "best"))
            grid, change = arrays["grid"], arrays.get("change")
            pairs, scales = arrays.get("pairs", _NO_PAIRS), arrays.get("pair_scales", _NO_PAIRS)
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            text = "bytes that are not a checkpoint"
            raise CheckpointError("checkpoint.data", text, "must be a checkpoint made by this service") from error
        fine = (
            all(value >= 0 for value in counts.values())
            and counts["done"] <= counts["evaluations"] <= min(_MAX_EVALUATIONS, counts["spent"])
            and counts["evaluations"] > 0
            and grid.shape in (GRID_SHAPE, _NO_GRID)
            and 0 <= elapsed_seconds < float("inf")
            and grid.dtype == np.float32
            and bool(np.isfinite(grid).all())
            and (change is None or _is_picture(change, _MAX_EDGE))
            and pairs.shape[:2] == scales.shape in {(count, 2) for count in range(PAIRS + 1)}
            and scales.dtype == np.float32
            and all(_SCALES[0] <= scale <= _SCALES[1] for scale in scales.flat)
            and all(_is_grid(x) or _is_picture(x, PAIRS_EDGE_PX) for pair in pairs for x in pair)
        )
        if not fine:
            raise CheckpointError("checkpoint.data", "values that no checkpoint has", "must be made by this service")
        return cls(
            key=key,
            **counts,
            elapsed_seconds=elapsed_seconds,
            first=first,
            best=best,
            grid=torch.from_numpy(grid.copy()).to(device),
            change=None if change is None else torch.from_numpy(change.astype(np.float32)).to(device),
            pairs=[
                Pair(*(torch.from_numpy(x.astype(np.float32) * scale).to(device) for x, scale in zip(*of, strict=True)))
                for of in zip(pairs, scales, strict=True)
            ],
        )


def _is_picture(x: NDArray[np.generic], most_px: int) -> bool:
    fits = x.ndim == 3 and x.shape[0] == 3 and 0 < min(x.shape) <= max(x.shape) <= most_px
    return fits and x.dtype == np.float16 and bool(np.isfinite(x).all())


def _is_grid(x: NDArray[np.generic]) -> bool:
    return x.shape == GRID_SHAPE and x.dtype == np.float16 and bool(np.isfinite(x).all())


@dataclass
class Journal:
    """Where a solve starts, and who keeps its checkpoints.

    Attributes:
        key: of what is solved.
        resume: the point to go on from; None = the warm start.
        keep: takes each new checkpoint; None = nobody does.
        every_seconds: between two of them; 0 = after every evaluation.
    """

    key: str = ""
    resume: Checkpoint | None = None
    keep: Callable[[Checkpoint], None] | None = None
    every_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._kept = time.monotonic()

    def write(self, checkpoint: Callable[[], Checkpoint]) -> None:
        """Have a checkpoint kept, unless the last one is younger than ``every_seconds``; then none is made."""
        now = time.monotonic()
        if self.keep is not None and now - self._kept >= self.every_seconds:
            self._kept = now
            self.keep(checkpoint())

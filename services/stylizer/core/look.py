"""The look: what a solve leaves behind, small and free of any resolution.

Stored as a safetensors file with the tensors named like the attributes and a JSON text as ``meta`` (docs/look.md). What
pixels add to the field is the bulk of it: stored in 8 bits, finer near zero, and compressed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.byte_planes import correlated, decorrelated, deflated, inflated
from services.stylizer.core.errors import LookError
from services.stylizer.core.field import GRID_SHAPE
from services.stylizer.core.params import RANGES
from services.stylizer.core.results import LOOK_VERSION

__all__ = ["MAX_LOOK_BYTES", "Look", "expanded"]

MAX_LOOK_BYTES: Final = 1_000_000
"""Largest serialised look that is accepted, and the most that one made here takes."""

_MAX_LABELS: Final = 256
_MAX_EDGE: Final = int(RANGES["solve_edge_px"][1])
_MAX_SCALE: Final = 1.0
"""A change leads from one picture within 0..1 to another."""

_LEAST_EDGE: Final = 3
_LEAST_CHANGE_BYTES: Final = 100_000
"""Room that a look must have for its change besides everything else."""

_LEVELS: Final = 127
"""Levels of a stored change on either side of zero."""


@dataclass(frozen=True)
class Look:
    """A solved look, format of docs/look.md.

    Attributes:
        grid: (12, D, Gy, Gx) float32, the bilateral-grid field.
        affines: (L, 3, 4) float32, each label's warm start ``[A | b]`` on RGB 0..1.
        strengths: (L,) float32, share of the look applied in each label's region, 0..1.
        indices: (h, w) uint8, the label at each pixel of a small copy of the photo, 0..L-1.
        change: (3, h', w') int8, what the picture differs by from the field's within 0..1; see :func:`expanded`.
        scale: the change that the largest level stands for.
        names: the L label names.
    """

    grid: Tensor
    affines: Tensor
    strengths: Tensor
    indices: Tensor
    change: Tensor
    scale: float
    names: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """The look as a file."""
        meta = {
            "version": LOOK_VERSION,
            "names": list(self.names),
            "scale": self.scale,
            "indices": list(self.indices.shape),
            "change": list(self.change.shape),
        }
        return save(
            {
                "grid": self.grid.cpu().numpy(),
                "affines": self.affines.cpu().numpy(),
                "strengths": self.strengths.cpu().numpy(),
                "indices": deflated(self.indices.cpu().numpy()),
                "change": deflated(decorrelated(self.change.cpu().numpy().view(np.uint8))),
                "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Look:
        """Read a look.

        Raises:
            LookError: not a look, of another version, or with values that no look has.
        """
        arrays, meta = _opened(data)
        names = meta["names"]
        count = len(names)
        shapes: Mapping[str, tuple[int, ...] | None] = {"affines": (count, 3, 4), "strengths": (count,), "grid": None}
        for name, shape in shapes.items():
            array = arrays.get(name)
            fine = (
                array is not None
                and array.dtype == np.float32
                and (shape is None or array.shape == shape)
                and bool(np.isfinite(array).all())
            )
            if not fine:
                raise LookError(
                    f"look.data.{name}", "a value that no look has", f"must have shape {shape or 'of a look'}"
                )
        grid = arrays["grid"]
        if not (grid.ndim == 4 and grid.shape[0] == GRID_SHAPE[0] and min(grid.shape) > 1):
            raise LookError("look.data.grid", grid.shape, "must be (12, D, Gy, Gx)")
        indices = _unpacked(arrays, meta, "indices", 2)
        if min(indices.shape) < _LEAST_EDGE or int(indices.max()) >= count:
            raise LookError("look.data.indices", indices.shape, f"must be (h, w) with values below {count}")
        change = _unpacked(arrays, meta, "change", 3)
        if change.shape[0] != 3:
            raise LookError("look.data.change", change.shape, "must be (3, h, w)")
        scale = meta.get("scale")
        if not (isinstance(scale, float) and 0 <= scale <= _MAX_SCALE):
            raise LookError("look.data.scale", scale, f"must be a number between 0 and {_MAX_SCALE:g}")
        if not bool(((arrays["strengths"] >= 0) & (arrays["strengths"] <= 1)).all()):
            raise LookError("look.data.strengths", arrays["strengths"].tolist(), "must be between 0 and 1")
        tensors = {name: torch.from_numpy(arrays[name].copy()) for name in ("grid", "affines", "strengths")}
        restored = torch.from_numpy(correlated(change).view(np.int8))
        return cls(**tensors, indices=torch.from_numpy(indices), change=restored, scale=scale, names=tuple(names))

    def to(self, device: torch.device) -> Look:
        """The same look on another device."""
        names = ("grid", "affines", "strengths", "indices", "change")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def check_room(self) -> None:
        """See that there is room for a change.

        Raises:
            LookError: the label map alone takes nearly all bytes of a look.
        """
        size, limit = len(self.to_bytes()), MAX_LOOK_BYTES - _LEAST_CHANGE_BYTES
        if size > limit:
            raise LookError("content_labels", f"a label map whose look has {size} bytes", f"must have at most {limit}")

    def with_change(self, change: Tensor) -> Look:
        """The look with what pixels add, (3, h, w) float, at the finest size that keeps it within its bytes.

        Raises:
            LookError: everything else in the look is too large already, see :meth:`check_room`.
        """
        while True:
            scale = float(change.abs().max())
            levels = (change.sign() * (change.abs() / max(scale, 1e-12)).sqrt() * _LEVELS).round().to(torch.int8)
            look = replace(self, change=levels, scale=scale)
            excess = len(look.to_bytes()) / MAX_LOOK_BYTES
            if excess <= 1:
                return look
            if max(change.shape[1:]) <= _LEAST_EDGE:
                self.check_room()
            shrink = 0.98 / excess**0.5
            size = [max(min(round(edge * shrink), edge - 1), _LEAST_EDGE) for edge in change.shape[1:]]
            change = functional.interpolate(change[None], size=size, mode="area")[0]


def expanded(look: Look) -> Tensor:
    """The stored change as numbers: (3, h', w') float32; a level's distance from zero is a square root."""
    levels = look.change.float() / _LEVELS
    return levels.sign() * levels.square() * look.scale


def _opened(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the meta of a look of this version; ``names`` are checked."""
    if len(data) > MAX_LOOK_BYTES:
        raise LookError("look.data", f"{len(data)} bytes", f"must have at most {MAX_LOOK_BYTES} bytes")
    try:
        arrays = load(data)
        meta: Any = json.loads(arrays["meta"].tobytes())
        version, names = meta["version"], meta["names"]
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise LookError("look.data", "bytes that are not a look", "must be a look made by this service") from error
    if version != LOOK_VERSION:
        raise LookError("look.version", version, f"must be {LOOK_VERSION}")
    if not (isinstance(names, list) and 0 < len(names) <= _MAX_LABELS and all(_is_name(name) for name in names)):
        raise LookError("look.data.names", "a value that no look has", f"must be 1 to {_MAX_LABELS} texts")
    return arrays, meta


def _is_name(name: Any) -> bool:
    """A text that a message can carry: JSON may hold halves of surrogate pairs."""
    return isinstance(name, str) and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _unpacked(arrays: dict[str, NDArray[Any]], meta: dict[str, Any], name: str, dimensions: int) -> NDArray[np.uint8]:
    field, shape = f"look.data.{name}", meta.get(name)
    if not (
        isinstance(shape, list)
        and len(shape) == dimensions
        and all(isinstance(edge, int) and 0 < edge <= _MAX_EDGE for edge in shape)
        and name in arrays
    ):
        raise LookError(field, shape, f"must be {dimensions} sizes of at most {_MAX_EDGE}")
    try:
        return inflated(arrays[name], shape)
    except ValueError as error:
        raise LookError(field, f"{arrays[name].nbytes} bytes", str(error)) from error

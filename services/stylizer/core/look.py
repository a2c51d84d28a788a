"""The look: what a solve leaves behind, small and free of any resolution.

Stored as a safetensors file with the tensors named like the attributes and a JSON text as ``meta`` (docs/look.md). What
pixels add to the field is the bulk of it: stored in 8 bits, finer near zero, and compressed.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.covariance import dot
from services.stylizer.core.errors import LookError
from services.stylizer.core.field import GRID_SHAPE, Window, apply_coefficients, slice_grid
from services.stylizer.core.guided_filter import guided_coefficients
from services.stylizer.core.local_affine import applied, exact_affine
from services.stylizer.core.results import LOOK_VERSION
from services.stylizer.core.variables import resized

__all__ = ["MAX_LOOK_BYTES", "Look", "LookField", "expanded", "label_masks"]

MAX_LOOK_BYTES: Final = 1_000_000
"""Largest serialised look that is accepted, and the most that one made here takes."""

_MAX_LABELS: Final = 256
_MAX_EDGE: Final = 4096
_FEATHER_RADIUS: Final = 8
"""Half window in pixels of the label map at which masks are feathered along the photo's edges."""

_LEVELS: Final = 127
"""Levels of a stored change on either side of zero."""


@dataclass(frozen=True)
class Look:
    """A solved look.

    Attributes:
        grid: (12, D, Gy, Gx) float32, the bilateral-grid field.
        affines: (L, 3, 4) float32, each label's warm start ``[A | b]`` on RGB 0..1.
        strengths: (L,) float32, share of the look applied in each label's region, 0..1.
        indices: (h, w) uint8, the label at each pixel of a small copy of the photo, 0..L-1.
        change: (3, h', w') int8, what the picture differs by from the field's; see :func:`expanded`.
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
                "indices": _packed(self.indices.cpu().numpy()),
                "change": _packed(_decorrelated(self.change.cpu().numpy())),
                "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Look:
        """Read a look.

        Raises:
            LookError: not a look, of another version, or with values that no look has.
        """
        if len(data) > MAX_LOOK_BYTES:
            raise LookError("look.data", f"{len(data)} bytes", f"must have at most {MAX_LOOK_BYTES} bytes")
        try:
            arrays = load(data)
            meta: Any = json.loads(arrays["meta"].tobytes())
            version, names = int(meta["version"]), tuple(str(name) for name in meta["names"])
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise LookError("look.data", "bytes that are not a look", "must be a look made by this service") from error
        if version != LOOK_VERSION:
            raise LookError("look.version", version, f"must be {LOOK_VERSION}")
        count = len(names)
        for name, shape in {"affines": (count, 3, 4), "strengths": (count,), "grid": None}.items():
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
        if not (0 < count <= _MAX_LABELS and grid.ndim == 4 and grid.shape[0] == GRID_SHAPE[0] and min(grid.shape) > 1):
            raise LookError("look.data.grid", grid.shape, "must be (12, D, Gy, Gx)")
        indices = _unpacked(arrays, meta, "indices", 2)
        if min(indices.shape) < 3 or int(indices.max()) >= count:
            raise LookError("look.data.indices", indices.shape, f"must be (h, w) with values below {count}")
        change = _unpacked(arrays, meta, "change", 3)
        if change.shape[0] != 3:
            raise LookError("look.data.change", change.shape, "must be (3, h, w)")
        scale = meta.get("scale")
        if not (isinstance(scale, float) and 0 <= scale <= 10):
            raise LookError("look.data.scale", scale, "must be a number between 0 and 10")
        if not bool(((arrays["strengths"] >= 0) & (arrays["strengths"] <= 1)).all()):
            raise LookError("look.data.strengths", arrays["strengths"].tolist(), "must be between 0 and 1")
        tensors = {name: torch.from_numpy(arrays[name].copy()) for name in ("grid", "affines", "strengths")}
        restored = torch.from_numpy(_correlated(change))
        return cls(**tensors, indices=torch.from_numpy(indices), change=restored, scale=scale, names=names)

    def to(self, device: torch.device) -> Look:
        """The same look on another device."""
        names = ("grid", "affines", "strengths", "indices", "change")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def with_change(self, change: Tensor) -> Look:
        """The look with what pixels add, (3, h, w) float, at the finest size that keeps it within its bytes."""
        while True:
            scale = float(change.abs().max())
            levels = (change.sign() * (change.abs() / max(scale, 1e-12)).sqrt() * _LEVELS).round().to(torch.int8)
            look = replace(self, change=levels, scale=scale)
            excess = len(look.to_bytes()) / MAX_LOOK_BYTES
            if excess <= 1:
                return look
            shrink = 0.98 / excess**0.5
            size = [max(round(edge * shrink), 3) for edge in change.shape[1:]]
            change = functional.interpolate(change[None], size=size, mode="area")[0]


def expanded(look: Look) -> Tensor:
    """The stored change as numbers: (3, h', w') float32; a level's distance from zero is a square root."""
    levels = look.change.float() / _LEVELS
    return levels.sign() * levels.square() * look.scale


def _decorrelated(change: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Red and blue as differences from green, modulo 256: they move together."""
    red, green, blue = change.view(np.uint8)
    return np.stack([red - green, green, blue - green])


def _correlated(change: NDArray[np.uint8]) -> NDArray[np.int8]:
    red, green, blue = change
    return np.stack([red + green, green, blue + green]).view(np.int8)


def _packed(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Differences along rows, modulo 256, deflated."""
    return np.frombuffer(zlib.compress(np.diff(array, axis=-1, prepend=np.uint8(0)).tobytes(), 6), np.uint8)


def _unpacked(arrays: dict[str, NDArray[Any]], meta: Any, name: str, dimensions: int) -> NDArray[np.uint8]:
    field = f"look.data.{name}"
    shape = meta.get(name)
    if not (
        isinstance(shape, list)
        and len(shape) == dimensions
        and all(isinstance(edge, int) and 0 < edge <= _MAX_EDGE for edge in shape)
        and name in arrays
    ):
        raise LookError(field, shape, f"must be {dimensions} sizes of at most {_MAX_EDGE}")
    size = int(np.prod(shape))
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(arrays[name].tobytes(), size + 1)
    except zlib.error as error:
        raise LookError(field, "bytes that do not inflate", "must be deflated") from error
    if len(data) != size:
        raise LookError(field, f"{len(data)} bytes", f"must inflate to {size} bytes")
    return np.cumsum(np.frombuffer(data, np.uint8).reshape(shape), axis=-1, dtype=np.uint8)


def label_masks(indices: Tensor, count: int) -> Tensor:
    """Hard masks of a label map: (h, w) integers to (count, h, w) float32 of 0 and 1."""
    labels = torch.arange(count, device=indices.device, dtype=indices.dtype)
    return (indices[None] == labels[:, None, None]).float()


class LookField:
    """A look tied to one photo: soft masks and local affine maps follow that photo's edges.

    Args:
        look: the look.
        I: (3, h, w) the photo at the size of ``look.indices``, RGB 0..1.
    """

    def __init__(self, look: Look, I: Tensor) -> None:
        self.look, self._I = look, I
        self._masks = self._soft_masks()
        self._affines = torch.einsum("lhw,lij->ijhw", self._masks, look.affines)
        self.base = applied(self._affines, I)

    def picture(self) -> Tensor:
        """The field's own picture, without what pixels add: (3, h, w), not clipped."""
        return apply_coefficients(self.base, self._grid_coefficients())

    def restyled(self, strength: float = 1.0) -> Tensor:
        """The look on the small photo: (3, h, w), RGB 0..1."""
        share = strength * self._share()
        return self._I + share * (self._full_strength() - self._I)

    def coefficients(self) -> Tensor:
        """The look as local affine maps, label strengths applied: (3, 4, h, w) float32 with ``O = A·I + b``.

        Where the photo is flat, A is the field's own matrix: the grid's times the label's. Elsewhere it is fitted to
        photo and result, so that maps interpolated across an edge follow the edge (:func:`exact_affine`).
        """
        grid = self._grid_coefficients().T.reshape(3, 4, *self._I.shape[1:])
        own = self._affines[:, :3]
        prior = own + torch.einsum("ikhw,kjhw->ijhw", grid[:, :3], own)
        return self.shared(exact_affine(self._full_strength(), self._I, prior).float())

    def shared(self, maps: Tensor) -> Tensor:
        """Maps (3, 4, h, w) as far as the labels' strengths let them: the same shape."""
        identity = torch.eye(3, 4, device=maps.device)[:, :, None, None]
        return identity + self._share() * (maps - identity)

    def _full_strength(self) -> Tensor:
        return (self.picture() + resized(expanded(self.look), self._I.shape[1:])).clamp(0, 1)

    def _grid_coefficients(self) -> Tensor:
        return slice_grid(self.look.grid, self._I, Window.whole(self._I.shape[1], self._I.shape[2]))

    def _share(self) -> Tensor:
        return torch.einsum("lhw,l->hw", self._masks, self.look.strengths)

    def _soft_masks(self) -> Tensor:
        """Masks feathered along the photo's edges: (L, h, w), summing to 1."""
        hard = label_masks(self.look.indices, len(self.look.names))
        if len(hard) == 1:
            return hard
        radius = min(_FEATHER_RADIUS, (min(self._I.shape[1:]) - 1) // 2)
        coefficients = guided_coefficients(self._I, hard, radius)
        masks = (dot(coefficients[:, :3], self._I) + coefficients[:, 3]).clamp(0, 1)
        return masks / masks.sum(dim=0, keepdim=True).clamp_min(1e-6)

"""The look: what a solve leaves behind, small and free of any resolution.

Stored as a safetensors file with the tensors named like the attributes and a JSON text as ``meta`` (docs/look.md).
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.errors import LookError
from services.stylizer.core.field import GRID_SHAPE, Window, apply_coefficients, slice_grid
from services.stylizer.core.guided_filter import guided_coefficients
from services.stylizer.core.results import LOOK_VERSION

__all__ = ["MAX_LOOK_BYTES", "Look", "LookField", "label_masks"]

MAX_LOOK_BYTES: Final = 1 << 20
"""Largest serialised look that is accepted; those made here stay far below."""

_MAX_LABELS: Final = 256
_FEATHER_RADIUS: Final = 8
"""Half window in pixels of the label map at which masks are feathered along the photo's edges."""


@dataclass(frozen=True)
class Look:
    """A solved look.

    Attributes:
        grid: (12, D, Gy, Gx) float32, the bilateral-grid field.
        affines: (L, 3, 4) float32, each label's warm start ``[A | b]`` on RGB 0..1.
        strengths: (L,) float32, share of the look applied in each label's region, 0..1.
        indices: (h, w) uint8, the label at each pixel of a small copy of the photo, 0..L-1.
        names: the L label names.
    """

    grid: Tensor
    affines: Tensor
    strengths: Tensor
    indices: Tensor
    names: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """The look as a file."""
        meta = json.dumps({"version": LOOK_VERSION, "names": list(self.names)}).encode()
        return save(
            {
                "grid": self.grid.cpu().numpy(),
                "affines": self.affines.cpu().numpy(),
                "strengths": self.strengths.cpu().numpy(),
                "indices": self.indices.cpu().numpy(),
                "meta": np.frombuffer(meta, np.uint8),
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
        shapes = {"affines": (count, 3, 4), "strengths": (count,), "grid": None, "indices": None}
        for name, shape in shapes.items():
            array = arrays.get(name)
            floating = name != "indices"
            fine = (
                array is not None
                and array.dtype == (np.float32 if floating else np.uint8)
                and (shape is None or array.shape == shape)
                and (not floating or bool(np.isfinite(array).all()))
            )
            if not fine:
                raise LookError(
                    f"look.data.{name}", "a value that no look has", f"must have shape {shape or 'of a look'}"
                )
        grid, indices = arrays["grid"], arrays["indices"]
        if not (0 < count <= _MAX_LABELS and grid.ndim == 4 and grid.shape[0] == GRID_SHAPE[0] and min(grid.shape) > 1):
            raise LookError("look.data.grid", grid.shape, "must be (12, D, Gy, Gx)")
        if indices.ndim != 2 or min(indices.shape) < 3 or int(indices.max()) >= count:
            raise LookError("look.data.indices", indices.shape, f"must be (h, w) with values below {count}")
        if not bool(((arrays["strengths"] >= 0) & (arrays["strengths"] <= 1)).all()):
            raise LookError("look.data.strengths", arrays["strengths"].tolist(), "must be between 0 and 1")
        tensors = {name: torch.from_numpy(arrays[name].copy()) for name in ("grid", "affines", "strengths", "indices")}
        return cls(**tensors, names=names)

    def to(self, device: torch.device) -> Look:
        """The same look on another device."""
        return Look(
            self.grid.to(device),
            self.affines.to(device),
            self.strengths.to(device),
            self.indices.to(device),
            self.names,
        )


def label_masks(indices: Tensor, count: int) -> Tensor:
    """Hard masks of a label map: (h, w) integers to (count, h, w) float32 of 0 and 1."""
    labels = torch.arange(count, device=indices.device, dtype=indices.dtype)
    return (indices[None] == labels[:, None, None]).float()


class LookField:
    """A look tied to one photo: the soft masks follow that photo's edges.

    Args:
        look: the look.
        proxy: (3, h, w) the photo at the size of ``look.indices``, RGB 0..1.
    """

    def __init__(self, look: Look, proxy: Tensor) -> None:
        self.look = look
        masks = label_masks(look.indices, len(look.names))
        radius = min(_FEATHER_RADIUS, (min(proxy.shape[1:]) - 1) // 2)
        self._mask_coefficients = guided_coefficients(proxy, masks, radius) if len(look.names) > 1 else None

    def with_grid(self, grid: Tensor) -> LookField:
        """The same field with another grid; the masks are not made again."""
        other = copy.copy(self)
        other.look = replace(self.look, grid=grid)
        return other

    def masks(self, I: Tensor, window: Window) -> Tensor:
        """Soft masks at the pixels of a window: (3, rows, width) gives (L, rows, width), summing to 1."""
        if self._mask_coefficients is None:
            return I.new_ones((1, *I.shape[1:]))
        y, x = window.coordinates(I)
        points = torch.stack(
            [(x * 2 - 1)[None].expand(window.rows, -1), (y * 2 - 1)[:, None].expand(-1, window.width)], dim=-1
        )
        coefficients = functional.grid_sample(
            self._mask_coefficients.flatten(0, 1)[None],
            points[None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0].view(-1, 4, *I.shape[1:])
        masks = ((coefficients[:, :3] * I[None]).sum(dim=1) + coefficients[:, 3]).clamp(0, 1)
        return masks / masks.sum(dim=0, keepdim=True).clamp_min(1e-6)

    def base(self, I: Tensor, masks: Tensor) -> Tensor:
        """The warm start: each label's affine map, blended by the masks."""
        affine = torch.einsum("lhw,lij->ijhw", masks, self.look.affines)
        return (affine[:, :3] * I[None]).sum(dim=1) + affine[:, 3]

    def __call__(self, I: Tensor, window: Window, strength: float = 1.0) -> Tensor:
        """The restyled pixels of a window: (3, rows, width) RGB 0..1 to the same shape, not clipped."""
        masks = self.masks(I, window)
        B = self.base(I, masks)
        O = apply_coefficients(B, slice_grid(self.look.grid, I, window))
        share = strength * torch.einsum("lhw,l->hw", masks, self.look.strengths)
        return I + share * (O - I)

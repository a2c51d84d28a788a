"""What a manifest says about a network's input and output, and photos brought into that form."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.models import Model, ModelError
from services.segmentation.sampling import half_pixel, resampled

__all__ = ["Convention"]

_SCALES: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    # the manifest's x is 0..255, ours 0..1
    "x/127.5 - 1": lambda x: x * np.float32(2) - np.float32(1),
    "x/255": lambda x: x,
}
_SIZE = re.compile(r"long side at (\d+), sides of the form (\d+)k\+(\d+)")


class Convention:
    """The manifest of a segmentation network, read and checked.

    ``labels`` are its classes; ``input_edge_px`` is the long edge at which photos enter it; ``output_stride`` is 0
    where the manifest does not say it. Raises ModelError naming manifest and field.
    """

    def __init__(self, model: Model) -> None:
        self._manifest = model.folder / "manifest.json"
        given, returned = self._section(model, "input"), self._section(model, "output")
        labels = model.manifest.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise self.error("field 'labels' is no list of names")
        self.labels: tuple[str, ...] = tuple(labels)
        self.align_corners = bool(returned.get("align_corners", False))
        self.input_name, self.output_name = str(given.get("name")), str(returned.get("name"))
        self._reversed = self._one_of(given, "channels", ("RGB", "BGR")) == "BGR"
        self._scale = _SCALES[self._one_of(given, "scale", tuple(_SCALES))]
        self._one_of(given, "layout", ("NCHW",))
        self._one_of(given, "dtype", ("float32",))
        size = _SIZE.search(str(given.get("size", "")))
        if size is None:
            raise self.error(f"input.size {given.get('size')!r} does not say '{_SIZE.pattern}'")
        self.input_edge_px, self._step, self._offset = (int(group) for group in size.groups())
        stride = returned.get("stride", 0)
        if not isinstance(stride, int) or not 0 <= stride <= self.input_edge_px:
            raise self.error(f"output.stride is {stride!r}, a whole number of input pixels expected")
        self.output_stride = stride

    def input_size(self, width: int, height: int, scale: float = 1.0) -> tuple[int, int]:
        """Size (width, height) at which a photo enters the network: its aspect ratio, sides as the manifest says.

        ``scale`` is relative to ``input_edge_px``.
        """
        scale *= self.input_edge_px / max(width, height)
        steps = (max(1, round((edge * scale - self._offset) / self._step)) for edge in (width, height))
        new_width, new_height = (step * self._step + self._offset for step in steps)
        return new_width, new_height

    def prepared(self, photo: NDArray[np.float32], scale: float = 1.0) -> NDArray[np.float32]:
        """Bring an sRGB photo, (H, W, 3), 0..1, of any size into the input's form: (3, h, w)."""
        height, width = photo.shape[:2]
        new_width, new_height = self.input_size(width, height, scale)
        image = resampled(photo.transpose(2, 0, 1), half_pixel(height, new_height), half_pixel(width, new_width))
        return self.in_units(image)

    def in_units(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring (3, h, w) sRGB, 0..1, into the input's order of channels and range of values."""
        return np.ascontiguousarray(self._scale(image[::-1] if self._reversed else image))

    def misfit(self, photo: NDArray[np.float32], logits: NDArray[np.float32]) -> str | None:
        """Say what is wrong with what the network made of a prepared photo; None if nothing is."""
        if logits.ndim != 3 or logits.shape[0] != len(self.labels):
            return f"{self.output_name} has shape {logits.shape}, the manifest lists {len(self.labels)} labels"
        if self.output_stride:
            for got, edge in zip(logits.shape[1:], photo.shape[1:], strict=True):
                # Padded convolutions round up, unpadded ones down.
                if got not in (edge // self.output_stride, -(-edge // self.output_stride)):
                    said = f"the manifest says stride {self.output_stride}"
                    return f"{self.output_name} has {got} samples along an edge of {edge} px, {said}"
        if not np.isfinite(logits).all():
            return f"{self.output_name} holds values that are not finite numbers"
        return None

    def check(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
        """Compare with the tensors that a session of ONNX Runtime declares; return whether it takes several photos.

        Raises ModelError for what differs, and for a network whose photos must have one size or come in one number.
        """
        given, title = {node.name: node for node in inputs}, f"input {self.input_name!r}"
        if list(given) != [self.input_name]:
            raise self.error(f"inputs are {list(given)}, the manifest says {self.input_name!r}")
        kind, shape = given[self.input_name].type, given[self.input_name].shape
        if kind != "tensor(float)" or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise self.error(f"{title} is {kind} {shape}, float32 NCHW of 3 channels expected")
        if any(isinstance(edge, int) for edge in shape[2:]):
            raise self.error(f"{title} has the fixed size {shape}; export it with dynamic axes")
        if isinstance(shape[0], int) and shape[0] != 1:
            raise self.error(f"{title} takes {shape[0]} photos, no more and no less; export it with dynamic axes")
        returned, title = {node.name: node for node in outputs}, f"output {self.output_name!r}"
        if self.output_name not in returned:
            raise self.error(f"outputs are {list(returned)}, the manifest says {self.output_name!r}")
        kind, result = returned[self.output_name].type, returned[self.output_name].shape
        if kind not in ("tensor(float)", "tensor(float16)") or (result and len(result) != 4):
            raise self.error(f"{title} is {kind} {result}, floating-point NCHW expected")
        classes = result[1] if result else None
        if not self.labels or (isinstance(classes, int) and classes != len(self.labels)):
            raise self.error(f"{title} has {classes} classes, the manifest lists {len(self.labels)} labels")
        return not isinstance(shape[0], int)

    def error(self, reason: str) -> ModelError:
        """Make the error that names this manifest."""
        return ModelError(f"{self._manifest}: {reason}; correct the manifest or use another model")

    def _section(self, model: Model, name: str) -> dict[str, Any]:
        section = model.manifest.get(name)
        if not isinstance(section, dict):
            raise self.error(f"field {name!r} is missing")
        return section

    def _one_of(self, section: dict[str, Any], field: str, known: tuple[str, ...]) -> str:
        value = section.get(field)
        if value not in known:
            raise self.error(f"input.{field} is {value!r}, known are {', '.join(known)}")
        return str(value)

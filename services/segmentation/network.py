"""A segmentation network in ONNX Runtime, held to what its manifest says."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.common.models import Model, ModelError
from services.segmentation.sampling import half_pixel, resampled

__all__ = ["Network"]

Device = Literal["auto", "cpu", "cuda"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SCALES: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    # the manifest's x is 0..255, ours 0..1
    "x/127.5 - 1": lambda x: x * np.float32(2) - np.float32(1),
    "x/255": lambda x: x,
}
_SIZE = re.compile(r"long side at (\d+), sides of the form (\d+)k\+(\d+)")


class Network:
    """A loaded network. Raises ModelError if files, manifest and device do not fit together; safe to use from threads.

    ``labels`` are its classes; ``input_edge_px`` is the long edge at which photos enter it; ``provider`` is the
    execution provider that ONNX Runtime really uses, ``device`` its short name, "cpu" or "cuda:0".
    """

    def __init__(self, model: Model, device: Device, threads: int) -> None:
        self.model = model
        self._manifest = model.folder / "manifest.json"
        given, returned = self._section("input"), self._section("output")
        self.labels: tuple[str, ...] = tuple(model.manifest.get("labels", ()))
        self.align_corners = bool(returned.get("align_corners", False))
        self._input, self._output = str(given.get("name")), str(returned.get("name"))
        self._reversed = self._one_of(given, "channels", ("RGB", "BGR")) == "BGR"
        self._scale = _SCALES[self._one_of(given, "scale", tuple(_SCALES))]
        self._one_of(given, "layout", ("NCHW",))
        self._one_of(given, "dtype", ("float32",))
        size = _SIZE.search(str(given.get("size", "")))
        if size is None:
            raise self._error(f"input.size {given.get('size')!r} does not say '{_SIZE.pattern}'")
        self.input_edge_px, self._step, self._offset = (int(group) for group in size.groups())
        self._session = _session(model, device, threads)
        self.provider: str = self._session.get_providers()[0]
        self.device = "cuda:0" if self.provider == _CUDA else "cpu"
        self._check_tensors()

    def input_size(self, width: int, height: int, scale: float = 1.0) -> tuple[int, int]:
        """Size (width, height) at which a photo enters the network: its aspect ratio, sides as the manifest says.

        ``scale`` is relative to ``input_edge_px``.
        """
        scale *= self.input_edge_px / max(width, height)
        steps = (max(1, round((edge * scale - self._offset) / self._step)) for edge in (width, height))
        new_width, new_height = (step * self._step + self._offset for step in steps)
        return new_width, new_height

    def logits(self, photo: NDArray[np.float32], scale: float = 1.0) -> NDArray[np.float32]:
        """Run on an sRGB photo, (H, W, 3), 0..1, of any size; returns (classes, h, w) before the softmax."""
        height, width = photo.shape[:2]
        new_width, new_height = self.input_size(width, height, scale)
        image = resampled(photo.transpose(2, 0, 1), half_pixel(height, new_height), half_pixel(width, new_width))
        if self._reversed:
            image = image[::-1]
        batch = np.ascontiguousarray(self._scale(image)[None])
        try:
            (result,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise self._error(f"the network fails on a {new_width}x{new_height} photo: {error}") from error
        return np.asarray(result[0], np.float32)

    def dry_pass(self) -> None:
        """Run once on grey, so that the first request finds everything allocated."""
        edge = self.input_edge_px
        logits = self.logits(np.full((edge, edge, 3), 0.5, np.float32))
        if logits.ndim != 3 or logits.shape[0] != len(self.labels):
            raise self._error(f"{self._output} has shape {logits.shape}, the manifest lists {len(self.labels)} labels")

    def _check_tensors(self) -> None:
        found = {node.name: node for node in self._session.get_inputs()}
        if list(found) != [self._input]:
            raise self._error(f"inputs are {list(found)}, the manifest says {self._input!r}")
        node = found[self._input]
        if node.type != "tensor(float)" or len(node.shape) != 4 or node.shape[1] not in (3, None):
            raise self._error(f"input {self._input!r} is {node.type} {node.shape}, float32 NCHW of 3 channels expected")
        if any(isinstance(edge, int) for edge in node.shape[2:]):
            raise self._error(f"input {self._input!r} has the fixed size {node.shape}; export it with dynamic axes")
        outputs = {node.name: node for node in self._session.get_outputs()}
        if self._output not in outputs:
            raise self._error(f"outputs are {list(outputs)}, the manifest says {self._output!r}")
        channels = outputs[self._output].shape[1:2]
        if not self.labels or (isinstance(channels[0], int) and channels[0] != len(self.labels)):
            raise self._error(f"{self._output} has {channels[0]} classes, the manifest lists {len(self.labels)} labels")

    def _section(self, name: str) -> dict[str, Any]:
        section = self.model.manifest.get(name)
        if not isinstance(section, dict):
            raise self._error(f"field {name!r} is missing")
        return section

    def _one_of(self, section: dict[str, Any], field: str, known: tuple[str, ...]) -> str:
        value = section.get(field)
        if value not in known:
            raise self._error(f"input.{field} is {value!r}, known are {', '.join(known)}")
        return str(value)

    def _error(self, reason: str) -> ModelError:
        return ModelError(f"{self._manifest}: {reason}; correct the manifest or use another model")


def _session(model: Model, device: Device, threads: int) -> onnxruntime.InferenceSession:
    available = onnxruntime.get_available_providers()
    wanted = [_CUDA, _CPU] if device == "cuda" or (device == "auto" and _CUDA in available) else [_CPU]
    options = onnxruntime.SessionOptions()
    # Explicit, because ONNX Runtime counts the machine's cores and not those that this process may use.
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads sleep: the solver shares these cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = model.file("model.onnx")
    if device == "cuda" and _CUDA not in available:
        raise ModelError(
            f"{path}: DPST_DEVICE=cuda but this ONNX Runtime has only {', '.join(available)}; "
            "install the extra 'gpu' or set DPST_DEVICE=cpu"
        )
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[p for p in wanted if p in available])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ModelError(f"{path}: ONNX Runtime cannot load it ({error}); fetch the model again") from error
    got = session.get_providers()[0]
    if device == "cuda" and got != _CUDA:
        raise ModelError(
            f"{path}: DPST_DEVICE=cuda but ONNX Runtime fell back to {got}; check driver, CUDA and cuDNN "
            "or set DPST_DEVICE=cpu"
        )
    return session

"""ONNX Runtime sessions: execution provider, device and threads, each said explicitly and checked after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime

from services.common.models import ModelError

__all__ = ["CPU", "Device", "Placement", "device_name", "open_session"]

Device = Literal["auto", "cpu", "cuda"]

CPU = "CPUExecutionProvider"
_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass(frozen=True)
class Placement:
    """Where and with how much a network runs.

    ``threads`` 0 takes every core that this process may use; ``tensorrt`` asks for TensorRT where there is a GPU and
    this ONNX Runtime lists it.
    """

    device: Device = "auto"
    threads: int = 0
    tensorrt: bool = False

    @property
    def cores(self) -> int:
        """Threads of one computation."""
        # Counted here, because ONNX Runtime counts the machine's cores and not those that this process may use.
        return self.threads or len(os.sched_getaffinity(0))


def open_session(path: Path, placement: Placement, threads: int) -> onnxruntime.InferenceSession:
    """Load a network with so many threads. Raises ModelError if it is damaged or ``device`` cannot be had."""
    available = onnxruntime.get_available_providers()
    if placement.device == "cuda" and _CUDA not in available:
        raise ModelError(
            f"{path}: DPST_DEVICE=cuda but this ONNX Runtime has only {', '.join(available)}; "
            "install the extra 'gpu' or set DPST_DEVICE=cpu"
        )
    wanted = [CPU]
    if placement.device != "cpu":
        wanted = [*([_TENSORRT] if placement.tensorrt else []), _CUDA, CPU]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads sleep: the solver shares these cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[p for p in wanted if p in available])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ModelError(f"{path}: ONNX Runtime cannot load it ({error}); fetch the model again") from error
    got = session.get_providers()[0]
    if placement.device == "cuda" and got not in (_CUDA, _TENSORRT):
        raise ModelError(
            f"{path}: DPST_DEVICE=cuda but ONNX Runtime fell back to {got}; check driver, CUDA and cuDNN "
            "or set DPST_DEVICE=cpu"
        )
    return session


def device_name(provider: str) -> str:
    """Short name of the device that an execution provider computes on: "cpu" or "cuda:0"."""
    return "cuda:0" if provider in (_CUDA, _TENSORRT) else "cpu"

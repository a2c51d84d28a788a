"""What less than float64 costs the terms of features and their gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.evaluator import Evaluator
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.card.photos import transfer

__all__ = ["Accuracy", "accuracies"]


@dataclass(frozen=True)
class Accuracy:
    """Style and content terms and their gradient at the warm start, convolutions in one precision, against float64.

    Attributes:
        edge_px: long edge.
        precision: of the convolutions; Gram matrices and sums are float32.
        value: relative error of the terms' sum.
        gradient: norm of the gradient's error over the gradient's.
        cosine: of the angle between both gradients.
    """

    edge_px: int
    precision: str
    value: float
    gradient: float
    cosine: float


def accuracies(network: FeatureNetwork, edge_px: int) -> list[Accuracy]:
    """Measure what less than float64 costs; tf32 on a card only."""
    wanted, exact = _terms_and_gradient(network, edge_px, torch.float64)
    found = []
    for precision in _precisions(network.device):
        with _precision_of(precision):
            value, gradient = _terms_and_gradient(network, edge_px, torch.float32)
        error, size = (gradient - exact).norm(), exact.norm()
        cosine = functional.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0)
        found.append(Accuracy(edge_px, precision, abs(value / wanted - 1), float(error / size), float(cosine)))
    return found


def _precisions(device: torch.device) -> list[str]:
    return ["fp32", "tf32", "bf16"] if device.type == "cuda" else ["fp32", "bf16"]


@contextmanager
def _precision_of(name: str) -> Iterator[None]:
    """Let convolutions be made in a precision."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with torch.autocast(device, torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _terms_and_gradient(network: FeatureNetwork, edge_px: int, dtype: torch.dtype) -> tuple[float, Tensor]:
    job = transfer(network, edge_px)
    matches = job.match()
    O = job.warm_field(matches).base.clamp(0, 1).to(dtype)
    trunk: Any = copy.deepcopy(network.trunk).to(dtype)  # type: ignore[attr-defined]
    goal = replace(job, trunk=trunk, I=job.I.to(dtype), S=job.S.to(dtype)).goal(matches)

    def terms(features: Mapping[str, Tensor]) -> Tensor:
        plain = {name: F.to(dtype) for name, F in features.items()}
        with torch.autocast(O.device.type, enabled=False):
            return torch.stack([goal.relative_style(plain), goal.relative_content(plain)])

    values, gradient = Evaluator(trunk).evaluated(O, goal.layers.all, terms)
    return float(values.double().sum()), gradient.double()

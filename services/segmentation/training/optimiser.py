"""Muon for the kernels of new convolutions, AdamW for what is no matrix and for the trunk, which knows much already."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from services.segmentation.training.scene import SceneNetwork

__all__ = ["Optimiser", "Rates", "orthogonal"]


class Rates(NamedTuple):
    """Learning rates: of new kernels (Muon), of what else is new and of the trunk (AdamW)."""

    kernels: float
    others: float
    trunk: float


_MOMENTUM: Final = 0.95
_WEIGHT_DECAY: Final = 2e-2
_GREATEST_NORM: Final = 5.0

_QUINTIC: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 5


class Optimiser:
    """Steps for a network and the maps that compare it with its teacher.

    A convolution's kernel is a matrix of (outputs, height·width·inputs), whose gradient Muon makes orthogonal before it
    takes the step (Jordan et al. 2024). ``torch.optim.Muon`` does that in bfloat16, which a processor without it
    multiplies at a three hundredth of its pace; the few lines are here in float32.

    Args:
        network: in memory order ``channels_last``, in which a kernel's matrix is a view of it.
        hints: the maps.
        rates: the greatest.
    """

    def __init__(self, network: SceneNetwork, hints: nn.Module, rates: Rates) -> None:
        self._kernels_rate = rates.kernels
        self._network = [each for each in network.parameters() if each.requires_grad]
        self._kernels: list[nn.Parameter] = []
        trunk: list[Tensor] = []
        others: list[Tensor] = [*hints.parameters()]
        for name, each in network.named_parameters():
            if not each.requires_grad:
                continue
            if name.startswith("trunk."):
                trunk.append(each)
            elif each.ndim == 4 and each.shape[1] > 1 and not name.startswith("head."):
                self._kernels.append(each)
            else:
                others.append(each)
        self._moments = [torch.zeros_like(_matrix(kernel)) for kernel in self._kernels]
        self._adam = torch.optim.AdamW(
            [{"params": trunk, "rate": rates.trunk}, {"params": others, "rate": rates.others}],
            weight_decay=_WEIGHT_DECAY,
            fused=True,
        )

    def step(self, loss: Tensor, share: float) -> None:
        """Follow the loss's gradient with this share of the learning rates."""
        self._adam.zero_grad(set_to_none=True)
        for kernel in self._kernels:
            kernel.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network, _GREATEST_NORM)
        for group in self._adam.param_groups:
            group["lr"] = group["rate"] * share
        self._adam.step()  # type: ignore[no-untyped-call,unused-ignore]
        self._step_kernels(self._kernels_rate * share)

    @torch.no_grad()
    def _step_kernels(self, rate: float) -> None:
        for kernel, moment in zip(self._kernels, self._moments, strict=True):
            assert kernel.grad is not None, "every kernel has a part in the loss"  # noqa: S101
            gradient, matrix = _matrix(kernel.grad), _matrix(kernel)
            moment.lerp_(gradient, 1 - _MOMENTUM)
            update = orthogonal(gradient.lerp(moment, _MOMENTUM))
            rows, columns = matrix.shape
            matrix.mul_(1 - rate * _WEIGHT_DECAY).add_(update, alpha=-rate * max(1, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthogonal rows or columns: singular values between 0.7 and 1.2.

    A quintic Newton-Schulz iteration, coefficients of Jordan et al. 2024.
    """
    a, b, c = _QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x if wide is matrix else x.T
    return found


def _matrix(kernel: Tensor) -> Tensor:
    """(O, I, h, w) in memory order ``channels_last`` to (O, h·w·I): the same memory."""
    return kernel.detach().permute(0, 2, 3, 1).flatten(1)

"""Where training starts: each convolution fitted to VGG-19's by least squares, one after the other.

A student's channel stands for one of the teacher's, chosen by QR with pivoting so that the chosen ones explain the rest
best (column subset selection, as in channel pruning: He, Zhang, Sun 2017). Its weights are the ridge regression of
the teacher's value before the ReLU on the student's own features so far. Starting from random weights instead needs
many times the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.stylizer.core.student import Student
from services.stylizer.core.vgg import LAYERS, VGG19
from services.stylizer.training.targets import Targets

__all__ = ["fitted"]

_TEACHER_LAYERS: Final[Mapping[str, str]] = {"conv3_3": "conv3_4"}
"""The teacher's layer that a student's stands for, where it has another name: the last of block 3."""

_POSITIONS: Final = 400
"""Pixels of a picture and layer that a regression sees."""

_RIDGE: Final = 1e-4
_LOWEST: Final = -1.0
"""Standard deviations below zero at which a value before the ReLU is as good as any that is lower."""


@torch.no_grad()
def fitted(trunk: Student, targets: Targets, pictures: Sequence[Tensor], seed: int) -> None:
    """Fill the weights of ``trunk``; pictures are (3, H, W) RGB 0..1, all of one size."""
    generator = torch.Generator().manual_seed(seed)
    names = {name: _TEACHER_LAYERS.get(name, name) for name in trunk.convs}
    wanted = [_before_relu(targets.teacher, picture, set(names.values())) for picture in pictures]
    inputs = [((picture - trunk.mean[0]) / trunk.std[0])[None] for picture in pictures]
    components = [targets(picture[None]) for picture in pictures]
    for name, conv in trunk.convs.items():
        assert isinstance(conv, nn.Conv2d)  # noqa: S101
        if name.endswith("_1") and name != "conv1_1":
            inputs = [functional.max_pool2d(x, 2, 2, ceil_mode=True) for x in inputs]
        places = [torch.randint(x[0, 0].numel(), (_POSITIONS,), generator=generator) for x in inputs]
        X = torch.cat([_windows(x, at) for x, at in zip(inputs, places, strict=True)])
        Z = torch.cat([z[names[name]].flatten(1)[:, at].T for z, at in zip(wanted, places, strict=True)])
        Z = Z[:, _chosen(Z.relu(), conv.out_channels)]
        W, b = _regression(X, torch.maximum(Z, _LOWEST * Z.std(dim=0)))
        got = (X @ W + b).relu()
        size = got.square().mean(dim=0).sqrt().clamp_min(1e-6)  # a ReLU keeps positive factors
        conv.weight.copy_((W / size).T.reshape(conv.weight.shape))
        assert conv.bias is not None  # noqa: S101
        conv.bias.copy_(b / size)
        inputs = [functional.relu(conv(x)) for x in inputs]
        held = 1 - float((got - Z.relu()).square().sum() / Z.relu().square().sum())
        print(f"{name}: {held:.3f} of the energy of {conv.out_channels} channels of {names[name]}", flush=True)
        if name in trunk.taps:
            tap = trunk.taps[name]
            assert isinstance(tap, nn.Conv2d)  # noqa: S101
            H = torch.cat([x[0].flatten(1)[:, at].T for x, at in zip(inputs, places, strict=True)])
            Y = torch.cat([c[name][0].flatten(1)[:, at].T for c, at in zip(components, places, strict=True)])
            W, b = _regression(H, Y)
            tap.weight.copy_(W.T.reshape(tap.weight.shape))
            assert tap.bias is not None  # noqa: S101
            tap.bias.copy_(b)


def _before_relu(teacher: VGG19, picture: Tensor, layers: set[str]) -> dict[str, Tensor]:
    """(C, H, W) values of the teacher's convolutions."""
    found: dict[str, Tensor] = {}
    names = iter(LAYERS)
    convention = teacher.convention
    x = (picture[None].flip(1) if convention.bgr else picture[None]) * convention.scale
    x = (x - teacher.mean) / teacher.std
    for module in teacher.features:
        x = module(x)
        if isinstance(module, nn.Conv2d):
            name = next(names)
            if name in layers:
                found[name] = x[0].clone()  # the ReLU behind it works in place
            if len(found) == len(layers):
                break
    return found


def _windows(x: Tensor, at: Tensor) -> Tensor:
    """3x3 windows around some pixels: (1, C, H, W) to (N, 9·C), in the order of a convolution's weights."""
    return functional.unfold(x, 3, padding=1)[0][:, at].T


def _chosen(F: Tensor, count: int) -> list[int]:
    """Columns of (N, C) that explain the others best."""
    values, vectors = np.linalg.eigh((F.T @ F).double().numpy() / len(F))
    root = np.sqrt(values.clip(0))[:, None] * vectors.T  # its columns have the products of those of F
    _, order = scipy.linalg.qr(root, mode="r", pivoting=True)
    return sorted(order[:count].tolist())


def _regression(X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression with an intercept: (N, P) and (N, Q) to (P, Q) and (Q,)."""
    X, Y = X.double(), Y.double()
    mean_X, mean_Y = X.mean(dim=0), Y.mean(dim=0)
    A = (X - mean_X).T @ (X - mean_X) / len(X)
    B = (X - mean_X).T @ (Y - mean_Y) / len(X)
    W = torch.linalg.solve(A + _RIDGE * torch.eye(len(A), dtype=A.dtype) * A.diagonal().mean(), B)
    return W.float(), (mean_Y - mean_X @ W).float()

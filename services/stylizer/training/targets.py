"""What the student is to reproduce: VGG-19's features in their principal components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.stylizer.core.student import STUDENT_LAYERS, Student
from services.stylizer.core.trunk import Trunk
from services.stylizer.core.vgg import VGG19

__all__ = ["Targets", "features", "gram_errors", "losses", "quadrant_grams"]

_HALF: Final = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
"""Whether this processor multiplies bfloat16: about twice as many steps in the same time."""

_LEAST_NORM: Final = 0.3
"""Gram norm of a quarter, as a share of that of white features, below which its error counts no more: clear skies."""


@dataclass(frozen=True)
class Targets:
    """The teacher, and the strongest directions of its features.

    Attributes:
        teacher: VGG-19.
        directions: for each layer (K, C), orthonormal rows: eigenvectors of the features' second moments, which are
            not centred, because Gram matrices are not.
        scales: for each layer what a component is divided by, so that its mean square is 1.
    """

    teacher: VGG19
    directions: Mapping[str, Tensor]
    scales: Mapping[str, float]

    @classmethod
    def of(cls, teacher: VGG19, pictures: Sequence[Tensor], components: Mapping[str, int]) -> Targets:
        """From the teacher's features on some (3, H, W) pictures."""
        moments: dict[str, Tensor] = {}
        for picture in pictures:
            for name, F in teacher(picture[None], STUDENT_LAYERS).items():
                flat = F[0].flatten(1)
                moments[name] = moments.get(name, torch.zeros(())) + flat @ flat.T / flat.shape[1]
        directions, scales = {}, {}
        for name, moment in moments.items():
            K = components[name]
            values, vectors = torch.linalg.eigh(moment.double() / len(pictures))
            directions[name] = vectors[:, -K:].T.flip(0).float()
            held = float(values[-K:].sum())
            scales[name] = (held / K) ** 0.5
            share = held / float(values.sum())
            print(f"{name}: {K} of {len(values)} components hold {share:.4f} of the energy", flush=True)
        return cls(teacher, directions, scales)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """Components of the teacher's features: (N, 3, H, W) to (N, K, H', W') for each layer."""
        whole = features(self.teacher, pictures)
        return {
            name: functional.conv2d(whole[name], P[:, :, None, None] / self.scales[name])
            for name, P in self.directions.items()
        }


def features(trunk: Trunk, pictures: Tensor) -> dict[str, Tensor]:
    """Features at every layer that the student has, float32, through bfloat16 where that is faster."""
    with torch.autocast("cpu", torch.bfloat16, enabled=_HALF):
        found = trunk(pictures, STUDENT_LAYERS)
    return {name: F.float() for name, F in found.items()}


def quadrant_grams(F: Tensor) -> Tensor:
    """Gram matrices of the four quarters, since regions are what a solve compares: (N, K, h, w) to (4N, K, K)."""
    n, k, h, w = F.shape
    h2, w2 = h // 2, w // 2
    parts = F[:, :, : 2 * h2, : 2 * w2].reshape(n, k, 2, h2, 2, w2).permute(0, 2, 4, 1, 3, 5).reshape(4 * n, k, -1)
    return parts @ parts.transpose(1, 2) / (h2 * w2)


def losses(trunk: Student, pictures: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    """(layers, 2): relative squared error of features and of Gram matrices, differentiable in the student."""
    got = features(trunk, pictures)
    rows = []
    for name in STUDENT_LAYERS:
        error = functional.mse_loss(got[name], wanted[name])
        G, G_wanted = quadrant_grams(got[name]), quadrant_grams(wanted[name])
        least = _LEAST_NORM**2 * G.shape[1]
        squares = (G - G_wanted).square().sum(dim=(1, 2)) / G_wanted.square().sum(dim=(1, 2)).clamp_min(least)
        rows.append(torch.stack([error, squares.mean()]))
    return torch.stack(rows)


@torch.no_grad()
def gram_errors(trunk: nn.Module, targets: Targets, pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """How far the student's difference of two photos' Gram matrices is from VGG-19's, squared, relative, summed.

    0 is the same difference, 1 as wrong as to see none. The teacher's Gram matrices are whole here, not projected.
    """
    wrong, whole = dict.fromkeys(STUDENT_LAYERS, 0.0), dict.fromkeys(STUDENT_LAYERS, 0.0)
    for pair in pairs:
        both = torch.stack(pair)
        got, features = trunk(both, STUDENT_LAYERS), targets.teacher(both, STUDENT_LAYERS)
        for name in STUDENT_LAYERS:
            P = targets.directions[name]
            D = _difference(features[name])
            D_got = P.T @ _difference(got[name] * targets.scales[name]) @ P
            wrong[name] += float((D_got - D).square().sum())
            whole[name] += float(D.square().sum())
    return {name: wrong[name] / whole[name] for name in STUDENT_LAYERS}


def _difference(F: Tensor) -> Tensor:
    flat = F.flatten(2)
    G = flat @ flat.transpose(1, 2) / flat.shape[2]
    return G[0] - G[1]

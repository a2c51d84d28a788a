"""The published method written out a second time, slowly and without the code under test.

Masks by loops, the Laplacian as a sparse matrix, plain autograd through torch's convolutions, L-BFGS by the two-loop
recursion in numpy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.matting import assembled_laplacian
from services.stylizer.core.vgg import InputConvention

MEAN_BGR = np.array([103.939, 116.779, 123.68])
CONVOLUTIONS = (2, 2, 4, 4, 4)
STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")


def averaged(M: np.ndarray) -> np.ndarray:
    height, width = M.shape
    result = np.zeros_like(M)
    for y in range(height):
        for x in range(width):
            for v in (y - 1, y, y + 1):
                for u in (x - 1, x, x + 1):
                    if 0 <= v < height and 0 <= u < width:
                        result[y, x] += M[v, u] / 9
    return result


def halved(M: np.ndarray) -> np.ndarray:
    height, width = M.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    result = np.zeros((rows, columns))
    for y in range(rows):
        for x in range(columns):
            top, bottom = y * height // rows, -(-(y + 1) * height // rows)
            left, right = x * width // columns, -(-(x + 1) * width // columns)
            result[y, x] = M[top:bottom, left:right].mean()
    return result


def mask_at_layers(M: np.ndarray) -> dict[str, np.ndarray]:
    found = {}
    for block, convolutions in enumerate(CONVOLUTIONS, 1):
        if block > 1:
            M = halved(M)
        for conv in range(1, convolutions + 1):
            M = averaged(M)
            found[f"conv{block}_{conv}"] = M
    return found


def features(weights: Mapping[str, Tensor], convention: InputConvention, O: Tensor) -> dict[str, Tensor]:
    """Of (3, H, W) RGB 0..1 to conv5_1."""
    x = O.flip(0) if convention.bgr else O
    mean, std = (torch.tensor(v).to(O.dtype).view(3, 1, 1) for v in (convention.mean, convention.std))  # as float32
    x = ((x * convention.scale - mean) / std)[None]
    found, index = {}, 0
    for block, convolutions in enumerate(CONVOLUTIONS, 1):
        if block > 1:
            x, index = functional.max_pool2d(x, 2, 2, ceil_mode=True), index + 1
        for conv in range(1, convolutions + 1):
            weight, bias = (weights[f"features.{index}.{kind}"] for kind in ("weight", "bias"))
            x, index = torch.relu(functional.conv2d(x, weight, bias, padding=1)), index + 2
            found[f"conv{block}_{conv}"] = x[0]
            if (block, conv) == (5, 1):
                return found
    raise AssertionError


@dataclass
class ByHand:
    """The objective; masks of ``None`` are no masks at all."""

    weights: Mapping[str, Tensor]
    convention: InputConvention
    I: Tensor
    S: Tensor
    M_content: Tensor | None
    M_style: Tensor | None
    feature_scale: float
    affine_weight: float = 1e4

    def __post_init__(self) -> None:
        self.F_I = features(self.weights, self.convention, self.I)
        self.F_S = features(self.weights, self.convention, self.S)
        self.L = assembled_laplacian(self.I.permute(1, 2, 0).numpy())
        self.labels = 1 if self.M_content is None else len(self.M_content)
        self.at_content = [mask_at_layers(self._mask(self.M_content, self.I, k)) for k in range(self.labels)]
        self.at_style = [mask_at_layers(self._mask(self.M_style, self.S, k)) for k in range(self.labels)]

    @staticmethod
    def _mask(M: Tensor | None, photo: Tensor, k: int) -> np.ndarray:
        return np.ones(photo.shape[1:]) if M is None else M[k].numpy().astype(np.float64)

    def _gram(self, F: Tensor, mask: np.ndarray) -> tuple[Tensor, float]:
        m = torch.ones(F.shape[1:]) if self.M_content is None else torch.from_numpy(mask)
        masked = (F * m).flatten(1)
        mean = float(m.mean())
        return masked @ masked.T / (F.numel() * mean), mean

    def terms(self, x: Tensor, affine: bool) -> dict[str, Tensor]:
        O = ((x + torch.from_numpy(MEAN_BGR).view(3, 1, 1)) / 255).flip(0)
        F = features(self.weights, self.convention, O)
        k = self.feature_scale
        content = 5 * ((k * F["conv4_2"] - k * self.F_I["conv4_2"]) ** 2).mean()
        style = torch.zeros((), dtype=x.dtype)
        for name in STYLE_LAYERS:
            for label in range(self.labels):
                G, share = self._gram(k * F[name], self.at_content[label][name])
                G_S, _ = self._gram(k * self.F_S[name], self.at_style[label][name])
                style = style + 100 * share * ((G - G_S) ** 2).mean()
        across = x[:, :-1, :-1] - x[:, :-1, 1:]
        down = x[:, :-1, :-1] - x[:, 1:, :-1]
        smoothness = 1e-3 * 0.5 * ((across**2).sum() + (down**2).sum())
        energy = sum(float(v @ (self.L @ v)) for v in self._rgb(x)) if affine else 0.0
        L_m = torch.tensor(self.affine_weight * energy, dtype=x.dtype)
        return {"content": content, "style": style, "smoothness": smoothness, "affine": L_m}

    @staticmethod
    def _rgb(x: Tensor) -> np.ndarray:
        levels = x.detach().numpy() + MEAN_BGR[:, None, None]
        return levels[::-1].reshape(3, -1) / 255

    def value_and_gradient(self, x: np.ndarray, affine: bool) -> tuple[dict[str, float], np.ndarray]:
        leaf = torch.from_numpy(x.copy()).requires_grad_(True)
        terms = self.terms(leaf, affine)
        (terms["content"] + terms["style"] + terms["smoothness"]).backward()
        gradient = leaf.grad.numpy().copy()
        if affine:
            product = (self.L @ self._rgb(leaf).T).T.reshape(x.shape)
            gradient += 2 * self.affine_weight * product[::-1] / 255
        values = {name: float(term.detach()) for name, term in terms.items()}
        return {**values, "total": sum(values.values())}, gradient


def lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], x: np.ndarray, evaluations: int, history: int = 100
) -> list[np.ndarray]:
    """Points that are evaluated: fixed step 1, the first min(1, 1 / |g|_1); Nocedal & Wright, algorithm 7.4."""
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=history)
    points, gamma = [], 1.0
    _, g = objective(x)
    points.append(x)
    step = min(1.0, 1 / np.abs(g).sum())
    while len(points) < evaluations:
        q, alphas = g.copy(), []
        for s, y in reversed(pairs):
            alpha = (s * q).sum() / (y * s).sum()
            alphas.append(alpha)
            q -= alpha * y
        r = gamma * q
        for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
            r += s * (alpha - (y * r).sum() / (y * s).sum())
        s = -step * r
        step = 1.0
        x = x + s
        points.append(x)
        _, g_new = objective(x)
        y = g_new - g
        if (y * s).sum() > 1e-10:
            pairs.append((s, y))
            gamma = (y * s).sum() / (y * y).sum()
        g = g_new
    return points

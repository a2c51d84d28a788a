"""Filters of ``refine`` written as their definitions say, for pictures small enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["box_mean_by_hand", "gaussian_kernel", "guided_by_hand", "mean_field_by_hand"]


def box_mean_by_hand(plane: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Mean over the window, cut at the border: (H, W)."""
    height, width = plane.shape
    result = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            result[y, x] = plane[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].mean()
    return result


def guided_by_hand(
    guide: NDArray[np.float64], mask: NDArray[np.float64], radius: int, epsilon: float
) -> NDArray[np.float64]:
    """He, Sun, Tang 2013: a ridge regression in every window, (H, W, 3) and (H, W) to (H, W)."""
    height, width = mask.shape
    slopes, constants = np.empty((height, width, 3)), np.empty((height, width))
    for y in range(height):
        for x in range(width):
            window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            I, p = guide[window].reshape(-1, 3), mask[window].ravel()
            centred = I - I.mean(axis=0)
            covariance = centred.T @ centred / len(I) + epsilon * np.eye(3)
            slopes[y, x] = np.linalg.solve(covariance, centred.T @ p / len(I))
            constants[y, x] = p.mean() - slopes[y, x] @ I.mean(axis=0)
    a = np.stack([box_mean_by_hand(slopes[..., c], radius) for c in range(3)], axis=2)
    return (a * guide).sum(axis=2) + box_mean_by_hand(constants, radius)


def gaussian_kernel(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every point with every other: (N, d) to (N, N)."""
    return np.exp(-((features[:, None] - features[None]) ** 2).sum(axis=2) / 2)


def mean_field_by_hand(
    probabilities: NDArray[np.float64], kernels: list[tuple[float, NDArray[np.float64]]], iterations: int
) -> NDArray[np.float64]:
    """Krähenbühl & Koltun 2011, algorithm 1, with Potts costs of whole kernels, normalised symmetrically."""
    unary = -np.log(np.maximum(probabilities, 1e-6))
    marginals = probabilities
    whole = np.zeros_like(kernels[0][1])
    for weight, kernel in kernels:
        scale = 1 / np.sqrt(kernel.sum(axis=1))
        whole += weight * scale[:, None] * kernel * scale[None]
    labels = probabilities.shape[1]
    costs = 1 - np.eye(labels)
    for _ in range(iterations):
        energy = unary + whole @ marginals @ costs
        marginals = np.exp(-(energy - energy.min(axis=1, keepdims=True)))
        marginals /= marginals.sum(axis=1, keepdims=True)
    return marginals

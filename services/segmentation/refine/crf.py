"""Mean field of a fully connected CRF: every pixel speaks with every other, loudest with those near and alike.

Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011: a kernel of
place and colour and one of place alone, Potts compatibility, kernels normalised symmetrically as in the authors' code.
No library is used: pydensecrf is not kept up and comes as C++ source, which an installation would have to compile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.segmentation.refine.permutohedral import Permutohedral

__all__ = ["CrfSettings", "bilateral_features", "crf_marginals", "gaussian_features", "mean_field"]

Filter = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class CrfSettings:
    """Weights and widths of about those that DeepLab used, chosen on the development pairs; see docs/labels.md.

    Attributes:
        iterations: of the mean field; it hardly moves after five.
        appearance: weight of the kernel of place and colour.
        appearance_share: its standard deviation of place, as a share of the long edge.
        appearance_colour: its standard deviation of colour, RGB 0..1.
        smoothness: weight of the kernel of place alone.
        smoothness_px: its standard deviation in pixels.
    """

    iterations: int = 5
    appearance: float = 10.0
    appearance_share: float = 0.1
    appearance_colour: float = 0.05
    smoothness: float = 3.0
    smoothness_px: float = 3.0


def crf_marginals(
    guide: NDArray[np.float32], probabilities: NDArray[np.float32], settings: CrfSettings
) -> NDArray[np.float32]:
    """Refine (labels, h, w) that sum to 1 by a guide of the same size, (h, w, 3), RGB 0..1; the result sums to 1."""
    labels, height, width = probabilities.shape
    kernels = [
        (settings.appearance, Permutohedral(bilateral_features(guide, settings)).filtered),
        (settings.smoothness, Permutohedral(gaussian_features(height, width, settings)).filtered),
    ]
    marginals = mean_field(probabilities.reshape(labels, -1).T, kernels, settings.iterations)
    return np.ascontiguousarray(marginals.T).reshape(labels, height, width)


def bilateral_features(guide: NDArray[np.float32], settings: CrfSettings) -> NDArray[np.float64]:
    """Places and colours of a guide's pixels in standard deviations: (h·w, 5)."""
    height, width = guide.shape[:2]
    y, x = np.mgrid[:height, :width] / (settings.appearance_share * max(height, width))
    return np.column_stack([y.ravel(), x.ravel(), guide.reshape(-1, 3) / settings.appearance_colour])


def gaussian_features(height: int, width: int, settings: CrfSettings) -> NDArray[np.float64]:
    """Places of pixels in standard deviations: (h·w, 2)."""
    y, x = np.mgrid[:height, :width] / settings.smoothness_px
    return np.column_stack([y.ravel(), x.ravel()])


def mean_field(
    probabilities: NDArray[np.float32], kernels: Sequence[tuple[float, Filter]], iterations: int
) -> NDArray[np.float32]:
    """Iterate the mean field of (pixels, labels); each kernel is a weight and a filter of such arrays.

    A pixel's own message is part of the filter's, as in the authors' code.
    """
    unary = np.log(np.maximum(probabilities, np.float32(1e-6)))
    ones = np.ones((len(probabilities), 1), np.float32)
    norms = [np.maximum(kernel(ones), np.float32(1e-12)) for _, kernel in kernels]
    scales = [np.asarray(1 / np.sqrt(norm), np.float32) for norm in norms]
    marginals = probabilities
    for _ in range(iterations):
        energy = unary.copy()
        for (weight, kernel), scale in zip(kernels, scales, strict=True):
            energy += np.asarray(weight * scale * kernel(marginals * scale), np.float32)
        powers = np.exp(energy - energy.max(axis=1, keepdims=True))
        marginals = powers / powers.sum(axis=1, keepdims=True)
    return marginals

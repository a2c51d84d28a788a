"""The guided filter with a colour guide, solved small and evaluated at any size.

He, Sun, Tang, "Guided Image Filtering", PAMI 2013; the split is that of He & Sun, "Fast Guided Filter", 2015.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.segmentation.refine.kernels import affine_plane, box_mean, ridge_fits
from services.segmentation.sampling import Positions

__all__ = ["guided_fits", "guided_plane"]


def guided_fits(
    guide: NDArray[np.float32], masks: NDArray[np.float32], radius: int, epsilon: float
) -> NDArray[np.float32]:
    """Coefficients of the filter: (labels, 4, h, w), slopes for R, G, B and a constant, float32.

    Args:
        guide: (h, w, 3), RGB 0..1.
        masks: (labels, h, w), 0..1.
        radius: half window in pixels of this size: how far a border is moved at most.
        epsilon: variance of the guide, in squares of 0..1, below which nothing counts as an edge.

    The filter is linear: where masks sum to 1, the slopes sum to 0 and the constants to 1.
    """
    I = np.ascontiguousarray(guide.transpose(2, 0, 1))
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    mean_I = box_mean(I, radius)
    mean_II = box_mean(np.stack([I[i] * I[j] for i, j in pairs]), radius)
    fits = np.empty((len(masks), 4, *I.shape[1:]), np.float32)
    for label, mask in enumerate(masks):
        means = box_mean(np.concatenate([mask[None], I * mask]), radius)
        fits[label] = box_mean(ridge_fits(mean_I, mean_II, means[0], means[1:], epsilon), radius)
    return fits


def guided_plane(
    fits: NDArray[np.float32], guide: NDArray[np.float32], rows: Positions, columns: Positions
) -> NDArray[np.float32]:
    """Evaluate one label's fits, (4, h, w), on a guide of any size, (H, W, 3): (H, W), cut to 0..1.

    ``rows`` and ``columns`` are where the guide's pixels lie in the fits.
    """
    plane: NDArray[np.float32] = affine_plane(
        fits, guide, rows.lower, rows.upper, rows.share, columns.lower, columns.upper, columns.share
    )
    return plane

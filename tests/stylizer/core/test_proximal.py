"""The proximal step: linear, symmetric, as near to the exact inverse as Chebyshev says, blind to affine maps."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import eigsh, splu
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.matting import LARGEST_EIGENVALUE, MattingLaplacian, assembled_laplacian, smoothed

HEIGHT, WIDTH = 18, 23


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(seed: int) -> Tensor:
    return functional.interpolate(noise(seed, 4, 5)[None], size=(HEIGHT, WIDTH), mode="bilinear")[0]


def grainy(seed: int) -> Tensor:
    return (smooth(seed) + 0.02 * (noise(seed + 50) - 0.5)).clamp(0, 1)


def flat(seed: int) -> Tensor:
    return torch.full((3, HEIGHT, WIDTH), seed / 10, dtype=torch.float64)


GUIDES = [noise, smooth, grainy, flat]
LAPLACIAN = MattingLaplacian(grainy(1))


def test_is_linear() -> None:
    x, y = noise(2), noise(3)
    whole = LAPLACIAN.chebyshev_smooth(0.7 * x - 2 * y, 3.0, 8)
    parts = 0.7 * LAPLACIAN.chebyshev_smooth(x, 3.0, 8) - 2 * LAPLACIAN.chebyshev_smooth(y, 3.0, 8)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_is_symmetric(steps: int) -> None:
    x, y = noise(2), noise(3)
    one = (x * LAPLACIAN.chebyshev_smooth(y, 3.0, steps)).sum()
    other = (LAPLACIAN.chebyshev_smooth(x, 3.0, steps) * y).sum()
    assert float(one) == pytest.approx(float(other), rel=1e-12)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize(("mu", "steps"), [(1.0, 4), (3.0, 1), (3.0, 8), (3.0, 30), (10.0, 8)])
def test_comes_as_near_to_the_exact_inverse_as_the_bound_says(
    guide: Callable[[int], Tensor], mu: float, steps: int
) -> None:
    """In the norm of 1 + μM at most 1/T_n(centre/radius) of the first error is left (Saad 2003, theorem 6.25)."""
    I = guide(1)
    matrix = sparse.csc_array(sparse.eye_array(HEIGHT * WIDTH) + mu * assembled_laplacian(I.permute(1, 2, 0).numpy()))
    laplacian, inverse = MattingLaplacian(I), splu(matrix)
    for T in (noise(7), smooth(8)):
        start = T.flatten(1).T.numpy()
        exact = inverse.solve(start)
        found = laplacian.chebyshev_smooth(T, mu, steps).flatten(1).T.numpy()

        def norm(x: np.ndarray) -> float:
            return math.sqrt(float((x * (matrix @ x)).sum()))

        ratio = (2 + LARGEST_EIGENVALUE * mu) / (LARGEST_EIGENVALUE * mu)
        left = 1 / math.cosh(steps * math.acosh(ratio))
        assert norm(found - exact) <= left * norm(start - exact) + 1e-6 * norm(exact)


def test_as_the_solve_uses_it_it_is_within_four_percent() -> None:
    I, T = grainy(1), noise(7)
    matrix = sparse.csc_array(sparse.eye_array(HEIGHT * WIDTH) + 3 * assembled_laplacian(I.permute(1, 2, 0).numpy()))
    exact = splu(matrix).solve(T.flatten(1).T.numpy())
    found = MattingLaplacian(I).chebyshev_smooth(T, 3.0, 8).flatten(1).T.numpy()
    assert np.linalg.norm(found - exact) < 0.04 * np.linalg.norm(exact)
    assert np.linalg.norm(exact - T.flatten(1).T.numpy()) > 0.3 * np.linalg.norm(exact)  # which is no small step


@pytest.mark.parametrize("guide", GUIDES)
def test_affine_functions_of_the_guide_stay_as_they_are(guide: Callable[[int], Tensor]) -> None:
    I = guide(1)
    A = torch.tensor([[0.9, 0.2, 0.0], [0.1, 1.1, -0.2], [0.0, 0.3, 0.7]], dtype=torch.float64)
    T = torch.einsum("ij,jhw->ihw", A, I) + 0.1
    torch.testing.assert_close(MattingLaplacian(I).chebyshev_smooth(T, 3.0, 8), T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_eigenvalue_exceeds_the_bound(guide: Callable[[int], Tensor], seed: int) -> None:
    matrix = assembled_laplacian(guide(seed).permute(1, 2, 0).numpy())
    largest = float(eigsh(matrix, 1, which="LA", return_eigenvectors=False, v0=np.ones(matrix.shape[0]) + 0.1)[0])
    assert 8 < largest <= LARGEST_EIGENVALUE * (1 + 1e-9)


def test_gradient() -> None:
    laplacian, T = MattingLaplacian(noise(1, 5, 4)), noise(2, 5, 4).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: smoothed(x, laplacian, 3.0, 8), (T,))


def test_float32_goes_in_and_comes_out() -> None:
    T = noise(2)
    O = smoothed(T.float(), LAPLACIAN, 3.0, 8)
    assert O.dtype == torch.float32
    torch.testing.assert_close(O.double(), LAPLACIAN.chebyshev_smooth(T, 3.0, 8), rtol=0, atol=1e-5)


def test_a_step_of_size_zero_changes_nothing() -> None:
    assert torch.equal(smoothed(noise(2), LAPLACIAN, 0.0, 8), noise(2))

"""Conjugate gradients of the proximal step; the Chebyshev polynomial is in ``test_proximal.py``."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from services.stylizer.core.matting import MattingLaplacian, assembled_laplacian, smoothed

HEIGHT, WIDTH = 14, 19


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)


I, T = noise(0), noise(1)
LAPLACIAN = MattingLaplacian(I)


def exact(mu: float) -> Tensor:
    matrix = sparse.eye_array(HEIGHT * WIDTH) + mu * assembled_laplacian(I.permute(1, 2, 0).numpy())
    solution = splu(sparse.csc_array(matrix)).solve(T.flatten(1).T.numpy())
    return torch.from_numpy(np.ascontiguousarray(solution.T)).view_as(T)


def errors(x: Tensor, mu: float) -> Tensor:
    """Squared error of each channel in the norm of 1 + μM, which conjugate gradients make as small as they can."""
    e = x - exact(mu)
    return (e * (e + mu * LAPLACIAN.apply(e))).sum(dim=(1, 2))


@pytest.mark.parametrize("mu", [0.1, 1.0, 30.0, 1e4])
def test_solves_the_system(mu: float) -> None:
    found = LAPLACIAN.smooth(T, mu, 600)
    torch.testing.assert_close(found, exact(mu), rtol=0, atol=1e-9)
    assert float((found - T).abs().max()) > 0.03


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
@pytest.mark.parametrize("mu", [1.0, 30.0])
def test_no_polynomial_of_the_same_degree_does_better(mu: float, steps: int) -> None:
    by_gradients = errors(LAPLACIAN.smooth(T, mu, steps), mu)
    by_chebyshev = errors(LAPLACIAN.chebyshev_smooth(T, mu, steps), mu)
    assert bool((by_gradients <= by_chebyshev * (1 + 1e-9)).all())
    assert bool((by_gradients < errors(T, mu)).all())


def test_both_iterations_lower_the_energy() -> None:
    before = float(LAPLACIAN.energy(T)[0])
    for found in (LAPLACIAN.smooth(T, 10.0, 12), LAPLACIAN.chebyshev_smooth(T, 10.0, 12)):
        assert float(LAPLACIAN.energy(found)[0]) < 0.02 * before


def test_what_has_arrived_stays() -> None:
    constant = torch.full_like(T, 0.25)
    constant[1] = 0.0  # whose first residual is 0, not rounding
    torch.testing.assert_close(LAPLACIAN.smooth(constant, 30.0, 5), constant, rtol=0, atol=1e-13)
    torch.testing.assert_close(LAPLACIAN.smooth(T, 0.5, 2000), exact(0.5), rtol=0, atol=1e-12)  # no 0 / 0 on the way
    assert torch.equal(LAPLACIAN.smooth(T, 0.0, 3), T)


def test_channels_are_systems_of_their_own() -> None:
    together = LAPLACIAN.smooth(T, 3.0, 6)
    for c in range(3):
        assert torch.equal(LAPLACIAN.smooth(T[c : c + 1], 3.0, 6)[0], together[c])


def test_float32_goes_in_and_comes_out() -> None:
    found = LAPLACIAN.smooth(T.float(), 3.0, 12)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), LAPLACIAN.smooth(T.float().double(), 3.0, 12), rtol=0, atol=1e-7)


def test_polynomial_is_differentiable_twice() -> None:
    x = T.clone().requires_grad_(True)
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(lambda v: smoothed(v, LAPLACIAN, 3.0, 4), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda v: smoothed(v, LAPLACIAN, 3.0, 4).square(), (x,), fast_mode=True)


@pytest.mark.parametrize("name", ["smooth", "chebyshev_smooth"])
@pytest.mark.parametrize(
    ("mu", "steps", "message"), [(-1.0, 3, "mu: -1.0"), (float("inf"), 3, "mu: inf"), (1.0, 0, "steps: 0")]
)
def test_refuses(name: str, mu: float, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(LAPLACIAN, name)(T, mu, steps)

"""The matting Laplacian: closed forms, the assembled matrix, pymatting as oracle, gradients."""

import warnings

import numpy as np
import pytest
import torch

from services.stylizer.core.matting import MattingLaplacian, assembled_laplacian, matting_energy
from services.stylizer.core.quality import affine_energy_map


def random_picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (3, 17), (11, 8), (24, 31)])
def test_matrix_free_equals_assembled(height: int, width: int) -> None:
    for seed in range(3):
        I, x = random_picture(height, width, seed), random_picture(height, width, seed + 10)
        product = MattingLaplacian(I).apply(x)
        matrix = assembled_laplacian(I.permute(1, 2, 0).numpy())
        expected = (matrix @ x.flatten(1).T.numpy()).T.reshape(x.shape)
        np.testing.assert_allclose(product.numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.timeout(900)  # pymatting compiles itself on first use: 48 s on two idle cores
@pytest.mark.slow
def test_assembled_equals_pymatting() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its compiler says is not ours to mend
        from pymatting import cf_laplacian
    I = random_picture(12, 9).permute(1, 2, 0).numpy()
    ours, theirs = assembled_laplacian(I, 1e-3), cf_laplacian(I, epsilon=1e-3)
    np.testing.assert_allclose(ours.toarray(), theirs.toarray(), rtol=0, atol=1e-9)


def test_flat_guide_stays_exact() -> None:
    I = torch.full((3, 9, 9), 0.5, dtype=torch.float64)
    x = random_picture(9, 9)
    expected = assembled_laplacian(I.permute(1, 2, 0).numpy()) @ x.flatten(1).T.numpy()
    np.testing.assert_allclose(MattingLaplacian(I).apply(x).flatten(1).T.numpy(), expected, atol=1e-9)


def test_affine_maps_cost_almost_nothing_and_constants_nothing() -> None:
    I = random_picture(20, 20)
    laplacian = MattingLaplacian(I)
    A = torch.tensor([[0.9, 0.2, 0], [0.1, 1.1, -0.2], [0, 0.3, 0.7]], dtype=torch.float64)
    affine = torch.einsum("ij,jhw->ihw", A, I) + 0.1
    assert float(matting_energy(affine, laplacian)) < 1e-4  # the ridge ε |a|² is what is left
    assert float(matting_energy(torch.ones_like(I), laplacian)) == pytest.approx(0, abs=1e-9)
    assert float(matting_energy(random_picture(20, 20, 5), laplacian)) > 1


def test_is_symmetric_and_positive() -> None:
    laplacian = MattingLaplacian(random_picture(10, 12))
    x, y = random_picture(10, 12, 1), random_picture(10, 12, 2)
    assert float((x * laplacian.apply(y)).sum()) == pytest.approx(float((y * laplacian.apply(x)).sum()), abs=1e-9)
    assert float(matting_energy(x - 0.5, laplacian)) >= 0


def test_gradient() -> None:
    laplacian = MattingLaplacian(random_picture(6, 5))
    x = random_picture(6, 5, 1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: matting_energy(v, laplacian), (x,))


def test_energy_map_sums_to_the_energy() -> None:
    I, x = random_picture(15, 13), random_picture(15, 13, 3)
    laplacian = MattingLaplacian(I)
    assert float(affine_energy_map(x, laplacian, I).sum()) == pytest.approx(
        float(matting_energy(x, laplacian)), rel=1e-9
    )

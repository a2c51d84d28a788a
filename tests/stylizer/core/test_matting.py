"""The matting Laplacian: closed forms, the assembled matrix, pymatting as oracle, gradients, bits."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from services.stylizer.core.matting import MattingLaplacian, assembled_laplacian, matting_energy
from services.stylizer.core.quality import affine_energy_map
from tests.benchmarks.card.evaluation import Moved

TILE_BORDERS = [(3, 119), (4, 120), (5, 121), (20, 122), (7, 123), (6, 239), (3, 243)]
"""Widths about those at which the compiled loops begin another tile."""


def random_picture(height: int, width: int, seed: int = 0, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(channels, height, width, generator=generator, dtype=torch.float64)


def by_matrix(I: Tensor, x: Tensor) -> Tensor:
    product = assembled_laplacian(I.permute(1, 2, 0).numpy()) @ x.flatten(1).T.numpy()
    return torch.from_numpy(np.ascontiguousarray(product.T)).view_as(x)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (3, 17), (17, 3), (11, 8), (24, 31), *TILE_BORDERS])
def test_matrix_free_equals_assembled(height: int, width: int) -> None:
    for seed in range(2):
        I, x = random_picture(height, width, seed), random_picture(height, width, seed + 10)
        torch.testing.assert_close(MattingLaplacian(I).apply(x), by_matrix(I, x), rtol=0, atol=1e-9)


@pytest.mark.timeout(900)  # pymatting compiles itself on first use: 48 s on two idle cores
@pytest.mark.slow
def test_assembled_equals_pymatting() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its compiler says is not ours to mend
        from pymatting import cf_laplacian
    I = random_picture(12, 9).permute(1, 2, 0).numpy()
    ours, theirs = assembled_laplacian(I, 1e-3), cf_laplacian(I, epsilon=1e-3)
    np.testing.assert_allclose(ours.toarray(), theirs.toarray(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("height", "width"), TILE_BORDERS)
def test_compiled_loops_equal_torch_expressions(height: int, width: int) -> None:
    I, x = random_picture(height, width), random_picture(height, width, 1)
    laplacian = MattingLaplacian(I)
    torch.testing.assert_close(laplacian.apply(x), laplacian.apply_unfused(x), rtol=0, atol=1e-12)


def test_flat_guide_stays_exact() -> None:
    I = torch.full((3, 9, 9), 0.5, dtype=torch.float64)
    x = random_picture(9, 9)
    torch.testing.assert_close(MattingLaplacian(I).apply(x), by_matrix(I, x), rtol=0, atol=1e-9)


def test_is_a_symmetric_matrix_with_eigenvalues_from_0_to_9() -> None:
    height, width = 6, 7
    laplacian = MattingLaplacian(random_picture(height, width))
    unit = torch.eye(height * width, dtype=torch.float64).view(-1, height, width)
    M = laplacian.apply(unit).flatten(1)
    torch.testing.assert_close(M, M.T, rtol=0, atol=1e-13)
    eigenvalues = torch.linalg.eigvalsh(M)
    assert float(eigenvalues[0]) > -1e-12
    assert 7 < float(eigenvalues[-1]) <= 9


def test_constants_cost_nothing_and_affine_maps_no_more_than_the_ridge() -> None:
    I, epsilon = random_picture(20, 20), 1e-5
    laplacian = MattingLaplacian(I, epsilon)
    A = torch.tensor([[0.9, 0.2, 0], [0.1, 1.1, -0.2], [0, 0.3, 0.7]], dtype=torch.float64)
    affine = torch.einsum("ij,jhw->ihw", A, I) + 0.1
    windows = 18 * 18
    assert 0 < float(matting_energy(affine, laplacian)) <= windows * epsilon * float(A.square().sum())
    torch.testing.assert_close(laplacian.apply(torch.ones_like(I)), torch.zeros_like(I), rtol=0, atol=1e-13)
    assert float(matting_energy(random_picture(20, 20, 5), laplacian)) > 1


def test_energy_is_half_its_gradient_times_x() -> None:
    laplacian, x = MattingLaplacian(random_picture(10, 130)), random_picture(10, 130, 1)
    energy, gradient = laplacian.energy(x)
    torch.testing.assert_close(gradient, 2 * laplacian.apply(x), rtol=1e-14, atol=1e-14)
    assert float(energy) == pytest.approx(float((x * gradient).sum() / 2), rel=1e-12)


def test_energy_of_float32_pictures_is_that_of_their_values() -> None:
    """At ε = 1e-7, on a guide as smooth as a sky, where windows are all but singular."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 60), torch.linspace(0, 1, 130), indexing="ij")
    I = torch.stack([0.3 + 0.1 * x, 0.5 + 0.1 * x + 0.05 * y, 0.8 - 0.1 * y])
    I = I + 1e-3 * (random_picture(60, 130) - 0.5).float()
    O = I.square() + 1e-3 * random_picture(60, 130, 1).float()
    energy, gradient = MattingLaplacian(I).energy(O)
    reference = MattingLaplacian(I.double())
    expected = float((O.double() * reference.apply_unfused(O.double())).sum())
    assert energy.dtype == torch.float64
    assert gradient.dtype == torch.float32
    assert float(energy) == pytest.approx(expected, rel=1e-9)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype, threads: None) -> None:
    I, x = random_picture(150, 140).to(dtype), random_picture(150, 140, 1).to(dtype)
    found = []
    for number in (1, 1, 2, 3, 5):
        torch.set_num_threads(number)
        laplacian = MattingLaplacian(I)
        found.append((laplacian.apply(x), *laplacian.energy(x), laplacian.chebyshev_smooth(x, 3.0, 4)))
        found[-1] += (laplacian.smooth(x, 3.0, 4),)
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))


def test_keeps_the_guide_only_and_for_fits_seventeen_numbers_a_pixel() -> None:
    laplacian, x = MattingLaplacian(random_picture(30, 40)), random_picture(30, 40, 1)
    laplacian.energy(laplacian.smooth(laplacian.chebyshev_smooth(laplacian.apply(x), 3.0, 2), 3.0, 2))
    kept = [value for value in vars(laplacian).values() if isinstance(value, Tensor)]
    assert sum(value.numel() for value in kept) == 3 * 30 * 40
    laplacian.fit(x)
    kept = [value for value in vars(laplacian).values() if isinstance(value, Tensor)]
    assert sum(value.numel() for value in kept) <= (3 + 17) * 30 * 40


def test_a_product_without_compiled_loops_is_few_operators() -> None:
    """On a card each of them is a launch, and a solve makes seventeen products an evaluation."""
    laplacian, x = MattingLaplacian(random_picture(30, 40)), random_picture(30, 40, 1)
    laplacian.apply_unfused(x)
    with Moved() as operators:
        laplacian.apply_unfused(x)
    assert operators.count <= 20


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_channels_do_not_know_of_each_other(channels: int) -> None:
    I, x = random_picture(9, 125), random_picture(9, 125, 1, channels)
    laplacian = MattingLaplacian(I)
    alone = [laplacian.apply(x[k : k + 1]) for k in range(channels)]
    assert torch.equal(laplacian.apply(x), torch.cat(alone))
    energies = [laplacian.energy(x[k : k + 1])[0] for k in range(channels)]
    assert float(laplacian.energy(x)[0]) == pytest.approx(float(sum(energies)), rel=1e-12)


def test_arguments_may_be_views_and_stay_as_they_are() -> None:
    storage, other = random_picture(12, 10).permute(1, 2, 0).contiguous(), random_picture(12, 10, 1)
    I, x = storage.permute(2, 0, 1), other.transpose(1, 2).contiguous().transpose(1, 2)
    expected = MattingLaplacian(I.contiguous()).apply(other)
    laplacian = MattingLaplacian(I)
    storage.zero_()  # the guide is the laplacian's own
    assert torch.equal(laplacian.apply(x), expected)
    assert torch.equal(laplacian.apply(x.half()).double(), laplacian.apply(x.half().float()).half().double())
    laplacian.chebyshev_smooth(x, 3.0, 3)
    laplacian.smooth(x, 3.0, 3)
    assert torch.equal(x, other)


class Elsewhere(Tensor):
    """A tensor that says it is on another device, as far as the choice of arithmetic goes."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("meta")


def test_other_devices_compute_the_same() -> None:
    I, x = random_picture(9, 125), random_picture(9, 125, 1)
    laplacian, there = MattingLaplacian(I), x.as_subclass(Elsewhere)

    def equal(found: Tensor, expected: Tensor) -> None:
        assert isinstance(found, Elsewhere)
        torch.testing.assert_close(found.as_subclass(Tensor), expected, rtol=1e-9, atol=1e-9)

    equal(laplacian.apply(there), laplacian.apply(x))
    for found, expected in zip(laplacian.energy(there), laplacian.energy(x), strict=True):
        equal(found, expected)
    equal(laplacian.chebyshev_smooth(there, 3.0, 6), laplacian.chebyshev_smooth(x, 3.0, 6))
    equal(laplacian.smooth(there, 3.0, 6), laplacian.smooth(x, 3.0, 6))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_computes_the_same() -> None:
    I, x = random_picture(40, 125), random_picture(40, 125, 1)
    here, there = MattingLaplacian(I), MattingLaplacian(I.cuda())
    torch.testing.assert_close(there.apply(x.cuda()).cpu(), here.apply(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(there.energy(x.cuda())[0].cpu(), here.energy(x)[0])
    for name in ("chebyshev_smooth", "smooth"):
        found = getattr(there, name)(x.cuda(), 3.0, 6).cpu()
        torch.testing.assert_close(found, getattr(here, name)(x, 3.0, 6), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "epsilon", "message"),
    [
        ((3, 2, 9), 1e-7, r"I: shape \(3, 2, 9\)"),
        ((1, 9, 9), 1e-7, r"I: shape \(1, 9, 9\)"),
        ((3, 9), 1e-7, r"I: shape \(3, 9\)"),
        ((3, 9, 9), 0.0, "epsilon: 0.0"),
        ((3, 9, 9), float("nan"), "epsilon: nan"),
    ],
)
def test_refuses_what_is_no_guide(shape: tuple[int, ...], epsilon: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MattingLaplacian(torch.zeros(shape), epsilon)


@pytest.mark.parametrize("shape", [(3, 9, 8), (3, 8, 9), (9, 9)])
def test_refuses_pictures_of_another_size(shape: tuple[int, ...]) -> None:
    laplacian = MattingLaplacian(torch.zeros(3, 9, 9))
    with pytest.raises(ValueError, match="x: shape"):
        laplacian.apply(torch.zeros(shape))

"""The guided filter: constants stay, the guide passes through itself, equals a brute-force one."""

import numpy as np
import torch

from services.stylizer.core.guided_filter import guided_coefficients


def filtered(I: torch.Tensor, p: torch.Tensor, radius: int, epsilon: float) -> torch.Tensor:
    coefficients = guided_coefficients(I, p, radius, epsilon)
    return (coefficients[:, :3] * I[None]).sum(dim=1) + coefficients[:, 3]


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_constant_mask_stays_constant() -> None:
    torch.testing.assert_close(
        filtered(rand(3, 20, 24), torch.ones(1, 20, 24), 3, 1e-4), torch.ones(1, 20, 24).double()
    )


def test_masks_that_sum_to_one_still_do() -> None:
    p = rand(2, 20, 24, seed=1)
    p = p / p.sum(dim=0)
    total = filtered(rand(3, 20, 24), p, 3, 1e-4).sum(dim=0)
    torch.testing.assert_close(total, torch.ones(20, 24, dtype=torch.float64))


def test_a_channel_of_the_guide_passes_through() -> None:
    I = rand(3, 20, 24)
    torch.testing.assert_close(filtered(I, I[1:2], 3, 1e-9)[0], I[1], atol=1e-5, rtol=0)


def test_equals_brute_force() -> None:
    I, p, radius, epsilon = rand(3, 9, 8), rand(1, 9, 8, seed=1), 2, 1e-3
    guide, mask = I.permute(1, 2, 0).numpy(), p[0].numpy()
    a, b = np.zeros((9, 8, 3)), np.zeros((9, 8))

    def window(y: int, x: int) -> tuple[slice, slice]:
        return slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)

    for y in range(9):
        for x in range(8):
            colours, values = guide[window(y, x)].reshape(-1, 3), mask[window(y, x)].ravel()
            cov = np.cov(colours.T, bias=True) + epsilon * np.eye(3)
            a[y, x] = np.linalg.solve(cov, (colours * values[:, None]).mean(0) - colours.mean(0) * values.mean())
            b[y, x] = values.mean() - a[y, x] @ colours.mean(0)
    expected = np.array(
        [
            [a[window(y, x)].reshape(-1, 3).mean(0) @ guide[y, x] + b[window(y, x)].mean() for x in range(8)]
            for y in range(9)
        ]
    )
    np.testing.assert_allclose(filtered(I, p, radius, epsilon)[0].numpy(), expected, atol=1e-9)

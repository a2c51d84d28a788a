"""Monge-Kantorovich transfer: the goal's statistics are reached, equal photos stay, flat regions stay finite."""

import torch

from services.stylizer.core.warm_start import colour_statistics, monge_kantorovich


def colours(seed: int, n: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.rand(3, 3, generator=generator, dtype=torch.float64) * 0.2
    return 0.5 + mix @ torch.randn(3, n, generator=generator, dtype=torch.float64) * 0.5


def test_reaches_mean_and_covariance() -> None:
    content, style = colours(1), colours(2)
    w = torch.ones(content.shape[1])
    A, b = monge_kantorovich(colour_statistics(content, w), colour_statistics(style, w), ridge=0.0)
    mean, cov = colour_statistics(A @ content + b[:, None], w)
    wanted_mean, wanted_cov = colour_statistics(style, w)
    torch.testing.assert_close(mean, wanted_mean)
    torch.testing.assert_close(cov, wanted_cov)
    torch.testing.assert_close(A, A.T)
    assert torch.linalg.eigvalsh(A).min() > 0


def test_same_statistics_give_the_identity() -> None:
    statistics = colour_statistics(colours(1), torch.ones(4000))
    A, b = monge_kantorovich(statistics, statistics)
    torch.testing.assert_close(A, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(b, torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_flat_region_is_not_amplified_without_bound() -> None:
    flat = torch.full((3, 100), 0.4)
    A, b = monge_kantorovich(colour_statistics(flat, torch.ones(100)), colour_statistics(colours(2), torch.ones(4000)))
    assert torch.isfinite(A).all()
    assert torch.isfinite(b).all()
    assert A.abs().max() < 1 / 1e-4**0.5


def test_weights_choose_the_pixels() -> None:
    x = torch.cat([colours(1, 10), colours(2, 10)], dim=1)
    w = torch.cat([torch.ones(10), torch.zeros(10)])
    torch.testing.assert_close(colour_statistics(x, w), colour_statistics(x[:, :10], torch.ones(10)))

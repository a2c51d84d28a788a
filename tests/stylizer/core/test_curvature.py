"""Curvature carried from one size of a solve to the next, and into a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from services.stylizer.core.curvature import Pair, Path, alike, compact, preload, reduced
from services.stylizer.core.variables import resized


def bowl(size: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A quadratic in the picture whose axes differ in curvature by 1000; a mean over pixels, like the objective."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 4, 4, generator=generator)
    goal = resized(coarse, (size, size))
    weights = 1 + 999 * resized(coarse.flip(0), (size, size))
    return lambda x: (weights * (x - goal).square()).mean(), goal


def descend(
    size: int, start: Tensor, evaluations: int, pairs: Sequence[Pair], unit: float = 1.0
) -> tuple[Path, list[float]]:
    value, _ = bowl(size)
    z = torch.zeros_like(start).requires_grad_(True)
    new = Path(10)
    values: list[float] = []

    def closure() -> Tensor:
        z.grad = None
        x = start + unit * z
        total = value(x)
        total.backward()
        assert z.grad is not None
        reached = float(total.detach())
        if not values or reached < min(values):
            new.add(x.detach(), z.grad / unit)
        values.append(reached)
        return total.detach()

    optimiser = torch.optim.LBFGS(
        [z],
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=10,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    preload(optimiser, z, unit, alike(pairs, z))
    optimiser.step(closure)
    return new, values


@pytest.mark.parametrize("unit", [1.0, 50.0])
def test_a_finer_size_descends_faster_with_what_the_coarser_one_learnt(unit: float) -> None:
    path, _ = descend(16, torch.zeros(3, 16, 16), 12, ())
    start = torch.zeros(3, 32, 32)
    _, alone = descend(32, start, 6, (), unit)
    _, carried = descend(32, start, 6, path.pairs, unit)
    assert carried[0] == alone[0]
    assert carried[1] < carried[0] / 2  # no step is spent on finding a scale
    assert min(carried) < min(alone) / 2


def test_pairs_are_steps_and_changes_of_the_gradient_at_the_new_size() -> None:
    """On a quadratic of equal curvature everywhere, y is that curvature times s, at every size."""
    path = Path(3)
    for level in (0.0, 0.1, 0.4, 1.0, 2.0):
        x = torch.full((3, 8, 8), level)
        path.add(x, 2 * x / x.numel())
    pairs = alike(path.pairs, torch.zeros(3, 16, 12))
    assert len(pairs) == 3
    for (s, y), length in zip(pairs, (0.3, 0.6, 1.0), strict=True):
        assert s.shape == y.shape == (3, 16, 12)
        torch.testing.assert_close(s, torch.full_like(s, length))
        torch.testing.assert_close(y, 2 * s / s.numel())


def test_grids_and_pictures_are_not_mixed() -> None:
    path = Path(3)
    for level in (0.0, 1.0):
        path.add(torch.full((12, 8, 12, 16), level), torch.full((12, 8, 12, 16), level))
    assert alike(path.pairs, torch.zeros(3, 16, 16)) == []
    assert len(alike(path.pairs, torch.zeros(12, 8, 12, 16))) == 1


def test_curvature_that_is_not_positive_is_left_out() -> None:
    path = Path(3)
    path.add(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4))
    path.add(torch.ones(3, 4, 4), -torch.ones(3, 4, 4))
    z = torch.zeros(3, 4, 4).requires_grad_(True)
    optimiser = torch.optim.LBFGS([z])
    preload(optimiser, z, 1.0, path.pairs)
    assert not optimiser.state[z]


def test_reduced_pairs_hold_as_enlarged_ones_do() -> None:
    pair = Pair(torch.rand(3, 64, 48), torch.rand(3, 64, 48))
    small = reduced(pair, 16)
    assert small.step.shape == small.change.shape == (3, 16, 12)
    assert float(small.step.mean()) == pytest.approx(float(pair.step.mean()))
    assert float(small.change.sum()) == pytest.approx(float(pair.change.sum()), rel=1e-5)
    assert reduced(pair, 64) is pair
    on_the_grid = Pair(torch.rand(12, 8, 12, 16), torch.rand(12, 8, 12, 16))
    assert reduced(on_the_grid, 8) is on_the_grid


def test_a_path_of_small_pairs_is_that_of_large_ones_reduced() -> None:
    large, small = Path(4), Path(4, 8)
    for x in torch.rand(7, 3, 16, 16):
        large.add(x, 2 * x)
        small.add(x, 2 * x)
    assert len(small.pairs) == 4
    for one, other in zip(large.pairs, small.pairs, strict=True):
        for expected, found in zip(reduced(one, 8), other, strict=True):
            torch.testing.assert_close(found, expected)


def test_the_last_pairs_are_kept_in_the_shape_of_the_newest() -> None:
    sizes = [(12, 8, 12, 16), (3, 30, 40), (3, 8, 10), (3, 31, 40)]
    pairs = [Pair(torch.full(size, float(k)), torch.ones(size)) for k, size in enumerate(sizes)]
    found = compact(pairs, 3, 20)
    assert [float(pair.step.mean()) for pair in found] == [1.0, 2.0, 3.0]
    assert {pair.step.shape for pair in found} == {(3, 16, 20)}
    assert len(compact(pairs, 4, 20)) == 3  # a grid's are of no use to a picture
    assert len(compact(pairs[:1], 4, 20)) == 1
    assert compact([], 4, 20) == []

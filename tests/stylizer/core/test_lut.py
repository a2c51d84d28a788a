"""Lookup tables: interpolation, fits of known looks, optimality, behaviour without pixels."""

import numpy as np
import pytest
from scipy import sparse
from scipy.ndimage import map_coordinates

from services.stylizer.core import lut
from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.lut import POINTS, apply_lut, fit_lut

A = np.array([[0.7, 0.2, 0.0], [0.1, 0.6, 0.1], [-0.1, 0.1, 0.8]])
B = np.array([0.05, 0.1, 0.1])


def colours(count: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (count, 3))


def never() -> bool:
    return False


def curved(I: np.ndarray) -> np.ndarray:
    """A smooth look that no affine map is: contrast, and a cast that depends on luma."""
    luma = I @ (0.299, 0.587, 0.114)
    return np.clip(0.1 + 0.8 * I**1.6 + 0.1 * np.sin(3 * luma)[:, None] * (1, 0.2, -0.5), 0, 1)


def test_lookup_is_trilinear_interpolation() -> None:
    table = np.random.default_rng(0).random((17, 17, 17, 3))
    I = np.concatenate([colours(500), [[0, 0, 0], [1, 1, 1], [1, 0, 0.5]]])
    places = 16 * I[:, ::-1].T  # blue, green, red
    expected = np.stack([map_coordinates(table[..., k], places, order=1) for k in range(3)], axis=1)
    np.testing.assert_allclose(apply_lut(table, I), expected, atol=1e-12)
    np.testing.assert_array_equal(apply_lut(table, I * 3 - 1), apply_lut(table, np.clip(I * 3 - 1, 0, 1)))


@pytest.mark.parametrize("points", POINTS[:2])
def test_an_affine_look_is_reproduced_where_there_are_pixels(points: int) -> None:
    I = colours(4000)
    table = fit_lut(I, I @ A.T + B, points, never)
    assert table.shape == (points, points, points, 3)
    unseen = colours(1000, seed=1, low=0.05, high=0.95)
    np.testing.assert_allclose(apply_lut(table, unseen), unseen @ A.T + B, atol=2e-3)


@pytest.mark.parametrize("points", POINTS[:2])
def test_a_curved_look_is_followed_beyond_the_pixels_it_was_fitted_to(points: int) -> None:
    I, unseen = colours(30_000), colours(2000, seed=1, low=0.05, high=0.95)
    table = fit_lut(I, curved(I), points, never)
    np.testing.assert_allclose(apply_lut(table, unseen), curved(unseen), atol=0.003)


def test_is_the_minimum_of_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the objective, built from the formula with other means, vanishes."""
    monkeypatch.setattr(lut, "_TOLERANCE", 1e-9)
    n, h = 17, 1 / 16
    I = colours(1000, low=0.2, high=0.7)
    O = 0.3 + 0.4 * curved(I)  # so that no entry of the table is clipped
    X, Y = I - I.mean(axis=0), O - O.mean(axis=0)
    ridge = 1e-3 * np.eye(3)
    affine = np.linalg.solve(np.cov(X.T, bias=True) + ridge, X.T @ Y / len(I) + ridge).T
    offset = O.mean(axis=0) - affine @ I.mean(axis=0)

    lattice = sparse.lil_array((len(I), n**3))
    for row, colour in enumerate(I * 16):
        r, g, b = np.floor(colour).astype(int)
        u, v, w = colour - (r, g, b)
        for i, j, k in np.ndindex(2, 2, 2):
            weight = (u if i else 1 - u) * (v if j else 1 - v) * (w if k else 1 - w)
            lattice[row, (b + k) * n * n + (g + j) * n + r + i] = weight
    D, one = sparse.csr_array(np.diff(np.eye(n), 2, axis=0)), sparse.eye_array(n)
    bends = [sparse.kron(sparse.kron(x, y), z) for x, y, z in ((D, one, one), (one, D, one), (one, one, D))]
    s = 1e-5
    rows = [lattice * len(I) ** -0.5, *(bend * (s / h) ** 0.5 for bend in bends)]
    rows.append(sparse.eye_array(n**3) * (s / 0.25**4 * h**3) ** 0.5)
    stacked = sparse.csr_array(sparse.vstack(rows))
    axis = np.arange(n) / 16
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")[::-1], axis=-1).reshape(-1, 3)
    right = np.zeros((stacked.shape[0], 3))
    right[: len(I)] = (O - I @ affine.T - offset) * len(I) ** -0.5
    table = fit_lut(I, O, n, never)
    assert table.min() > 0
    assert table.max() < 1
    R = table.reshape(-1, 3) - (nodes @ affine.T + offset)
    gradient = stacked.T @ (stacked @ R - right)
    assert np.linalg.norm(gradient) < 1e-7 * np.linalg.norm(stacked.T @ right)


def test_without_pixels_it_goes_on_as_the_neighbours_do_and_far_away_as_the_whole_set() -> None:
    """Pixels in one half of the cube; there the red channel has a bump that the affine fit does not know."""

    def look(I: np.ndarray) -> np.ndarray:
        bump = 0.2 * np.maximum(I[:, :1] - 0.3, 0) * (1, 0, 0)
        return np.asarray(0.5 * I + 0.2 + bump)

    I = colours(5000) * (0.5, 1, 1)
    table = fit_lut(I, look(I), 17, never)
    near = np.array([[0.56, 0.5, 0.5]])
    far = np.array([[1.0, 0.5, 0.5]])
    coefficients = np.linalg.lstsq(np.column_stack([I, np.ones(len(I))]), look(I), rcond=None)[0]

    def affine(colour: np.ndarray) -> np.ndarray:
        return np.asarray(np.append(colour, 1.0) @ coefficients)

    assert abs(affine(near) - look(near))[0, 0] > 0.015, "the affine fit alone would be wrong here"
    assert abs(apply_lut(table, near) - look(near))[0, 0] < 0.007
    np.testing.assert_allclose(apply_lut(table, far)[0], affine(far), atol=0.03)
    assert abs(affine(far) - look(far))[0, 0] > 0.06, "going straight on would be elsewhere"


@pytest.mark.parametrize("count", [1, 7])
def test_a_single_colour_becomes_a_shift(count: int) -> None:
    I, O = np.full((count, 3), 0.4), np.tile([0.5, 0.3, 0.4], (count, 1))
    table = fit_lut(I, O, 17, never)
    np.testing.assert_allclose(apply_lut(table, I), O, atol=1e-9)
    np.testing.assert_allclose(apply_lut(table, np.array([[0.6, 0.6, 0.6]])), [[0.7, 0.5, 0.6]], atol=1e-9)


def test_values_stay_in_range_and_are_the_same_every_time() -> None:
    I = colours(2000, low=0.3)
    O = np.random.default_rng(2).uniform(-0.5, 1.5, I.shape)  # not a function of colour at all
    table = fit_lut(I, O, 17, never)
    assert table.min() >= 0
    assert table.max() <= 1
    np.testing.assert_array_equal(table, fit_lut(I, O, 17, never))


def test_can_be_stopped_between_iterations() -> None:
    I = colours(2000)
    polls = []

    def on_third() -> bool:
        polls.append(None)
        return len(polls) == 3

    with pytest.raises(SolveCancelled):
        fit_lut(I, curved(I), 65, on_third)
    assert len(polls) == 3

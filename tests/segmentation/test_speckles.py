"""Small pieces join what surrounds them; large ones are left as they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from services.segmentation.refine.speckles import connected_pieces, without_speckles


def test_speckles_take_the_label_that_touches_them_most() -> None:
    indices = np.zeros((20, 20), np.uint8)
    indices[:, 10:] = 4
    indices[3:5, 3:5] = 4  # in 0
    indices[8:11, 9:12] = 7  # on the border, more of it in 4
    expected = np.zeros((20, 20), np.uint8)
    expected[:, 10:] = 4
    expected[8:11, 9] = 4
    np.testing.assert_array_equal(without_speckles(indices, 10), expected)
    np.testing.assert_array_equal(without_speckles(indices, 4), indices)


def test_a_speckle_in_a_speckle_goes_with_it() -> None:
    indices = np.full((30, 30), 2, np.uint8)
    indices[10:16, 10:16] = 5
    indices[12:14, 12:14] = 9
    np.testing.assert_array_equal(without_speckles(indices, 50), np.full((30, 30), 2))


def test_diagonal_neighbours_are_two_pieces() -> None:
    indices = np.zeros((9, 9), np.uint8)
    indices[3, 3] = indices[4, 4] = 1
    assert not without_speckles(indices, 2).any()


@pytest.mark.parametrize("least", [0, 1])
def test_nothing_to_do(least: int) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(without_speckles(indices, least), indices)


def test_a_map_of_nothing_but_speckles_is_left() -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(without_speckles(indices, 5), indices)


@given(st.integers(1, 15), st.integers(1, 15), st.integers(0, 999))
@settings(deadline=None)
def test_pieces_are_those_of_scipy(height: int, width: int, seed: int) -> None:
    indices = np.random.default_rng(seed).integers(0, 3, (height, width), np.uint8)
    pieces, count = connected_pieces(indices)
    expected = np.zeros((height, width), np.intp)
    for value in range(3):
        numbered, _ = label(indices == value)
        expected[numbered > 0] = numbered[numbered > 0] + expected.max()
    assert count == expected.max() == len(np.unique(pieces))
    assert len(set(zip(pieces.ravel().tolist(), expected.ravel().tolist(), strict=True))) == count


@given(st.integers(0, 999), st.integers(2, 30))
@settings(deadline=None)
def test_every_piece_is_large_enough_afterwards(seed: int, least: int) -> None:
    indices = np.random.default_rng(seed).choice(3, (24, 24), p=[0.8, 0.1, 0.1]).astype(np.uint8)
    cleaned = without_speckles(indices, least)
    pieces = [label(cleaned == value)[0] for value in range(3)]
    sizes = np.concatenate([np.bincount(each.ravel())[1:] for each in pieces])
    assert (sizes >= least).all()
    large = label(indices == 0)[0]
    biggest = large == np.bincount(large.ravel())[1:].argmax() + 1
    assert (cleaned[biggest] == 0).all()
    np.testing.assert_array_equal(without_speckles(cleaned, least), cleaned)

"""Looks: round trip, size, masks that sum to one, refusal of what is no look."""

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from services.stylizer.core.errors import LookError
from services.stylizer.core.field import GRID_SHAPE, Window
from services.stylizer.core.look import Look, LookField, label_masks
from services.stylizer.core.results import LOOK_VERSION


def make_look(height: int = 24, width: int = 32) -> Look:
    generator = torch.Generator().manual_seed(0)
    indices = torch.zeros(height, width, dtype=torch.uint8)
    indices[height // 2 :] = 1
    affines = torch.eye(3, 4).repeat(2, 1, 1)
    affines[1, :, 3] = 0.2
    grid = torch.randn(GRID_SHAPE, generator=generator) * 0.05
    return Look(grid, affines, torch.tensor([1.0, 0.5]), indices, ("sky", "water"))


def photo(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


def test_round_trip() -> None:
    look = make_look()
    again = Look.from_bytes(look.to_bytes())
    assert again.names == look.names
    for name in ("grid", "affines", "strengths", "indices"):
        assert torch.equal(getattr(again, name), getattr(look, name))


def test_is_small_at_the_largest_solve_size() -> None:
    assert len(make_look(768, 1024).to_bytes()) < 1_000_000


def test_masks_sum_to_one_at_any_size() -> None:
    field = LookField(make_look(), photo(24, 32))
    for height, width in ((24, 32), (97, 128)):
        masks = field.masks(photo(height, width), Window.whole(height, width))
        torch.testing.assert_close(masks.sum(dim=0), torch.ones(height, width))
        assert float(masks.min()) >= 0


def test_windows_tile_the_picture() -> None:
    field, I = LookField(make_look(), photo(24, 32)), photo(50, 64)
    whole = field(I, Window.whole(50, 64))
    tiles = [field(I[:, top : top + 16], Window(top, min(16, 50 - top), 50, 64)) for top in range(0, 50, 16)]
    torch.testing.assert_close(torch.cat(tiles, dim=1), whole, rtol=0, atol=1e-6)


def test_strength_blends() -> None:
    field, I = LookField(make_look(), photo(24, 32)), photo(24, 32)
    window = Window.whole(24, 32)
    assert torch.equal(field(I, window, 0.0), I)
    half = (field(I, window) + I) / 2
    torch.testing.assert_close(field(I, window, 0.5), half)


def test_label_masks_partition() -> None:
    masks = label_masks(make_look().indices, 2)
    assert torch.equal(masks.sum(dim=0), torch.ones(24, 32))


def test_other_version_is_refused() -> None:
    look = make_look()
    tensors = {name: getattr(look, name).numpy() for name in ("grid", "affines", "strengths", "indices")}
    meta = json.dumps({"version": LOOK_VERSION + 1, "names": ["sky", "water"]}).encode()
    with pytest.raises(LookError, match=r"look\.version: got 2, must be 1"):
        Look.from_bytes(save({**tensors, "meta": np.frombuffer(meta, np.uint8)}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grid", np.full((12, 8, 12, 16), np.nan, np.float32)),
        ("grid", np.zeros((11, 8, 8, 8), np.float32)),
        ("grid", np.zeros((12, 8, 8, 1), np.float32)),
        ("affines", np.zeros((3, 3, 4), np.float32)),
        ("strengths", np.zeros(2, np.float64)),
        ("strengths", np.full(2, 7, np.float32)),
        ("indices", np.full((24, 32), 2, np.uint8)),
        ("indices", np.zeros((0, 0), np.uint8)),
    ],
)
def test_values_no_look_has_are_refused(name: str, value: np.ndarray) -> None:
    look = make_look()
    tensors = {key: getattr(look, key).numpy() for key in ("grid", "affines", "strengths", "indices")}
    meta = json.dumps({"version": LOOK_VERSION, "names": ["sky", "water"]}).encode()
    with pytest.raises(LookError, match=f"look.data.{name}"):
        Look.from_bytes(save({**tensors, name: value, "meta": np.frombuffer(meta, np.uint8)}))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    good = make_look().to_bytes()
    damaged = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, min(len(damaged), 400) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LookError):
        Look.from_bytes(bytes(damaged))

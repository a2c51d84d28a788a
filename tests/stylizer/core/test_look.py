"""Looks as files: round trip, steps of the change, size, refusal of what is no look."""

import contextlib
import dataclasses
import json
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from torch import Tensor

from services.stylizer.core.byte_planes import deflated
from services.stylizer.core.errors import LookError
from services.stylizer.core.field import GRID_SHAPE
from services.stylizer.core.look import MAX_LOOK_BYTES, Look, expanded
from services.stylizer.core.results import LOOK_VERSION

TENSORS = ("grid", "affines", "strengths", "indices", "change")


def noise(height: int, width: int, seed: int = 3) -> Tensor:
    """A change as a solve leaves it at worst: (3, h, w), -1..1."""
    return 2 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


def make_look(height: int = 24, width: int = 32) -> Look:
    indices = torch.zeros(height, width, dtype=torch.uint8)
    indices[height // 2 :] = 1
    affines = torch.eye(3, 4).repeat(2, 1, 1)
    affines[1, :, 3] = 0.2
    grid = torch.randn(GRID_SHAPE, generator=torch.Generator().manual_seed(0)) * 0.05
    nothing = torch.zeros(3, 1, 1, dtype=torch.int8)
    look = Look(grid, affines, torch.tensor([1.0, 0.5]), indices, nothing, 0.0, ("sky", "water"))
    return look.with_change(0.1 * noise(min(height, 24), min(width, 32)))


def remade(look: Look, meta: dict[str, Any] | bytes | None = None, **arrays: Any) -> bytes:
    """The look's file with some of its parts replaced."""
    parts = load(look.to_bytes())
    if isinstance(meta, dict):
        meta = json.dumps(json.loads(parts["meta"].tobytes()) | meta).encode()
    if meta is not None:
        parts["meta"] = np.frombuffer(meta, np.uint8)
    return save({**parts, **{name: np.asarray(array) for name, array in arrays.items()}})


def test_round_trip_loses_nothing() -> None:
    look = make_look()
    again = Look.from_bytes(look.to_bytes())
    assert (again.names, again.scale) == (look.names, look.scale)
    for name in TENSORS:
        assert getattr(again, name).dtype == getattr(look, name).dtype
        assert torch.equal(getattr(again, name), getattr(look, name))
    assert torch.equal(expanded(again), expanded(look))
    assert again.to_bytes() == look.to_bytes()


@pytest.mark.parametrize("size", [1.0, 0.3, 1e-3])
def test_a_change_comes_back_within_half_a_step_which_is_finer_near_zero(size: float) -> None:
    """Level u, not rounded, stands for scale · (u/127)², so half a level off are at most scale · (u + 1/4) / 127²."""
    change = size * noise(24, 32).pow(3)
    look = make_look().with_change(change)
    error, scale = (expanded(look) - change).abs(), float(change.abs().max())
    u = (change.abs() / scale).sqrt() * 127
    assert bool((error <= scale * (u + 0.25) / 127**2 * 1.0001).all())
    assert float(error.max()) < scale / 120
    small = change.abs() < scale / 100
    assert float(error[small].max()) < scale / 1000
    assert float(error.max()) > 0


def test_no_change_stays_none() -> None:
    look = make_look().with_change(torch.zeros(3, 24, 32))
    assert look.scale == 0
    assert not expanded(look).any()
    assert not expanded(Look.from_bytes(look.to_bytes())).any()


def test_changes_of_either_sign_and_the_largest_are_kept() -> None:
    change = torch.zeros(3, 24, 32)
    change[0, 0, 0], change[1, 2, 3] = 0.75, -0.75
    assert torch.equal(expanded(make_look().with_change(change)), change)


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (32, 1024)])
def test_noise_at_the_largest_solve_size_is_reduced_until_it_fits(height: int, width: int) -> None:
    change = noise(height, width)
    look = make_look(height, width).with_change(change)
    data = look.to_bytes()
    assert len(data) <= MAX_LOOK_BYTES
    reduced = look.change.shape[1:] != change.shape[1:]
    assert reduced == (height * width * 3 > MAX_LOOK_BYTES)
    assert len(data) > 0.7 * MAX_LOOK_BYTES or not reduced  # no more than needed
    assert Look.from_bytes(data).change.shape == look.change.shape


def test_a_label_map_of_noise_leaves_no_room_and_is_refused() -> None:
    labels = torch.randint(0, 256, (1024, 1024), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    names = tuple(str(number) for number in range(256))
    many = torch.eye(3, 4).repeat(256, 1, 1)
    look = dataclasses.replace(make_look(), indices=labels, names=names, affines=many, strengths=torch.ones(256))
    with pytest.raises(LookError, match=r"content_labels: got a label map whose look has \d+ bytes, must have at most"):
        look.check_room()
    with pytest.raises(LookError, match="content_labels"):
        look.with_change(noise(64, 64))
    make_look().check_room()


def test_other_version_is_refused() -> None:
    for version in (LOOK_VERSION + 1, LOOK_VERSION - 1):
        with pytest.raises(LookError, match=rf"look\.version: got {version}, must be {LOOK_VERSION}"):
            Look.from_bytes(remade(make_look(), {"version": version}))


def test_more_bytes_than_any_look_has_are_refused_unread() -> None:
    with pytest.raises(LookError, match=rf"look\.data: got {MAX_LOOK_BYTES + 1} bytes, must have at most"):
        Look.from_bytes(bytes(MAX_LOOK_BYTES + 1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grid", np.full((12, 8, 12, 16), np.nan, np.float32)),
        ("grid", np.zeros((11, 8, 8, 8), np.float32)),
        ("grid", np.zeros((12, 8, 8, 1), np.float32)),
        ("grid", np.zeros((12, 8), np.float32)),
        ("affines", np.zeros((3, 3, 4), np.float32)),
        ("affines", np.full((2, 3, 4), np.inf, np.float32)),
        ("strengths", np.zeros(2, np.float64)),
        ("strengths", np.full(2, 7, np.float32)),
        ("indices", deflated(np.full((24, 32), 2, np.uint8))),
        ("indices", deflated(np.zeros((24, 31), np.uint8))),
        ("indices", np.zeros((24, 32), np.uint8)),
        ("change", deflated(np.zeros((3, 24, 33), np.uint8))),
        ("change", np.frombuffer(zlib.compress(bytes(100_000_000)), np.uint8)),
        ("change", np.zeros(0, np.uint8)),
    ],
)
def test_values_no_look_has_are_refused(name: str, value: np.ndarray) -> None:
    with pytest.raises(LookError, match=f"look.data.{name}"):
        Look.from_bytes(remade(make_look(), **{name: value}))


@pytest.mark.parametrize(
    ("meta", "field"),
    [
        ({"scale": -1.0}, "scale"),
        ({"scale": 1.1}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"scale": "0.1"}, "scale"),
        ({"indices": [24, 32, 1]}, "indices"),
        ({"indices": [2, 384]}, "indices"),
        ({"indices": [1025, 1]}, "indices"),
        ({"indices": [0, 0]}, "indices"),
        ({"indices": None}, "indices"),
        ({"change": [3, 24, 1 << 40]}, "change"),
        ({"change": [1, 24, 96]}, "change"),
        ({"change": [3.0, 24, 32]}, "change"),
        ({"names": []}, "names"),
        ({"names": "ab"}, "names"),
        ({"names": ["sky", "half \ud800"]}, "names"),
        ({"names": ["sky", 7]}, "names"),
        ({"names": ["label"] * 257}, "names"),
    ],
)
def test_meta_no_look_has_is_refused(meta: dict[str, Any], field: str) -> None:
    with pytest.raises(LookError, match=rf"look\.data\.{field}: got "):
        Look.from_bytes(remade(make_look(), meta))


@pytest.mark.parametrize(
    "meta", [b"", b"[]", b"7", b'"text"', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"version": 2}', b'{"version": 1e999}']
)
def test_meta_that_is_none_is_no_look(meta: bytes) -> None:
    with pytest.raises(LookError, match=r"look\.data: got bytes that are not a look"):
        Look.from_bytes(remade(make_look(), meta))


def test_labels_may_be_called_anything() -> None:
    look = dataclasses.replace(make_look(), names=("天空", "line\nbreak \U0001f468\u200d\U0001f680"))
    assert Look.from_bytes(look.to_bytes()).names == look.names


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    good = make_look(8, 9).to_bytes()
    damaged = bytearray(good[: data.draw(st.integers(0, len(good)))])
    anywhere = st.one_of(st.integers(0, 400), st.integers(-900, -1))  # the header; indices, change and meta at the end
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(anywhere)
        if -len(damaged) <= position < len(damaged):
            damaged[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LookError):
        look = Look.from_bytes(bytes(damaged))
        assert bool(torch.isfinite(expanded(look)).all())

"""Checkpoints as bytes: there and back, and everything that is none."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from services.stylizer.core.checkpoint import MAX_CHECKPOINT_BYTES, PAIRS, PAIRS_EDGE_PX, Checkpoint
from services.stylizer.core.curvature import Pair
from services.stylizer.core.errors import CheckpointError
from services.stylizer.core.field import GRID_SHAPE
from services.stylizer.core.results import Losses

CPU = torch.device("cpu")
KEPT = Checkpoint(
    key="abc",
    level=1,
    done=3,
    evaluations=11,
    spent=11 * 256**2,
    elapsed_seconds=2.5,
    first=Losses(3.0, 1.0, 1.0, 1.0, 0.0, 0.0),
    best=Losses(2.0, 0.5, 0.5, 1.0, 0.0, 0.0, 0.25),
    grid=torch.rand(GRID_SHAPE),
    change=torch.rand(3, 12, 16) - 0.5,
    pairs=[Pair(0.01 * torch.randn(3, 6, 8), 1e-9 * torch.randn(3, 6, 8)) for _ in range(PAIRS)],
)


def changed(**meta: object) -> bytes:
    arrays = load(KEPT.to_bytes())
    table = json.loads(arrays["meta"].tobytes()) | meta
    return save({**arrays, "meta": np.frombuffer(json.dumps(table).encode(), np.uint8)})


def with_arrays(**arrays: np.ndarray) -> bytes:
    return save(load(KEPT.to_bytes()) | arrays)


def test_there_and_back() -> None:
    back = Checkpoint.from_bytes(KEPT.to_bytes(), "abc", CPU)
    assert KEPT.change is not None
    assert back.change is not None
    torch.testing.assert_close(back.change, KEPT.change, atol=3e-4, rtol=0)
    assert torch.equal(back.grid, KEPT.grid)
    for pair, kept in zip(back.pairs, KEPT.pairs, strict=True):
        for found, expected in zip(pair, kept, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=0)
    plain = {"grid": 0, "change": 0, "pairs": ()}
    assert dataclasses.replace(back, **plain) == dataclasses.replace(KEPT, **plain)  # type: ignore[arg-type]
    grids = [Pair(torch.rand(GRID_SHAPE), torch.zeros(GRID_SHAPE))]
    on_the_grid = Checkpoint.from_bytes(dataclasses.replace(KEPT, change=None, pairs=grids).to_bytes(), "abc", CPU)
    assert on_the_grid.change is None
    assert torch.equal(on_the_grid.pairs[0].change, grids[0].change)
    assert list(Checkpoint.from_bytes(dataclasses.replace(KEPT, pairs=()).to_bytes(), "abc", CPU).pairs) == []
    size = (3, PAIRS_EDGE_PX, PAIRS_EDGE_PX)
    largest = dataclasses.replace(
        KEPT, change=torch.ones(3, 1024, 1024), pairs=[Pair(torch.ones(size), torch.ones(size))] * PAIRS
    )
    assert len(Checkpoint.from_bytes(largest.to_bytes(), "abc", CPU).pairs) == PAIRS


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "bytes that are not a checkpoint"),
        (b"x" * (MAX_CHECKPOINT_BYTES + 1), f"must have at most {MAX_CHECKPOINT_BYTES}"),
        (KEPT.to_bytes()[:-5], "bytes that are not a checkpoint"),
        (changed(version=2), "checkpoint.version: got 2, must be 1"),
        (changed(key="other"), "one of another request"),
        (changed(first=None), "bytes that are not a checkpoint"),
        (changed(first={"total": "x"}), "bytes that are not a checkpoint"),
        (changed(evaluations=0, done=0), "values that no checkpoint has"),
        (changed(done=12), "values that no checkpoint has"),
        (changed(level=-1), "values that no checkpoint has"),
        (changed(spent=0), "values that no checkpoint has"),
        (changed(elapsed_seconds=float("inf")), "values that no checkpoint has"),
        (with_arrays(grid=np.zeros((1, 2), np.float32)), "values that no checkpoint has"),
        (with_arrays(pairs=np.zeros((PAIRS + 1, 2, 3, 4, 4), np.float16)), "values that no checkpoint has"),
        (with_arrays(pairs=np.zeros((PAIRS, 3, 4, 4), np.float16)), "values that no checkpoint has"),
        (with_arrays(pairs=np.full((PAIRS, 2, 3, 4, 4), np.inf, np.float16)), "values that no checkpoint has"),
        (with_arrays(pairs=np.zeros((PAIRS, 2, 3, 4, 200), np.float16)), "values that no checkpoint has"),
        (with_arrays(pairs=np.zeros((), np.float16)), "values that no checkpoint has"),
        (with_arrays(pairs=np.zeros(PAIRS, np.float16)), "values that no checkpoint has"),
        (with_arrays(pairs=np.zeros((PAIRS, 2), np.float16)), "values that no checkpoint has"),
        (with_arrays(pair_scales=np.ones((), np.float32)), "values that no checkpoint has"),
        (with_arrays(pair_scales=np.full((PAIRS, 2), np.nan, np.float32)), "values that no checkpoint has"),
        (with_arrays(pair_scales=np.ones((PAIRS, 1), np.float32)), "values that no checkpoint has"),
        (with_arrays(change=np.full((3, 2, 2), np.nan, np.float16)), "values that no checkpoint"),
    ],
)
def test_what_is_none_is_refused_by_name(data: bytes, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        Checkpoint.from_bytes(data, "abc", CPU)


@given(st.data())
def test_damage_is_refused_or_read(data: st.DataObject) -> None:
    file = bytearray(KEPT.to_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError):
        Checkpoint.from_bytes(bytes(file), "abc", CPU)

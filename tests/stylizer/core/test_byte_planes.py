"""Pictures of bytes: nothing is lost, neighbours alike take little, and what is no picture is refused unopened."""

import tracemalloc
import zlib

import numpy as np
import pytest

from services.stylizer.core.byte_planes import correlated, decorrelated, deflated, inflated


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(3, 7, 5), (4, 1), (1, 1), (2, 300)])
def test_round_trip(shape: tuple[int, ...]) -> None:
    planes = noise(*shape)
    assert np.array_equal(inflated(deflated(planes), shape), planes)


def test_channels_round_trip_and_alike_ones_vanish() -> None:
    planes = noise(3, 9, 8)
    assert np.array_equal(correlated(decorrelated(planes)), planes)
    red, _, blue = decorrelated(np.stack([planes[0]] * 3))
    assert not red.any()
    assert not blue.any()


def test_a_ramp_takes_little() -> None:
    ramp = np.broadcast_to(np.arange(400, dtype=np.uint16).astype(np.uint8), (300, 400)).copy()
    assert deflated(ramp).nbytes < ramp.nbytes / 100
    assert deflated(noise(300, 400)).nbytes < 1.01 * ramp.nbytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no stream",
        deflated(noise(4, 5)).tobytes()[:-1],
        deflated(noise(4, 5)).tobytes() + b"x",
        deflated(noise(4, 6)).tobytes(),
        deflated(noise(3, 5)).tobytes(),
        zlib.compress(bytes(50_000_000)),
    ],
    ids=["empty", "garbage", "cut", "longer", "too many", "too few", "bomb"],
)
def test_what_is_no_picture_of_that_shape_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"must inflate to 20 bytes|no zlib stream"):
        inflated(np.frombuffer(data, np.uint8), (4, 5))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = np.frombuffer(zlib.compress(bytes(50_000_000)), np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="must inflate to 20 bytes"):
            inflated(bomb, (4, 5))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()

"""The simulated queue against what is known of queues."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.capacity import replicas_for, waits


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waits_are_those_of_pollaczek_and_khinchine(load: float) -> None:
    """One replica, constant service: the mean wait is load / (2 (1 - load)) services."""
    found = waits([2.0], load / 2.0, 1, photos=60_000)
    assert np.mean(found) == pytest.approx(2.0 * load / (2 * (1 - load)), rel=0.1)


def test_replicas_suffice_and_one_fewer_does_not() -> None:
    service, rate = [5.0, 15.0], 2.0
    replicas = replicas_for(service, rate, 10.0)
    assert 20 < replicas < 30
    assert np.percentile(waits(service, rate, replicas), 95) < 10.0
    assert np.percentile(waits(service, rate, replicas - 1), 95) >= 10.0

"""OpenMP's threads sleep soon, unless the operator wants it otherwise."""

from __future__ import annotations

import os

import pytest

from services.common.openmp import ensure_short_waits


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(variable, "")  # so that it is as before in the end
        monkeypatch.delenv(variable)


def test_threads_sleep_soon() -> None:
    ensure_short_waits()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


@pytest.mark.parametrize(("variable", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_what_the_operator_set_stays(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    ensure_short_waits()
    assert {name: os.environ.get(name) for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ} == {
        variable: value
    }

"""Forecasts of jobs that were never done, from those that were."""

from dataclasses import replace

import pytest

from services.common.images import OutputFormat
from services.stylizer.core.params import TransferParams
from services.stylizer.forecast import Forecast
from services.stylizer.jobs import RenderJob, StylizeJob

SOLVE = StylizeJob("id", b"", b"", None, None, TransferParams(), OutputFormat(), pixels=10_000_000)
RENDER = RenderJob("id", b"", b"", 1.0, "none", OutputFormat(), pixels=10_000_000)
STAGES = {"decode": 0.3, "warm_start": 0.2, "solve": 8.0, "render": 0.5, "encode": 0.2}


def test_nothing_is_foretold_before_something_was_seen() -> None:
    forecast = Forecast()
    assert (forecast.seconds(SOLVE), forecast.around_seconds(SOLVE), forecast.seconds(RENDER)) == (0, 0, 0)
    forecast.learn(RENDER, {"decode": 0.3, "render": 0.5})
    assert forecast.seconds(SOLVE) == 0
    assert forecast.seconds(RENDER) == pytest.approx(0.8)


def test_a_solve_grows_with_its_evaluations_and_pixels_and_its_mode_counts() -> None:
    forecast = Forecast()
    forecast.learn(SOLVE, STAGES)
    assert forecast.seconds(SOLVE) == pytest.approx(9.2)
    assert forecast.around_seconds(SOLVE) == pytest.approx(1.2)
    double = replace(SOLVE, params=replace(SOLVE.params, max_evaluations=2 * SOLVE.params.max_evaluations))
    assert forecast.seconds(double) == pytest.approx(17.2)
    endless = replace(SOLVE, params=replace(SOLVE.params, max_evaluations=4000))
    assert forecast.seconds(endless) == pytest.approx(1.2 + 8.0 * 200 / SOLVE.params.max_evaluations)
    half = replace(SOLVE, params=replace(SOLVE.params, solve_edge_px=256))
    assert SOLVE.params.solve_edge_px == 512
    assert forecast.seconds(half) == pytest.approx(8.0 * (256**2 + 170**2) / (512**2 + 170**2) + 0.05 + 1.0)
    assert forecast.around_seconds(replace(SOLVE, pixels=4_000_000)) == pytest.approx(0.2 + 0.5)
    assert forecast.seconds(replace(SOLVE, params=replace(SOLVE.params, mode="paper"))) == 0


def test_new_times_count_for_a_part_and_those_of_a_resumed_solve_do_not() -> None:
    forecast = Forecast()
    forecast.learn(SOLVE, STAGES)
    forecast.learn(SOLVE, STAGES | {"solve": 18.0})
    assert forecast.seconds(SOLVE) == pytest.approx(1.2 + 11.0)
    forecast.learn(replace(SOLVE, checkpoint=b"x"), STAGES | {"solve": 0.1})
    assert forecast.seconds(SOLVE) == pytest.approx(1.2 + 11.0)

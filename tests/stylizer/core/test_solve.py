"""The solve's levels on problems that are cheap: plan, hand-over, limits, cancelling, the best point."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from services.stylizer.core import checkpoint as checkpoint_module
from services.stylizer.core import solve as solve_module
from services.stylizer.core.checkpoint import Checkpoint, Journal
from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.field import GRID_SHAPE
from services.stylizer.core.results import Losses
from services.stylizer.core.solve import Level, LevelPlan, Progress, Solution, plan_levels, solve
from services.stylizer.core.variables import Problem, State

CPU = torch.device("cpu")
CURVATURE = torch.logspace(-2, 1, 3 * 4 * 5).view(3, 4, 5)


class Valley:
    """A valley in ``change`` that L-BFGS needs many steps for; ``on_value`` hears of every evaluation."""

    history, first_step = 5, 0.01

    def __init__(self, state: State, on_value: Callable[[], None] = lambda: None, floor: float = 0.0) -> None:
        self.start = torch.ones(3, 4, 5) if state.change is None else state.change
        self._grid, self._on_value, self._floor = state.grid, on_value, floor

    def __call__(self, x: Tensor) -> tuple[Tensor, Losses]:
        self._on_value()
        total = (CURVATURE * (x - 0.3).square() + (x - 0.3).pow(4)).sum() + self._floor
        return total, Losses(float(total.detach()), 0.0, 0.0, 0.0, 0.0, 0.0)

    def picture(self, x: Tensor) -> Tensor:
        return x.detach()

    def state(self, x: Tensor) -> State:
        return State(self._grid, x)


def run(
    levels: Sequence[Level],
    budget: float = 0.0,
    on_progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    journal: Journal | None = None,
) -> Solution:
    return solve(levels, budget, on_progress, should_stop, State.warm_start(CPU), 100, journal)


def valleys(*sizes: tuple[int, int]) -> list[Level]:
    return [Level(edge, evaluations, Valley) for edge, evaluations in sizes]


@pytest.mark.parametrize("evaluations", [1, 2, 3, 7, 20, 34, 40, 1000])
@pytest.mark.parametrize("edge", [64, 128, 159, 160, 256, 319, 320, 512, 700, 1024])
def test_a_plan_spends_all_evaluations_from_the_grid_up(edge: int, evaluations: int) -> None:
    plans = plan_levels(edge, evaluations)
    assert sum(plan.evaluations for plan in plans) == evaluations
    assert all(plan.evaluations > 0 for plan in plans)
    assert [plan.pixels for plan in plans] == [False] + [True] * (len(plans) - 1)
    edges = [plan.edge_px for plan in plans]
    assert edges == sorted(edges)
    assert edges[0] in (edge // 4, edge // 2, edge)
    assert edges[0] >= min(edge, 80)
    if evaluations >= 3:
        assert edges[-1] == edge
    assert len(edges) <= 3


def test_the_plan_of_a_large_solve() -> None:
    assert plan_levels(700, 40) == (
        LevelPlan(175, 16, pixels=False),
        LevelPlan(350, 14, pixels=True),
        LevelPlan(700, 10, pixels=True),
    )


def test_each_level_starts_where_the_last_one_ended() -> None:
    begun: list[State] = []
    ends: list[Tensor] = []

    def begin(state: State) -> Problem:
        begun.append(state)
        return Valley(state)

    def on_progress(progress: Progress) -> None:
        ends.append(progress.picture())

    solution = run([Level(25, 4, begin), Level(50, 4, begin), Level(100, 4, begin)], on_progress=on_progress)
    assert begun[0].change is None
    assert begun[0].grid.shape == GRID_SHAPE
    for index, state in enumerate(begun[1:], 1):
        assert state.change is not None
        assert any(torch.equal(state.change, point) for point in ends[4 * index - 4 : 4 * index])
        assert torch.equal(ends[4 * index], state.change)
    assert solution.evaluations == len(ends) == 12
    assert solution.stopped_by == "max_evaluations"


def test_evaluations_count_by_their_pixels() -> None:
    assert run(valleys((25, 4), (50, 3), (100, 2))).full_size_evaluations == 4 / 16 + 3 / 4 + 2
    assert run(valleys((50, 1))).full_size_evaluations == 0.25  # full size is what the caller says it is


def test_the_best_point_comes_back_and_the_losses_are_its_own() -> None:
    seen: list[Progress] = []
    solution = run(valleys((100, 9)), on_progress=seen.append)
    best = min(seen, key=lambda progress: progress.losses.total)
    assert solution.final == best.losses
    assert solution.state.change is not None
    assert torch.equal(solution.state.change, best.picture())
    assert solution.first == seen[0].losses
    assert solution.final.total < 0.2 * solution.first.total
    assert [progress.evaluation for progress in seen] == list(range(1, 10))


@pytest.mark.parametrize("first_step", [0.001, 0.01])
def test_the_first_step_is_as_long_as_the_problem_says(first_step: float) -> None:
    def begin(state: State) -> Problem:
        problem = Valley(state)
        problem.first_step = first_step
        return problem

    points: list[Tensor] = []
    run([Level(100, 3, begin)], on_progress=lambda progress: points.append(progress.picture()))
    assert torch.equal(points[0], torch.ones(3, 4, 5))
    assert float((points[1] - points[0]).abs().mean()) == pytest.approx(first_step, rel=1e-4)


def test_a_level_on_its_plateau_hands_over() -> None:
    """With a high floor under the valley nothing that is left to win is 0.2 % of the total."""
    counts = [0, 0]

    def level(index: int, edge: int, floor: float) -> Level:
        def on_value() -> None:
            counts[index] += 1

        return Level(edge, 60, lambda state: Valley(state, on_value, floor))

    solution = run([level(0, 50, 1e5), level(1, 100, 1e5)])
    assert solution.stopped_by == "plateau"
    assert counts == [9, 9]  # the first, and the eight it is compared over
    assert solution.evaluations == 18


def test_a_solved_problem_ends_by_itself() -> None:
    def solved(state: State) -> Problem:
        problem = Valley(state)
        problem.start = torch.full((3, 4, 5), 0.3)
        return problem

    solution = run([Level(100, 60, solved)])
    assert (solution.evaluations, solution.stopped_by) == (1, "plateau")


@pytest.mark.parametrize("after", [0, 1, 3, 4, 6, 8, 11])
def test_cancel_stops_before_the_next_evaluation_in_every_level(after: int) -> None:
    done: list[int] = []
    with pytest.raises(SolveCancelled):
        run(
            valleys((25, 4), (50, 4), (100, 4)),
            on_progress=lambda progress: done.append(progress.evaluation),
            should_stop=lambda: len(done) >= after,
        )
    assert done == list(range(1, after + 1))


class Clock:
    """Time that passes by evaluations, a second for one at full size."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        for module in (solve_module, checkpoint_module):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def level(self, edge: int, evaluations: int, floor: float = 0.0) -> Level:
        def on_value() -> None:
            self.now += edge**2 / 100**2

        return Level(edge, evaluations, lambda state: Valley(state, on_value, floor))


def test_a_budget_is_not_exceeded_by_another_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    solution = run([clock.level(50, 8), clock.level(100, 40)], budget=5.5)
    assert solution.stopped_by == "time_budget"
    assert (solution.evaluations, clock.now) == (8 + 3, 100 + 8 / 4 + 3)
    assert solution.state.change is not None


def test_a_budget_can_end_before_the_fine_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    solution = run([clock.level(50, 8), clock.level(100, 40)], budget=2.5)
    assert (solution.evaluations, solution.stopped_by) == (8, "time_budget")
    assert solution.full_size_evaluations == 2
    assert solution.state.change is not None
    assert solution.final.total < solution.first.total


def test_what_a_level_left_over_does_not_make_the_next_one_look_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    solution = run([clock.level(50, 400, floor=1e5), clock.level(100, 40)], budget=5.3)
    assert solution.stopped_by == "time_budget"
    assert clock.now == 100 + 9 / 4 + 3  # a fourth would end at 6.25
    assert solution.evaluations == 12


def test_one_evaluation_is_made_whatever_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    solution = run([Clock(monkeypatch).level(100, 40)], budget=1e-3)
    assert (solution.evaluations, solution.stopped_by) == (1, "time_budget")


def test_time_left_follows_the_pixels_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = Clock(monkeypatch), list[Progress]()
    run([clock.level(50, 4), clock.level(100, 3)], on_progress=seen.append)
    assert [progress.remaining_seconds for progress in seen] == [3.75, 3.5, 3.25, 3.0, 2.0, 1.0, 0.0]
    assert [progress.elapsed_seconds for progress in seen] == [0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 4.0]
    seen.clear()
    run([clock.level(50, 4), clock.level(100, 3)], budget=2.1, on_progress=seen.append)
    assert seen[0].remaining_seconds == pytest.approx(1.85)


def test_what_is_not_finite_at_the_start_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="the objective is nan at the warm start"):
        run([Level(100, 4, lambda state: Valley(state, floor=float("nan")))])


@pytest.mark.parametrize("after", [1, 3, 4, 5, 8, 9, 11, 12])
def test_an_interrupted_solve_goes_on_where_it_stood(after: int) -> None:
    levels = valleys((25, 4), (50, 4), (100, 4))
    kept: list[Checkpoint] = []
    with pytest.raises(SolveCancelled):
        run(
            [*levels, *valleys((100, 1))],
            should_stop=lambda: len(kept) >= after,
            journal=Journal(keep=kept.append, every_seconds=0),
        )
    assert [checkpoint.evaluations for checkpoint in kept] == list(range(1, after + 1))
    seen: list[Progress] = []
    resumed = run(levels, on_progress=seen.append, journal=Journal(resume=kept[-1]))
    whole = run(levels)
    assert [progress.evaluation for progress in seen] == list(range(after + 1, 13))
    assert (resumed.evaluations, resumed.full_size_evaluations) == (12, whole.full_size_evaluations)
    assert resumed.first == whole.first
    assert resumed.final.total <= kept[-1].best.total
    shorter = run(valleys((25, 4), (50, 4), (100, 3)))
    assert resumed.final.total < 1.01 * shorter.final.total  # one evaluation is lost: that of the point it starts from


def test_without_its_pairs_a_checkpoint_is_of_less_use() -> None:
    levels, kept = valleys((100, 24)), list[Checkpoint]()
    whole = run(levels, journal=Journal(keep=kept.append))
    with_pairs, without = (
        run(levels, journal=Journal(resume=replace(kept[15], pairs=pairs))).final.total
        for pairs in (kept[15].pairs, ())
    )
    assert len(kept[15].pairs) == Valley.history
    assert whole.final.total <= with_pairs < 0.7 * without


def test_checkpoints_come_at_intervals_and_count_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, kept = Clock(monkeypatch), list[Checkpoint]()
    run([clock.level(50, 8), clock.level(100, 6)], journal=Journal(keep=kept.append, every_seconds=1.5))
    assert [(each.level, each.done, each.elapsed_seconds) for each in kept] == [
        (0, 6, 1.5),
        (1, 1, 3.0),
        (1, 3, 5.0),
        (1, 5, 7.0),
    ]
    assert [each.spent for each in kept] == [6 * 50**2, *(8 * 50**2 + n * 100**2 for n in (1, 3, 5))]
    seen: list[Progress] = []
    resume = Journal(resume=kept[1])
    solution = run([clock.level(50, 8), clock.level(100, 6)], budget=7.5, on_progress=seen.append, journal=resume)
    assert [progress.elapsed_seconds for progress in seen] == [4.0, 5.0, 6.0, 7.0]
    assert solution.stopped_by == "time_budget"

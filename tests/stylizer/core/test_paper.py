"""The published method as a whole: its runs against L-BFGS written by hand, limits, cancelling, repeatability."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from services.common.models import find_model
from services.stylizer.core import paper_runs
from services.stylizer.core.checkpoint import Checkpoint, Journal
from services.stylizer.core.cross_bilateral import bilateral_smoothed
from services.stylizer.core.errors import ParameterError, SolveCancelled
from services.stylizer.core.local_affine import applied, local_affine
from services.stylizer.core.paper import PaperSettings, PaperSolution, plan_runs, solve_paper
from services.stylizer.core.paper_objective import PaperWeights, to_rgb
from services.stylizer.core.paper_photos import PaperPhotos
from services.stylizer.core.paper_runs import PaperRuns
from services.stylizer.core.results import Losses
from services.stylizer.core.solve import Progress
from services.stylizer.core.vgg import VGG19, random_vgg19
from services.stylizer.features import load_features
from tests.stylizer.core.paper_by_hand import ByHand, lbfgs
from tests.stylizer.core.test_paper_objective import photo, stripes

RANDOM_SCALE = 255 * (0.229 + 0.224 + 0.225) / 3
GATYS = PaperSettings(PaperWeights(affine=0), evaluations=6, smoothing=False)


def photos(dtype: torch.dtype = torch.float64, masked: bool = True) -> PaperPhotos:
    I, S = photo(23, 30, 1).to(dtype), photo(26, 21, 2).to(dtype)
    return PaperPhotos(I, S, stripes(23, 30).to(dtype), stripes(26, 21).to(dtype)) if masked else PaperPhotos(I, S)


def solve(
    settings: PaperSettings,
    trunk: VGG19 | None = None,
    what: PaperPhotos | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PaperSolution:
    return solve_paper(trunk or random_vgg19(), what or photos(torch.float32), settings, on_progress, should_stop)


def noise(seed: int) -> np.ndarray:
    return torch.randn(3, 23, 30, generator=torch.Generator().manual_seed(seed)).double().numpy() * 1e-3


def follow(
    objective: ByHand, start: np.ndarray, evaluations: int, affine: bool
) -> list[tuple[dict[str, float], Tensor]]:
    """Terms and pictures along a run by hand."""
    values: list[dict[str, float]] = []

    def at(x: np.ndarray) -> tuple[float, np.ndarray]:
        terms, gradient = objective.value_and_gradient(x, affine)
        values.append(terms)
        return terms["total"], gradient

    points = lbfgs(at, start, evaluations)
    return [(terms, torch.from_numpy(x)) for terms, x in zip(values, points, strict=True)]


def compare_runs(trunk: VGG19, feature_scale: float, evaluations: int, tolerance: float) -> None:
    what, seen = photos(), []
    solution = solve(PaperSettings(evaluations=2 * evaluations, seed=3), trunk, what, seen.append)
    hand = ByHand(trunk.state_dict(), trunk.convention, what.I, what.S, what.M_content, what.M_style, feature_scale)
    first = follow(hand, noise(3), evaluations, False)
    best = min(first, key=lambda point: point[0]["total"])[1]
    second = follow(hand, best.numpy(), evaluations, True)
    assert len(seen) == 2 * evaluations
    for progress, (terms, x) in zip(seen, first + second, strict=True):
        for name, value in terms.items():
            found = getattr(progress.losses, name)
            assert found == pytest.approx(value, rel=tolerance, abs=1e-9 * terms["total"]), (progress.evaluation, name)
        torch.testing.assert_close(progress.picture(), to_rgb(x), rtol=0, atol=tolerance)
    lowest = min((p.losses for p in seen[evaluations:]), key=lambda losses: losses.total)
    assert (solution.first, solution.final) == (seen[0].losses, lowest)
    assert solution.evaluations == 2 * evaluations


def test_both_runs_equal_those_by_hand() -> None:
    compare_runs(random_vgg19(depth="conv5_1").double(), RANDOM_SCALE, 6, 1e-6)


@pytest.mark.weights
def test_both_runs_with_the_real_network(models_dir: Path) -> None:
    trunk = load_features(find_model(models_dir, "features", "auto"), torch.device("cpu")).trunk.double()
    compare_runs(trunk, 1.0, 6, 1e-6)


def test_without_affine_term_and_smoothing_it_is_gatys() -> None:
    trunk, what, seen = random_vgg19(depth="conv5_1").double(), photos(masked=False), []
    solution = solve(GATYS, trunk, what, seen.append)
    hand = ByHand(trunk.state_dict(), trunk.convention, what.I, what.S, None, None, RANDOM_SCALE)
    run = follow(hand, noise(0), 6, False)
    for progress, (terms, _) in zip(seen, run, strict=True):
        assert progress.losses.total == pytest.approx(terms["total"], rel=1e-6)
        assert progress.losses.affine == 0
    best = to_rgb(min(run, key=lambda point: point[0]["total"])[1])
    torch.testing.assert_close(solution.picture, best, rtol=0, atol=1e-6)
    torch.testing.assert_close(applied(solution.coefficients, what.I.float()), best.float(), rtol=0, atol=1e-4)


def test_the_picture_is_the_smoothed_maps_of_the_last_point() -> None:
    what, pictures = photos(torch.float32), []
    solution = solve(
        PaperSettings(evaluations=8), what=what, on_progress=lambda p: pictures.append((p.losses, p.picture()))
    )
    best = min(pictures[4:], key=lambda pair: pair[0].total)[1]
    maps = bilateral_smoothed(local_affine(best, what.I), what.I)
    assert solution.coefficients.shape == (3, 4, 23, 30)
    assert solution.coefficients.dtype == torch.float32
    assert torch.equal(solution.coefficients, maps.float())
    torch.testing.assert_close(solution.picture, applied(maps, what.I).float(), rtol=1e-4, atol=1e-4)


def test_the_style_term_falls_and_the_affine_term_after_it() -> None:
    seen: list[Progress] = []
    solution = solve(PaperSettings(evaluations=60), on_progress=seen.append)
    style_after_first = min(p.losses.style for p in seen[:30])
    assert style_after_first < 0.5 * solution.first.style
    assert seen[29].losses.affine == 0
    assert solution.final.affine < 0.5 * seen[30].losses.affine
    assert [p.evaluation for p in seen] == list(range(1, 61))
    assert [p.remaining_seconds > 0 for p in seen] == [True] * 59 + [False]


@pytest.mark.parametrize(
    ("evaluations", "weight", "runs"),
    [
        (2000, 1e4, ((1000, False), (1000, True))),
        (7, 1e4, ((3, False), (4, True))),
        (1, 1e4, ((1, True),)),
        (2000, 0.0, ((2000, False),)),
    ],
)
def test_runs(evaluations: int, weight: float, runs: tuple[tuple[int, bool], ...]) -> None:
    assert plan_runs(evaluations, weight) == runs


def test_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    one, same, other = (solve(PaperSettings(evaluations=4, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(one.coefficients, same.coefficients)
    assert torch.equal(one.picture, same.picture)
    assert one.final == same.final
    assert not torch.equal(one.picture, other.picture)


@pytest.mark.parametrize("evaluation", [0, 3, 6])
def test_cancel_stops_before_the_next_evaluation_or_the_smoothing(evaluation: int) -> None:
    done: list[int] = []
    with pytest.raises(SolveCancelled):
        solve(
            PaperSettings(evaluations=6),
            on_progress=lambda p: done.append(p.evaluation),
            should_stop=lambda: len(done) >= evaluation,
        )
    assert done == list(range(1, evaluation + 1))


def test_time_budget_is_shared_by_both_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []  # every evaluation takes a second of this clock
    monkeypatch.setattr(paper_runs, "time", SimpleNamespace(monotonic=lambda: float(len(seen))))
    solution = solve(PaperSettings(evaluations=100, time_budget_seconds=10), on_progress=seen.append)
    assert solution.stopped_by == "time_budget"
    assert [p.losses.affine > 0 for p in seen] == [False] * 5 + [True] * 5
    assert solution.evaluations == 10
    assert solve(PaperSettings(evaluations=4, time_budget_seconds=1e6)).stopped_by == "max_evaluations"


def test_a_budget_too_short_for_anything_makes_one_evaluation_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    monkeypatch.setattr(paper_runs, "time", SimpleNamespace(monotonic=lambda: 9.0 * len(seen)))
    solution = solve(PaperSettings(evaluations=100, time_budget_seconds=0.1), on_progress=seen.append)
    assert (solution.evaluations, solution.stopped_by) == (2, "time_budget")
    assert torch.isfinite(solution.picture).all()


def test_network_of_nan_is_refused() -> None:
    trunk = random_vgg19()
    trunk.features[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="first point"):
        solve(PaperSettings(evaluations=4), trunk)


def test_no_evaluations_are_refused() -> None:
    with pytest.raises(ParameterError, match="evaluations: got 0, must be at least 1"):
        PaperSettings(evaluations=0)


def test_grey_and_black_photos_give_finite_pictures() -> None:
    flat = dataclasses.replace(photos(torch.float32), I=torch.full((3, 23, 30), 0.5), S=torch.zeros(3, 26, 21))
    solution = solve(PaperSettings(evaluations=20), what=flat)
    assert torch.isfinite(solution.picture).all()
    assert torch.isfinite(solution.coefficients).all()


def losses(total: Tensor) -> Losses:
    return Losses(float(total.detach()), 0.0, 0.0, 0.0, 0.0, 0.0)


def runs_of(objective: Callable[[Tensor], Tensor], evaluations: int, seen: list[Progress]) -> PaperRuns:
    def with_losses(x: Tensor, affine: bool) -> tuple[Tensor, Losses]:
        total = objective(x)
        return total, losses(total)

    return PaperRuns(with_losses, evaluations, 0.0, seen.append, lambda: False)


def test_lbfgs_equals_the_two_loop_recursion_beyond_its_history() -> None:
    curvature = torch.logspace(-3, 0, 3 * 8 * 9, dtype=torch.float64).view(3, 8, 9)
    goal = photo(8, 9, 1)

    def objective(x: Tensor) -> Tensor:
        d = x - goal
        return (curvature * d.square()).sum() + 0.1 * d.pow(4).sum()

    def by_hand(x: np.ndarray) -> tuple[float, np.ndarray]:
        d, c = x - goal.numpy(), curvature.numpy()
        return float((c * d**2).sum() + 0.1 * (d**4).sum()), 2 * c * d + 0.4 * d**3

    seen: list[Progress] = []
    start = torch.zeros(3, 8, 9, dtype=torch.float64)
    runs_of(objective, 110, seen).descend(start, 110, False)
    expected = lbfgs(by_hand, start.numpy(), 110)
    assert len(seen) == 110
    for progress, x in list(zip(seen, expected, strict=True))[:30]:
        torch.testing.assert_close(progress.picture(), to_rgb(torch.from_numpy(x)), rtol=0, atol=1e-9)
    torch.testing.assert_close(seen[-1].picture(), to_rgb(torch.from_numpy(expected[-1])), rtol=0, atol=1e-6)


def test_after_an_overflow_the_run_goes_on_from_its_best_point() -> None:
    seen: list[Progress] = []
    calls: list[float] = []

    def objective(x: Tensor) -> Tensor:
        calls.append(float(x.detach().abs().max()))
        return x.square().sum() * (float("inf") if len(calls) == 4 else 1.0)

    runs = runs_of(objective, 9, seen)
    best = runs.descend(torch.ones(3, 4, 4), 9, False)
    assert runs.evaluations == len(calls) == 9
    assert calls[4] == min(calls[:3])  # back at the best point before the overflow
    assert runs.best.total == min(p.losses.total for p in seen)
    assert float(best.square().sum()) == pytest.approx(runs.best.total)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    what = photos(torch.float32)
    there = PaperPhotos(*(t.cuda() for t in (what.I, what.S, what.M_content, what.M_style) if t is not None))
    cpu = solve(PaperSettings(evaluations=2), what=what)
    cuda = solve(PaperSettings(evaluations=2), random_vgg19().cuda(), there)
    assert cuda.first.total == pytest.approx(cpu.first.total, rel=1e-3)
    assert cuda.coefficients.is_cuda


@pytest.mark.parametrize("after", [1, 5, 6, 7, 11])
def test_an_interrupted_solve_goes_on_in_its_run(after: int) -> None:
    settings = PaperSettings(evaluations=12)
    kept: list[Checkpoint] = []
    journal = Journal(keep=kept.append, every_seconds=0)
    arguments = random_vgg19(), photos(torch.float32), settings
    with pytest.raises(SolveCancelled):
        solve_paper(*arguments, lambda _: None, lambda: len(kept) >= after, journal)
    assert (kept[-1].level, kept[-1].done) == divmod(after, 6) if after % 6 else (0, 6)
    seen: list[Progress] = []
    resumed = solve_paper(*arguments, seen.append, lambda: False, Journal(resume=kept[-1]))
    assert [progress.evaluation for progress in seen] == list(range(after + 1, 13))
    assert resumed.evaluations == 12
    assert resumed.first == kept[0].first
    assert bool(torch.isfinite(resumed.picture).all())

"""The whole computation on small pictures with the built-in trunk: it descends, stops, matches, and repeats itself."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from services.stylizer.core import look as look_module
from services.stylizer.core.errors import LabelsUnmatched, LookError, SolveCancelled
from services.stylizer.core.local_affine import applied
from services.stylizer.core.look import Look
from services.stylizer.core.look_field import LookField
from services.stylizer.core.params import TransferParams
from services.stylizer.core.solve import Progress
from services.stylizer.core.transfer import Regions, Transfer, TransferResult
from services.stylizer.core.vgg import random_vgg19


def picture(height: int, width: int, seed: int, tint: tuple[float, float, float]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return (smooth * torch.tensor(tint).view(3, 1, 1)).clamp(0, 1)


def halves(height: int, width: int, top: str, bottom: str) -> Regions:
    indices = torch.zeros(height, width, dtype=torch.uint8)
    indices[height // 2 :] = 1
    return Regions(indices, (top, bottom))


def make(content: Regions | None = None, style: Regions | None = None, **params: object) -> Transfer:
    I, S = picture(64, 80, 1, (1.0, 0.9, 0.8)), picture(72, 64, 2, (0.4, 0.2, 0.1))
    return Transfer(
        random_vgg19(),
        TransferParams(**{"max_evaluations": 6, **params}),  # type: ignore[arg-type]
        I,
        S,
        content or Regions(torch.zeros(64, 80, dtype=torch.uint8), ("all",)),
        style or Regions(torch.zeros(72, 64, dtype=torch.uint8), ("all",)),
        {"tree": ("grass",)},
    )


def run(
    transfer: Transfer,
    on_progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TransferResult:
    return transfer.run(lambda _: None, on_progress, should_stop)


def strengths(result: TransferResult) -> dict[str, float]:
    look = result.outcome.look
    return dict(zip(look.names, look.strengths.tolist(), strict=True))


def restored(result: TransferResult, I: torch.Tensor) -> LookField:
    """What is left of a transfer: its look's file and the content photo."""
    return LookField(Look.from_bytes(result.outcome.look.to_bytes()), I)


def painted(result: TransferResult, I: torch.Tensor) -> torch.Tensor:
    return applied(result.outcome.coefficients, I).clamp(0, 1)


def test_descends_towards_the_style() -> None:
    points: list[Progress] = []
    result = run(make(max_evaluations=12), points.append)
    assert [point.evaluation for point in points] == list(range(1, len(points) + 1))
    assert result.outcome.evaluations == len(points) <= 12
    assert result.outcome.final.total < result.outcome.first.total
    assert result.quality.style_relative < 0.5
    assert set(result.stage_seconds) == {"warm_start", "solve", "score"}
    parts = dataclasses.asdict(result.outcome.final)
    total = parts.pop("total")
    assert total == pytest.approx(sum(parts.values()), rel=1e-4)


def test_first_the_grid_then_pixels() -> None:
    points: list[Progress] = []
    result = run(make(max_evaluations=10), points.append)
    on_grid = [point.losses.smoothness > 0 for point in points]
    assert on_grid == [False] + [True] * 3 + [False] * 6  # the warm start is smooth; 4 of 10 are the grid's
    assert result.outcome.look.scale > 0
    assert result.outcome.full_size_evaluations == 10
    assert float(result.outcome.look.grid.abs().max()) > 0


def test_coarse_levels_count_less() -> None:
    transfer = make(max_evaluations=5)
    I = picture(128, 160, 1, (1.0, 0.9, 0.8))
    large = dataclasses.replace(transfer, I=I, content=Regions(torch.zeros(128, 160, dtype=torch.uint8), ("all",)))
    sizes: list[tuple[int, ...]] = []
    result = run(large, lambda point: sizes.append(tuple(point.picture().shape)))
    assert sizes == [(3, 64, 80)] * 2 + [(3, 128, 160)] * 3
    assert result.outcome.full_size_evaluations == 2 / 4 + 3
    assert result.outcome.coefficients.shape == (3, 4, 128, 160)


def test_progress_gives_the_picture_so_far() -> None:
    pictures: list[torch.Tensor] = []
    run(make(), lambda progress: pictures.append(progress.picture()))
    assert all(shot.shape == (3, 64, 80) and bool(torch.isfinite(shot).all()) for shot in pictures)


@pytest.mark.parametrize("mode", ["field", "paper"])
def test_same_inputs_give_the_same_bits(mode: str) -> None:
    first, second = run(make(mode=mode)), run(make(mode=mode))
    assert first.outcome.look.to_bytes() == second.outcome.look.to_bytes()
    assert torch.equal(first.outcome.coefficients, second.outcome.coefficients)
    assert first.quality == second.quality


@pytest.mark.parametrize("mode", ["field", "paper"])
def test_cancel_stops_before_the_next_evaluation(mode: str) -> None:
    done: list[int] = []
    with pytest.raises(SolveCancelled):
        run(make(max_evaluations=40, mode=mode), lambda p: done.append(p.evaluation), lambda: len(done) >= 3)
    assert done == [1, 2, 3]


def test_time_budget_ends_the_solve_with_what_there_is() -> None:
    result = run(make(max_evaluations=1000, time_budget_seconds=0.5))
    assert result.outcome.stopped_by in ("time_budget", "plateau")
    assert 1 <= result.outcome.evaluations < 1000


def test_one_evaluation_is_the_warm_start_behind_the_proximal_step() -> None:
    transfer, shots = make(max_evaluations=1), []
    result = run(transfer, lambda progress: shots.append(progress.picture()))
    assert result.outcome.evaluations == 1
    assert result.outcome.stopped_by == "max_evaluations"
    assert float(result.outcome.look.grid.abs().max()) == 0
    step = result.outcome.look.scale / 120
    torch.testing.assert_close(painted(result, transfer.I), shots[0], rtol=0, atol=step + 1e-5)


@pytest.mark.parametrize("labels", [1, 2])
def test_the_look_alone_gives_the_coefficients_bit_for_bit(labels: int) -> None:
    regions = (halves(64, 80, "sky", "road"), halves(72, 64, "sky", "road")) if labels == 2 else (None, None)
    transfer = make(*regions, label_strengths={"road": 0.3} if labels == 2 else {})
    result = run(transfer)
    assert torch.equal(restored(result, transfer.I).coefficients(), result.outcome.coefficients)


def test_the_score_is_that_of_the_picture_the_look_gives() -> None:
    transfer = make(strength=0.6)
    result = run(transfer)
    O = restored(result, transfer.I).restyled(0.6)
    scored = transfer.score(O, result.matches, transfer.goal(result.matches))
    assert result.quality.style_relative == pytest.approx(scored.style_relative, rel=1e-3)
    assert result.quality.edges == pytest.approx(scored.edges, abs=1e-4)


def test_the_best_point_of_the_solve_is_the_picture() -> None:
    """But for the steps in which a look stores it."""
    transfer, points = make(max_evaluations=10), []
    result = run(transfer, lambda point: points.append((point.losses.total, point.picture())))
    best = min(points[4:], key=lambda point: point[0])[1]
    found = painted(result, transfer.I)
    torch.testing.assert_close(found, best, rtol=0, atol=result.outcome.look.scale / 120 + 1e-5)


def test_the_look_of_paper_mode_gives_its_picture_but_for_the_steps_it_is_stored_in() -> None:
    transfer = make(mode="paper", max_evaluations=12)
    result = run(transfer)
    found = restored(result, transfer.I)
    scale = found.look.scale
    assert scale > 0
    torch.testing.assert_close(found.restyled(), painted(result, transfer.I), rtol=0, atol=scale / 120)
    assert result.outcome.full_size_evaluations == result.outcome.evaluations == 12


def test_paper_mode_without_affine_weight_is_not_smoothed() -> None:
    transfer, shots = make(mode="paper", affine_weight=0.0), []
    result = run(transfer, lambda progress: shots.append((progress.losses.total, progress.picture())))
    best = min(shots, key=lambda shot: shot[0])[1].clamp(0, 1)
    torch.testing.assert_close(painted(result, transfer.I), best, rtol=0, atol=1e-4)
    smoothed = make(mode="paper")
    assert float((painted(run(smoothed), transfer.I) - best).abs().max()) > 0.01


def test_paper_mode_takes_its_noise_from_the_seed() -> None:
    one, other = (run(make(mode="paper", seed=seed)).outcome.coefficients for seed in (1, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("mode", ["field", "paper"])
def test_kept_label_stays_as_it_is(mode: str) -> None:
    content, style = halves(64, 80, "sky", "car"), halves(72, 64, "sky", "road")
    transfer = make(content, style, label_policy="keep", mode=mode)
    result = run(transfer)
    assert {m.content_label: m.kind for m in result.matches} == {"sky": "same", "car": "kept"}
    assert strengths(result) == {"sky": 1.0, "car": 0.0}
    below = result.outcome.coefficients[:, :, 32 + 17 :]  # beyond the feather, twice the filter's radius
    assert torch.equal(below, torch.eye(3, 4)[:, :, None, None].expand_as(below))
    above = (painted(result, transfer.I) - transfer.I)[:, :15]
    assert float(above.abs().mean()) > 0.05


@pytest.mark.parametrize("mode", ["field", "paper"])
def test_every_label_kept_is_still_a_result(mode: str) -> None:
    transfer = make(halves(64, 80, "cat", "car"), halves(72, 64, "sky", "road"), label_policy="keep", mode=mode)
    result = run(transfer)
    assert strengths(result) == {"cat": 0.0, "car": 0.0}
    identity = torch.eye(3, 4)[:, :, None, None]
    assert torch.equal(result.outcome.coefficients, identity.expand_as(result.outcome.coefficients))


@pytest.mark.parametrize("mode", ["field", "paper"])
def test_strength_zero_of_every_label_is_the_photo(mode: str) -> None:
    transfer = make(label_strengths={"all": 0.0}, mode=mode)
    result = run(transfer)
    assert torch.equal(applied(result.outcome.coefficients, transfer.I), transfer.I)
    assert torch.equal(restored(result, transfer.I).restyled(), transfer.I)
    assert result.quality.style_relative == pytest.approx(1)


def test_related_and_global_labels_and_reject() -> None:
    content, style = halves(64, 80, "tree", "car"), halves(72, 64, "grass", "road")
    matches = {m.content_label: (m.kind, m.style_label) for m in run(make(content, style)).matches}
    assert matches == {"tree": ("merged", "grass"), "car": ("global", "")}
    with pytest.raises(LabelsUnmatched):
        run(make(content, style, label_policy="reject"))


def test_label_strengths_reach_the_look() -> None:
    both = halves(64, 80, "sky", "road"), halves(72, 64, "sky", "road")
    assert strengths(run(make(*both, label_strengths={"road": 0.25}))) == {"sky": 1.0, "road": 0.25}


@pytest.mark.parametrize("mode", ["field", "paper"])
def test_flat_and_grey_pictures_give_finite_results(mode: str) -> None:
    flat = dataclasses.replace(make(mode=mode), I=torch.full((3, 64, 80), 0.5), S=torch.full((3, 72, 64), 0.1))
    result = run(flat)
    assert bool(torch.isfinite(result.outcome.look.grid).all())
    assert bool(torch.isfinite(result.outcome.coefficients).all())
    assert result.outcome.final.total < float("inf")


def test_an_odd_pixel_in_a_flat_photo_gives_a_look_that_can_be_read() -> None:
    """Its warm start is far outside 0..1."""
    I = torch.full((3, 64, 80), 0.5)
    I[:, 30, 30] = torch.tensor([1.0, 0.0, 0.0])
    S = torch.rand(3, 72, 64, generator=torch.Generator().manual_seed(0))
    transfer = dataclasses.replace(make(max_evaluations=4), I=I, S=S)
    assert float(transfer.warm_field(transfer.match()).base.abs().max()) > 5
    result = run(transfer)
    assert result.outcome.look.scale <= 1
    assert torch.equal(restored(result, I).coefficients(), result.outcome.coefficients)


def test_a_label_map_that_no_look_can_hold_is_refused_before_the_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"label {number}" for number in range(8))
    calm = Regions((torch.arange(64) // 8)[:, None].expand(64, 80).to(torch.uint8), names)
    wild = Regions(torch.randint(0, 8, (64, 80), generator=torch.Generator().manual_seed(0), dtype=torch.uint8), names)
    transfer = make(calm, label_policy="keep")
    room = len(transfer.warm_field(transfer.match()).look.to_bytes())
    monkeypatch.setattr(look_module, "MAX_LOOK_BYTES", room + 100_000)
    run(make(calm, label_policy="keep", max_evaluations=1))
    seen: list[Progress] = []
    with pytest.raises(LookError, match="content_labels: got a label map whose look has"):
        run(make(wild, label_policy="keep"), seen.append)
    assert not seen


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cpu = make(max_evaluations=1)
    cuda = dataclasses.replace(
        cpu,
        trunk=cpu.trunk.cuda(),
        I=cpu.I.cuda(),
        S=cpu.S.cuda(),
        content=Regions(cpu.content.indices.cuda(), cpu.content.names),
        style=Regions(cpu.style.indices.cuda(), cpu.style.names),
    )
    on_cuda = run(cuda).outcome.final
    assert on_cuda.total == pytest.approx(run(make(max_evaluations=1)).outcome.final.total, rel=1e-3)

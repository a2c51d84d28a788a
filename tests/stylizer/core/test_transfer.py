"""The whole computation on small pictures with the built-in trunk: it descends, stops, matches, and repeats itself."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from services.stylizer.core.errors import LabelsUnmatched, SolveCancelled
from services.stylizer.core.params import TransferParams
from services.stylizer.core.solve import Progress, plan_levels
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


def test_descends_towards_the_style() -> None:
    points: list[Progress] = []
    result = run(make(max_evaluations=12), points.append)
    assert [point.evaluation for point in points] == list(range(1, len(points) + 1))
    assert result.solution.evaluations == len(points) <= 12
    assert result.solution.final.total < result.solution.first.total
    assert result.quality.style_relative < 0.5
    assert set(result.stage_seconds) == {"warm_start", "solve", "score"}
    parts = result.solution.final
    summed = parts.content + parts.style + parts.affine + parts.smoothness + parts.gamut
    assert parts.total == pytest.approx(summed, rel=1e-4)


def test_progress_gives_the_picture_so_far() -> None:
    pictures: list[torch.Tensor] = []
    run(make(), lambda progress: pictures.append(progress.picture()))
    assert all(shot.shape == (3, 64, 80) and bool(torch.isfinite(shot).all()) for shot in pictures)


def test_same_inputs_give_the_same_bits() -> None:
    first, second = run(make()), run(make())
    assert torch.equal(first.look.grid, second.look.grid)
    assert first.quality == second.quality


def test_cancel_stops_before_the_next_evaluation() -> None:
    done: list[int] = []
    with pytest.raises(SolveCancelled):
        run(make(max_evaluations=40), lambda p: done.append(p.evaluation), lambda: len(done) >= 3)
    assert done == [1, 2, 3]


def test_time_budget_ends_the_solve_with_what_there_is() -> None:
    result = run(make(max_evaluations=1000, time_budget_seconds=0.5))
    assert result.solution.stopped_by in ("time_budget", "plateau")
    assert 1 <= result.solution.evaluations < 1000


def test_one_evaluation_is_the_warm_start() -> None:
    result = run(make(max_evaluations=1))
    assert result.solution.evaluations == 1
    assert result.solution.stopped_by == "max_evaluations"
    assert float(result.look.grid.abs().max()) == 0


def test_kept_label_stays_as_it_is() -> None:
    transfer = make(halves(64, 80, "sky", "car"), halves(72, 64, "sky", "road"), label_policy="keep")
    result = run(transfer)
    assert {m.content_label: m.kind for m in result.matches} == {"sky": "same", "car": "kept"}
    strengths = dict(zip(result.look.names, result.look.strengths.tolist(), strict=True))
    assert strengths == {"sky": 1.0, "car": 0.0}


def test_every_label_kept_is_still_a_result() -> None:
    transfer = make(halves(64, 80, "cat", "car"), halves(72, 64, "sky", "road"), label_policy="keep")
    assert run(transfer).look.strengths.tolist() == [0.0, 0.0]


def test_related_and_global_labels_and_reject() -> None:
    content, style = halves(64, 80, "tree", "car"), halves(72, 64, "grass", "road")
    matches = {m.content_label: (m.kind, m.style_label) for m in run(make(content, style)).matches}
    assert matches == {"tree": ("merged", "grass"), "car": ("global", "")}
    with pytest.raises(LabelsUnmatched):
        run(make(content, style, label_policy="reject"))


def test_label_strengths_reach_the_look() -> None:
    both = halves(64, 80, "sky", "road"), halves(72, 64, "sky", "road")
    look = run(make(*both, label_strengths={"road": 0.25})).look
    assert dict(zip(look.names, look.strengths.tolist(), strict=True)) == {"sky": 1.0, "road": 0.25}


def test_flat_and_grey_pictures_give_finite_results() -> None:
    flat = dataclasses.replace(make(), I=torch.full((3, 64, 80), 0.5), S=torch.full((3, 72, 64), 0.1))
    result = run(flat)
    assert bool(torch.isfinite(result.look.grid).all())
    assert result.solution.final.total < float("inf")


@pytest.mark.parametrize(("edge", "evaluations"), [(64, 40), (256, 40), (256, 7), (256, 1), (1024, 1000)])
def test_levels_use_all_evaluations_and_end_at_full_size(edge: int, evaluations: int) -> None:
    levels = plan_levels(edge, evaluations)
    assert sum(n for _, n in levels) == evaluations
    assert levels[-1][0] == edge
    assert min(edge for edge, _ in levels) >= 64


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
    on_cuda = run(cuda).solution.final
    assert on_cuda.total == pytest.approx(run(make(max_evaluations=1)).solution.final.total, rel=1e-3)

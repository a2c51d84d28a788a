"""Solves that share the network: what each is told is what it would be told alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.evaluator import Evaluator
from services.stylizer.core.local_affine import applied
from services.stylizer.core.params import TransferParams
from services.stylizer.core.solve import Progress
from services.stylizer.core.transfer import Regions, Transfer, TransferResult
from services.stylizer.core.vgg import random_vgg19

LAYERS = ("conv1_1", "conv2_1")
TRUNK = random_vgg19(depth="conv2_1")


def photo(seed: int, height: int = 24, width: int = 32) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def terms(features: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([F.square().mean().sqrt() for F in features.values()])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody starts because others are late: on a busy machine they may be."""
    monkeypatch.setattr("services.stylizer.core.evaluator._LEAST_PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr("services.stylizer.core.evaluator._MOST_PATIENCE_SECONDS", 60.0)


def test_the_gradient_is_the_one_through_the_network() -> None:
    O = photo(0).requires_grad_(True)
    total, values = Evaluator(TRUNK)(O, LAYERS, terms)
    (2 * total).backward()  # type: ignore[no-untyped-call]
    direct = photo(0).requires_grad_(True)
    wanted = terms(TRUNK(direct[None], LAYERS))
    (2 * wanted.sum()).backward()
    torch.testing.assert_close(values, wanted.detach())
    assert not values.requires_grad
    assert O.grad is not None
    torch.testing.assert_close(O.grad, direct.grad)


@pytest.mark.usefixtures("patient")
def test_pictures_of_one_size_go_together_and_each_has_its_own_answer(threads: ThreadPoolExecutor) -> None:
    together, alone = Evaluator(TRUNK, 4), Evaluator(TRUNK)
    with together.solving(), together.solving(), together.solving(), together.solving():

        def answer(n: int) -> tuple[Tensor, Tensor]:
            found = together.evaluated(photo(n), LAYERS, terms)
            assert together.together == 4
            return found

        answers = list(threads.map(answer, range(4)))
    assert together.batches == {4: 1}
    for n, (values, gradient) in enumerate(answers):
        wanted_values, wanted_gradient = alone.evaluated(photo(n), LAYERS, terms)
        torch.testing.assert_close(values, wanted_values, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-8)


@pytest.mark.usefixtures("patient")
def test_other_sizes_are_no_hindrance(threads: ThreadPoolExecutor) -> None:
    evaluator = Evaluator(TRUNK, 8)
    with evaluator.solving(), evaluator.solving(), evaluator.solving():
        sizes = [(24, 32), (24, 32), (32, 24)]
        answers = list(threads.map(lambda size: evaluator.evaluated(photo(0, *size), LAYERS, terms), sizes))
    assert [tuple(gradient.shape[1:]) for _, gradient in answers] == sizes
    assert evaluator.batches == {1: 1, 2: 1}


@pytest.mark.usefixtures("patient")
def test_a_batch_has_no_more_pictures_than_it_may(threads: ThreadPoolExecutor) -> None:
    evaluator = Evaluator(TRUNK, 2)
    with evaluator.solving(), evaluator.solving(), evaluator.solving(), evaluator.solving():
        list(threads.map(lambda n: evaluator.evaluated(photo(n), LAYERS, terms), range(4)))
    assert set(evaluator.batches) == {2}


def test_who_does_not_come_is_not_waited_for_long() -> None:
    evaluator = Evaluator(TRUNK, 4)
    with evaluator.solving(), evaluator.solving():
        evaluator.evaluated(photo(0), LAYERS, terms)
    assert evaluator.batches == {1: 1}


@pytest.mark.usefixtures("patient")
def test_who_leaves_is_not_waited_for_at_all(threads: ThreadPoolExecutor) -> None:
    evaluator = Evaluator(TRUNK, 4)
    with evaluator.solving():
        with evaluator.solving():
            answer = threads.submit(evaluator.evaluated, photo(0), LAYERS, terms)
            with pytest.raises(TimeoutError):
                answer.result(timeout=0.2)
        answer.result(timeout=20)


def test_a_picture_that_fails_fails_alone(threads: ThreadPoolExecutor) -> None:
    def broken(features: Mapping[str, Tensor]) -> Tensor:
        raise ZeroDivisionError("this one")

    evaluator = Evaluator(TRUNK, 3)
    with evaluator.solving(), evaluator.solving(), evaluator.solving():
        answers = [
            threads.submit(evaluator.evaluated, photo(n), LAYERS, each) for n, each in enumerate((terms, broken, terms))
        ]
        with pytest.raises(ZeroDivisionError, match="this one"):
            answers[1].result(timeout=60)
    wanted, _ = Evaluator(TRUNK).evaluated(photo(2), LAYERS, terms)
    torch.testing.assert_close(answers[2].result(timeout=60)[0], wanted)


def test_a_thread_that_is_interrupted_leaves_nobody_waiting(threads: ThreadPoolExecutor) -> None:
    def interrupted(features: Mapping[str, Tensor]) -> Tensor:
        raise KeyboardInterrupt

    evaluator = Evaluator(TRUNK, 2)
    with evaluator.solving(), evaluator.solving():
        answers = [
            threads.submit(evaluator.evaluated, photo(n), LAYERS, each) for n, each in enumerate((terms, interrupted))
        ]
        errors = [answer.exception(timeout=60) for answer in answers]
    assert any(isinstance(error, KeyboardInterrupt) for error in errors), "in the thread that had the batch"
    assert evaluator.evaluated(photo(0), LAYERS, terms)[0].isfinite().all()


def smooth(seed: int, height: int, width: int) -> Tensor:
    coarse = photo(seed, height // 8, width // 8)
    return torch.nn.functional.interpolate(coarse[None], size=(height, width), mode="bilinear")[0]


def transfer(evaluator: Evaluator, seed: int, **params: object) -> Transfer:
    regions = Regions(torch.zeros(64, 88, dtype=torch.uint8), ("all",))
    chosen = TransferParams(**{"max_evaluations": 10, **params})  # type: ignore[arg-type]
    return Transfer(
        evaluator.trunk, chosen, smooth(seed, 64, 88), smooth(seed + 50, 64, 88), regions, regions, {}, evaluator
    )


def run(
    each: Transfer,
    on_progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TransferResult:
    return each.run(lambda _: None, on_progress, should_stop)


def picture(result: TransferResult, seed: int) -> Tensor:
    return applied(result.outcome.coefficients, smooth(seed, 64, 88)).clamp(0, 1)


def test_solves_join_and_leave_and_end_where_they_would_alone(threads: ThreadPoolExecutor) -> None:
    """Four solves with weights and lengths of their own: one is cancelled, one comes when the others are under way."""
    trunk = random_vgg19()
    chosen: tuple[dict[str, object], ...] = (
        {},
        {"affine_weight": 1e5},
        {"max_evaluations": 5},
        {"style_weight": 300.0},
    )
    alone = [run(transfer(Evaluator(trunk), seed, **params)) for seed, params in enumerate(chosen)]
    together = Evaluator(trunk, 8)
    under_way, cancelled = threading.Event(), threading.Event()

    def progressed(progress: Progress) -> None:
        if progress.evaluation == 3:
            under_way.set()

    def to_be_cancelled(progress: Progress) -> None:
        if progress.evaluation == 4:
            cancelled.set()

    solves: list[Future[TransferResult]] = [
        threads.submit(run, transfer(together, seed, **params), progressed) for seed, params in enumerate(chosen[:3])
    ]
    lost = threads.submit(run, transfer(together, 9), to_be_cancelled, cancelled.is_set)
    assert under_way.wait(timeout=120)
    solves.append(threads.submit(run, transfer(together, 3, **chosen[3])))
    with pytest.raises(SolveCancelled):
        lost.result(timeout=120)
    for seed, (solve, wanted) in enumerate(zip(solves, alone, strict=True)):
        found = solve.result(timeout=120)
        assert found.outcome.evaluations == wanted.outcome.evaluations
        assert found.outcome.stopped_by == wanted.outcome.stopped_by
        assert found.outcome.final.total == pytest.approx(wanted.outcome.final.total, rel=1e-3)
        difference = (picture(found, seed) - picture(wanted, seed)).abs()
        assert float(difference.mean()) < 0.5 / 255
        assert float(difference.max()) < 8 / 255
    assert max(together.batches) >= 3, "they met"

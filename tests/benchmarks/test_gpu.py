"""The benchmark of a card, end to end on the CPU at small sizes with the built-in network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from services.stylizer.features import FeatureNetwork
from tests.benchmarks.card.accuracy import accuracies
from tests.benchmarks.card.evaluation import evaluation
from tests.benchmarks.card.rates import machine
from tests.benchmarks.card.report import report
from tests.benchmarks.card.solves import solved, throughput
from tests.benchmarks.gpu import rendered
from tests.benchmarks.pairs import feature_network
from tests.demo import CONTENT, STYLE

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not (CONTENT.file and STYLE.file), reason="needs the photos of the demo extra")


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return feature_network("builtin")


def test_an_evaluation_has_two_floors(network: FeatureNetwork) -> None:
    found = machine(CPU, 256)
    assert {"fp32", "bf16"} == set(found.flops)
    assert min(*found.flops.values(), found.copy_bytes) > 0
    round_rates = replace(found, flops=dict.fromkeys(found.flops, 1e12), copy_bytes=1e9)  # its own vary with the load
    small, large = (evaluation(network, edge, round_rates) for edge in (64, 128))
    for each in (small, large):
        assert each.floor_operations == pytest.approx(each.operations / 1e12)
        assert each.floor_bytes == pytest.approx(each.bytes / 1e9)
        assert sum(each.shares.values()) == pytest.approx(1)
        assert each.shares["convolution"] > 0.05
    assert 2.5 < large.operations / small.operations < 5, "they grow with the pixels"
    assert 2.5 < large.bytes / small.bytes < 5


def test_solves_at_once_meet_and_differ_little_from_one_alone(network: FeatureNetwork) -> None:
    one, two = (throughput(network, 96, slots) for slots in (1, 2))
    assert one.batch == 1
    assert 1.2 < two.batch <= 2
    for each in (one, two):
        assert each.difference < 1.5 / 255, "0 to 0.6 with one slot at so few pixels: what rounding makes of it"
        assert each.difference <= each.largest < 32 / 255
    assert two.foretold_bytes == 2 * one.foretold_bytes > 0


def test_half_precision_is_less_accurate_than_single(network: FeatureNetwork) -> None:
    single, half = accuracies(network, 96)
    assert (single.precision, half.precision) == ("fp32", "bf16")
    assert single.value < 1e-4
    assert single.gradient < 1e-2
    assert 1e-3 < half.gradient < 0.5
    assert half.cosine > 0.9


def test_the_report_has_a_row_of_each(network: FeatureNetwork) -> None:
    found = machine(CPU, 128)
    solve = solved(network, 64, 2)
    assert (solve.edge_px, solve.paper_evaluations) == (64, 2)
    assert solve.evaluations > 2
    throughputs = [throughput(network, 64, slots) for slots in (1, 2)]
    evaluations, renders = [evaluation(network, 64, found)], {1: rendered(CPU, 1)}
    accurate = accuracies(network, 64)
    lines = report(found, "student", evaluations, accurate, [solve], throughputs, renders, "command")
    assert len([line for line in lines if line.startswith("| 64 px")]) == 6
    assert any(line.startswith("| 1 |") for line in lines)

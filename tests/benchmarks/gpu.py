"""How near the solver comes to what the machine can do: floors, evaluations, solves, rendering, on a card or a CPU.

    python -m tests.benchmarks.gpu [--device cuda:0|cpu] [--edges 256 512 700] [--megapixels 12 24 45]
        [--slots 1 4 16] [--paper-evaluations 2000] [--out docs/benchmarks]

First the machine: dense matrix products in each precision, and copies. Then one evaluation at each size, beside its two
floors: operations (counted) over the product's rate, and bytes (of every operator's inputs and outputs, as if nothing
were fused) over the copy's rate, and what float32, TF32 and bfloat16 cost in accuracy. Then solves at standard quality
and, on the same photos, ``mode = paper``; then many solves at once, in so many threads as a worker has slots, which
share the network (``core/evaluator.py``); then rendering. Memory stands beside what ``footprint.py`` foretells. Photos
are those of the demo, one region. Without a card use small sizes, e.g. ``--edges 128 --slots 1 2 --megapixels 3
--paper-evaluations 20``. Writes ``gpu.md`` and ``gpu.json``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from services.common.models import embedded_models_dir, find_model
from services.stylizer.core.affine_render import render
from services.stylizer.features import load_features
from tests.benchmarks.card.accuracy import accuracies
from tests.benchmarks.card.evaluation import evaluation
from tests.benchmarks.card.rates import machine, median_seconds
from tests.benchmarks.card.report import report
from tests.benchmarks.card.solves import solved, throughput
from tests.benchmarks.machine import models_dir
from tests.benchmarks.pairs import ROOT

__all__ = ["rendered"]


def rendered(device: torch.device, megapixels: int) -> float:
    """Seconds to render noise of so many megapixels, 8 bits, by maps of a solve at 1024 px."""
    width = round((megapixels * 1.5e6) ** 0.5)
    photo = np.random.default_rng(0).integers(0, 255, (round(width / 1.5), width, 3), np.uint8)
    maps = torch.eye(3, 4, device=device)[:, :, None, None].repeat(1, 1, 683, 1024)
    return median_seconds(lambda: render(maps, photo, 1.0, "none", 8, lambda: False), device, 3)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--edges", type=int, nargs="+", default=[256, 512, 700])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--megapixels", type=int, nargs="+", default=[12, 24, 45])
    parser.add_argument("--paper-evaluations", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    device = torch.device(options.device)
    model = find_model(models_dir(), "features", "auto", embedded_models_dir("features"))
    assert model is not None, "the package carries one"
    network = load_features(model, device)
    found = machine(device, 8192 if device.type == "cuda" else 1024)
    evaluations = [evaluation(network, edge, found) for edge in options.edges]
    accurate = [each for edge in options.edges for each in accuracies(network, edge)]
    solves = [solved(network, edge, options.paper_evaluations) for edge in options.edges]
    throughputs = [throughput(network, edge, slots) for edge in options.edges for slots in options.slots]
    renders = {megapixels: rendered(device, megapixels) for megapixels in options.megapixels}
    lists = {"edges": options.edges, "slots": options.slots, "megapixels": options.megapixels}
    command = " ".join(
        [
            f"python -m tests.benchmarks.gpu --device {options.device}",
            *(f"--{name} {' '.join(map(str, values))}" for name, values in lists.items()),
            f"--paper-evaluations {options.paper_evaluations}",
        ]
    )
    lines = report(found, f"{model.name}/{model.version}", evaluations, accurate, solves, throughputs, renders, command)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.md").write_text("\n".join(lines), encoding="utf-8")
    record = {
        "machine": asdict(found),
        "evaluations": [asdict(each) for each in evaluations],
        "accuracies": [asdict(each) for each in accurate],
        "solves": [asdict(each) for each in solves],
        "throughputs": [asdict(each) for each in throughputs],
        "render_seconds": renders,
    }
    (options.out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

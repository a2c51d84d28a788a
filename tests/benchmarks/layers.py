"""Which layers of VGG-19 the style distance of the development pairs comes from.

    python -m tests.benchmarks.layers

For each pair, at 384 px with the given masks: the share of each layer in the untouched photo's style distance, and in
the published picture's. Writes ``docs/benchmarks/layers.md``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.stylizer.core.losses import layer_style_loss
from services.stylizer.core.objective import StyleGoal
from services.stylizer.core.params import TransferParams
from tests.benchmarks.judged import transfer_of
from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT, Pair, feature_network, pair_names
from tests.benchmarks.report import report

_EDGE_PX = 384


def main() -> None:
    """Measure and write the table."""
    network = feature_network()
    rows = []
    for name in pair_names(None):
        pair = Pair.load(name, _EDGE_PX)
        transfer = transfer_of(pair, network, TransferParams())
        goal = transfer.goal(transfer.match())
        rows.append((name, _shares(goal, pair.I), _shares(goal, pair.P)))
        print(name, rows[-1], flush=True)
    layers = list(rows[0][1])
    lines = [
        "# Share of each layer in the style distance",
        "",
        "Made by `python -m tests.benchmarks.layers`.",
        f"{described()}, features {network.info.name}/{network.info.version}, {_EDGE_PX} px, given masks.",
        "Per cent: of the untouched photo / of the published picture.",
        "",
        "| pair | " + " | ".join(layers) + " |",
        "|---" * (1 + len(layers)) + "|",
        *[
            f"| {name} | " + " | ".join(f"{100 * I[layer]:.2f} / {100 * P[layer]:.2f}" for layer in layers) + " |"
            for name, I, P in rows
        ],
    ]
    report(lines, ROOT / "docs/benchmarks", "layers")


@torch.no_grad()
def _shares(goal: StyleGoal, picture: Tensor) -> dict[str, float]:
    features = goal.trunk(picture[None], goal.layers.style)
    terms = {name: float(layer_style_loss(features[name], layer)) for name, layer in goal.goals.items()}
    return {name: term / sum(terms.values()) for name, term in terms.items()}


if __name__ == "__main__":
    main()

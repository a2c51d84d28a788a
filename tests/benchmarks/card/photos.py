"""The photos of the benchmark of a card."""

from __future__ import annotations

from typing import Any

import torch

from services.common.images import open_photo
from services.stylizer.core.params import TransferParams
from services.stylizer.core.transfer import Regions, Transfer
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.pairs import LIMITS, tensor
from tests.demo import CONTENT, STYLE

__all__ = ["transfer"]


def transfer(network: FeatureNetwork, edge_px: int, **params: Any) -> Transfer:
    """The demo's photos at a long edge, one region each."""
    files = (CONTENT.needed(), STYLE.needed())
    I, S = (tensor(open_photo(f.read_bytes(), f.name, LIMITS).proxy(edge_px, None)).to(network.device) for f in files)
    regions = [Regions(torch.zeros(p.shape[1:], dtype=torch.long, device=network.device), ("",)) for p in (I, S)]
    return Transfer(network.trunk, TransferParams(solve_edge_px=edge_px, **params), I, S, *regions, {})

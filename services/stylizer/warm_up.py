"""What a worker does before its first job: load the weights, and run once through everything that it will do."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import structlog
import torch

from services.common.config import StylizerSettings
from services.common.models import ModelError, embedded_models_dir, find_model, user_models_dir
from services.stylizer.core.affine_render import render
from services.stylizer.core.params import CHOICES, PRESETS, TransferParams
from services.stylizer.core.transfer import Regions, Transfer, TransferResult
from services.stylizer.features import FeatureNetwork, load_features, pick_device
from services.stylizer.shapes import camera_shapes

__all__ = ["try_shapes", "warm_network"]

_EVALUATIONS_OF_ALL_LEVELS = 3

_log = structlog.stdlib.get_logger(__name__)


def warm_network(settings: StylizerSettings, index: int) -> FeatureNetwork:
    """Load the weights and run once through everything, so that the first request compiles nothing.

    Args:
        settings: of the stylizer process.
        index: of the worker, from 0; with CUDA that of its device.

    Raises:
        ModelError: a model cannot be used, or the device is not there.
    """
    device = pick_device(settings.device, index)
    models_dir = settings.models_dir or user_models_dir()
    model = find_model(models_dir, "features", settings.features_model, embedded_models_dir("features"))
    if model is None:
        raise ModelError("the package has lost its own feature network; install dpst anew or set DPST_MODELS_DIR")
    network = load_features(model, device)
    for mode in CHOICES["mode"]:
        result = _tried(network, 96, 96, mode=mode, max_evaluations=2)  # field: one on the grid, one on pixels
    for source, bit_depth in itertools.product((np.uint8, np.uint16), (8, 16)):
        pixels = np.zeros((8, 8, 3), source)
        render(result.outcome.coefficients, pixels, 1.0, "none", bit_depth, lambda: False)
    if device.type == "cuda":  # plans its convolutions for each size anew; a CPU does that in no time
        for preset in PRESETS["field"].values():
            try_shapes(network, preset.solve_edge_px)
    info = network.info
    _log.info("feature network is warm", model=info.name, device=info.device, description=info.description)
    return network


def try_shapes(network: FeatureNetwork, edge_px: int) -> int:
    """Evaluate once at every size of every level that photos of cameras are solved at; how many proxies these are."""
    began, shapes = time.monotonic(), list(camera_shapes(edge_px))
    for width, height in shapes:
        _tried(network, width, height, solve_edge_px=edge_px, max_evaluations=_EVALUATIONS_OF_ALL_LEVELS)
    seconds = round(time.monotonic() - began, 3)
    _log.info("sizes are warm", edge_px=edge_px, shapes=len(shapes), seconds=seconds)
    return len(shapes)


def _tried(network: FeatureNetwork, width: int, height: int, **params: Any) -> TransferResult:
    """Solve noise, one region."""
    generator = torch.Generator().manual_seed(0)
    I, S = (torch.rand(3, height, width, generator=generator).to(network.device) for _ in range(2))
    regions = Regions(torch.zeros(height, width, dtype=torch.uint8, device=network.device), ("all",))
    transfer = Transfer(network.trunk, TransferParams(**params), I, S, regions, regions, {})
    return transfer.run(lambda _: None, lambda _: None, lambda: False)

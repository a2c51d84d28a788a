"""What a job's header says about its memory; the figures themselves come from ``tests.benchmarks.memory``."""

from dataclasses import replace

import numpy as np

from services.common.images import OutputFormat
from services.common.label_maps import LabelMap
from services.stylizer.core.params import TransferParams
from services.stylizer.footprint import predicted
from services.stylizer.jobs import RenderJob, StylizeJob

SOLVE = StylizeJob("id", b"", b"", None, None, TransferParams(solve_edge_px=512), OutputFormat(), pixels=2_000_000)
RENDER = RenderJob("id", b"", b"", 1.0, "none", OutputFormat(), pixels=2_000_000)
MIB = 1 << 20


def test_memory_grows_with_photo_solve_labels_and_network() -> None:
    least = predicted(RENDER, "vgg19-student").host
    solve = predicted(SOLVE, "vgg19-student").host
    assert 50 * MIB < least < solve < 600 * MIB
    assert predicted(replace(SOLVE, pixels=48_000_000), "vgg19-student").host - solve > 500 * MIB
    assert predicted(replace(SOLVE, params=TransferParams(solve_edge_px=1024)), "vgg19-student").host > 3 * solve
    labels = LabelMap(np.zeros((8, 8), np.uint8), {n: f"label-{n}" for n in range(10)})
    assert predicted(replace(SOLVE, content_labels=labels), "vgg19-student").host > 1.8 * solve
    assert predicted(SOLVE, "vgg19-caffe").host == predicted(SOLVE, "somebodys-net").host > 1.4 * solve

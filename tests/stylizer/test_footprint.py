"""What a job's header says about its memory; the figures themselves come from ``tests.benchmarks.memory``."""

from dataclasses import replace

import numpy as np

from services.common.images import OutputFormat
from services.common.label_maps import LabelMap
from services.stylizer.core.params import TransferParams
from services.stylizer.footprint import predicted_bytes
from services.stylizer.jobs import RenderJob, StylizeJob

SOLVE = StylizeJob("id", b"", b"", None, None, TransferParams(solve_edge_px=512), OutputFormat(), pixels=2_000_000)
RENDER = RenderJob("id", b"", b"", 1.0, "none", OutputFormat(), pixels=2_000_000)
MIB = 1 << 20


def test_memory_grows_with_photo_solve_labels_and_network() -> None:
    least = predicted_bytes(RENDER, "vgg19-student")
    solve = predicted_bytes(SOLVE, "vgg19-student")
    assert 50 * MIB < least < solve < 600 * MIB
    assert predicted_bytes(replace(SOLVE, pixels=48_000_000), "vgg19-student") - solve > 500 * MIB
    assert predicted_bytes(replace(SOLVE, params=TransferParams(solve_edge_px=1024)), "vgg19-student") > 3 * solve
    labels = LabelMap(np.zeros((8, 8), np.uint8), {n: f"label-{n}" for n in range(10)})
    assert predicted_bytes(replace(SOLVE, content_labels=labels), "vgg19-student") > 1.8 * solve
    assert predicted_bytes(SOLVE, "vgg19-caffe") == predicted_bytes(SOLVE, "somebodys-net") > 1.4 * solve

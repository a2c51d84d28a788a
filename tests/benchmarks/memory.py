"""Memory of a stylizer's worker: what one job adds to the warm process, by photo, solve size, labels and network.

    python -m tests.benchmarks.memory [--models-dir ../shared/models] [--out build/benchmarks/memory]

Each case runs in a process of its own, because a peak never falls again. Prints the table, fits the coefficients of
``services/stylizer/footprint.py`` and shows how far its forecasts are off.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyvips

from services.common.config import StylizerSettings
from services.common.images import ImageLimits, OutputFormat
from services.common.label_maps import LabelMap
from services.stylizer.core.params import TransferParams
from services.stylizer.footprint import predicted
from services.stylizer.jobs import StylizeJob
from tests.benchmarks.machine import described
from tests.benchmarks.report import report

_MIB = 1 << 20
_NAMES = {"builtin": "vgg19-student"}


@dataclass(frozen=True)
class Case:
    """One job: photo in megapixels and bits, long edge and labels of the solve, network."""

    network: str
    megapixels: float
    bits: int
    solve_edge_px: int
    labels: int
    mode: str = "field"


CASES = [
    *(Case(network, 2, 8, edge, 1) for network in ("builtin", "vgg19-caffe") for edge in (256, 512, 700, 1024)),
    *(Case(network, 2, 8, 512, labels) for network in ("builtin", "vgg19-caffe") for labels in (4, 10)),
    *(Case("builtin", megapixels, bits, 256, 1) for megapixels in (12, 48) for bits in (8, 16)),
    *(Case("builtin", 2, 8, edge, 1, "paper") for edge in (256, 512)),
]


def main() -> None:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=Path("../shared/models"))
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/memory"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        _child(Case(**json.loads(options.case)), options.models_dir)
        return
    lines = [
        "# Memory of one job",
        "",
        f"Made by `python -m tests.benchmarks.memory`. {described()}.",
        "MiB that one job adds to the warm worker at its peak, and what `services/stylizer/footprint.py` foretells.",
        "",
        "| network | mode | photo MP | bits | solve px | labels | warm | job adds | foretold | foretold / real |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--models-dir", str(options.models_dir)]
        run = subprocess.run([*command, "--case", json.dumps(asdict(case))], capture_output=True, text=True, check=True)
        warm, peak = json.loads(run.stdout.splitlines()[-1])
        added, foretold = (
            (peak - warm) / _MIB,
            predicted(_job(case), _NAMES.get(case.network, case.network)).host / _MIB,
        )
        lines.append(
            f"| {case.network} | {case.mode} | {case.megapixels:g} | {case.bits} | {case.solve_edge_px} "
            f"| {case.labels} | {warm / _MIB:.0f} | {added:.0f} | {foretold:.0f} | {foretold / added:.2f} |"
        )
        print(lines[-1], flush=True)
    report(lines, options.out, "memory")


def _child(case: Case, models_dir: Path) -> None:
    from services.stylizer.pipeline import Pipeline
    from services.stylizer.warm_up import warm_network
    from services.stylizer.worker import _prepare_thread

    settings = StylizerSettings(
        device="cpu", models_dir=None if case.network == "builtin" else models_dir, features_model=case.network
    )
    _prepare_thread(settings)
    network = warm_network(settings, 0)
    warm = _peak()
    Pipeline(network, ImageLimits.of(settings), lambda _: None, lambda: False).run(_job(case))
    print(json.dumps([warm, _peak()]))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _job(case: Case) -> StylizeJob:
    width = round((case.megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(width * 3 / 4)
    photo = _photo(width, height, case.bits)
    indices = np.repeat(np.arange(case.labels, dtype=np.uint8), 240 // case.labels + 1)[:240]
    labels = LabelMap(np.tile(indices[:, None], (1, 320)), {n: f"label-{n}" for n in range(case.labels)})
    params = TransferParams(mode=case.mode, solve_edge_px=case.solve_edge_px, max_evaluations=12)
    return StylizeJob("id", photo, photo, labels, labels, params, OutputFormat("png"), width * height)


def _photo(width: int, height: int, bits: int) -> bytes:
    noise = pyvips.Image.gaussnoise(width // 8, height // 8, mean=128, sigma=50).resize(8.01)
    image = noise.crop(0, 0, width, height).bandjoin([noise.crop(0, 0, width, height)] * 2)
    image = image.cast("uchar").copy(interpretation="srgb")
    if bits == 16:
        image = (image * 257).cast("ushort").copy(interpretation="rgb16")
    return bytes(image.pngsave_buffer(compression=1))


if __name__ == "__main__":
    main()

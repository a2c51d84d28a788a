"""Rows of a long benchmark, kept with their pictures as they are measured, so that a run that was cut short goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyvips
import torch
from numpy.typing import NDArray

from services.stylizer.core.params import TransferParams
from services.stylizer.core.results import LabelQuality, Quality
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.judged import Row, Solved
from tests.benchmarks.pairs import ROOT

__all__ = ["KeptRows", "row_of"]

_CODE = ("services/stylizer/core", "services/common/images", "tests/benchmarks/judged.py", "tests/benchmarks/pairs.py")


class KeptRows:
    """A folder of rows, each good for the code, network, threads and parameters that it was measured with.

    Args:
        folder: made when it is needed.
        network: that is measured with.
        anew: measure also what is kept, for seconds that other work on the machine has spoiled.
    """

    def __init__(self, folder: Path, network: FeatureNetwork, anew: bool) -> None:
        self._folder, self._anew = folder, anew
        self._base = f"{_code()} {network.info} {torch.get_num_threads()}"

    def row(
        self, pair: str, params: TransferParams, measure: Callable[[], tuple[Row, NDArray[np.uint8]]]
    ) -> tuple[Row, Path]:
        """The row as it was kept, or measured now; and the file of its picture."""
        key = hashlib.sha256(f"{self._base} {sorted(_effective(params).items())}".encode()).hexdigest()
        path = self._folder / f"{pair}-{key[:16]}.json"
        picture = path.with_suffix(".png")
        if path.exists() and not self._anew:
            return row_of(path.read_text(encoding="utf-8")), picture
        row, pixels = measure()
        self._folder.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(bytes(pyvips.Image.new_from_array(pixels).pngsave_buffer()))
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(asdict(row)), encoding="utf-8")
        unfinished.replace(path)
        return row, picture


def row_of(text: str) -> Row:
    """A row from its JSON."""
    record = json.loads(text)
    ours = {**record["ours"], "quality": _quality(record["ours"]["quality"])}
    return Row(record["pair"], Solved(**ours), _quality(record["published"]))


def _quality(record: dict[str, object]) -> Quality:
    labels = record["labels"]
    assert isinstance(labels, list)
    return Quality(**{**record, "labels": tuple(LabelQuality(**label) for label in labels)})


def _effective(params: TransferParams) -> dict[str, object]:
    """Without ``quality``, which only chooses the others."""
    return {name: value for name, value in asdict(params).items() if name != "quality"}


def _code() -> str:
    """Hash of the source that a row depends on; not of the commit, which a change of documents moves."""
    digest = hashlib.sha256()
    for name in _CODE:
        path = ROOT / name
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(source.relative_to(ROOT)).encode() + source.read_bytes())
    return digest.hexdigest()

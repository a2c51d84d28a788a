"""What a benchmark's figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

__all__ = ["described", "models_dir", "pairs_dir"]

_ROOT = Path(__file__).parents[2]


def described(cores: int | None = None) -> str:
    """One line: date, commit, processor, cores (those that this process may use if not told), versions."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    cores = cores or len(os.sched_getaffinity(0))
    return f"{date.today().isoformat()}, commit {commit}, {processor}, {cores} cores, torch {torch.__version__}"


def models_dir() -> Path:
    """``DPST_MODELS_DIR``, or the development models beside the checkout."""
    return Path(os.environ.get("DPST_MODELS_DIR", _ROOT.parent / "shared/models"))


def pairs_dir() -> Path:
    """The photo pairs under ``DPST_TEST_DATA``, or those beside the checkout."""
    return Path(os.environ.get("DPST_TEST_DATA", _ROOT.parent / "shared/data")) / "pairs"

"""``python -m services.segmentation``: the segmentation process, set up by ``DPST_`` variables."""

from __future__ import annotations

import sys

from services.common.config import SegmentationSettings
from services.common.kernel_cache import ensure_kernel_cache
from services.common.openmp import ensure_short_waits
from services.common.process import run_process


def main() -> int:
    """Serve until told to stop; return the exit status."""
    ensure_kernel_cache()
    ensure_short_waits()
    from services.segmentation.service import SegmentationService

    return run_process("segmentation", SegmentationSettings, SegmentationService)


if __name__ == "__main__":
    sys.exit(main())

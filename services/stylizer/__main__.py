"""``python -m services.stylizer``: the stylizer process."""

from __future__ import annotations

import sys

from services.common.config import StylizerSettings
from services.common.kernel_cache import ensure_kernel_cache
from services.common.openmp import ensure_short_waits
from services.common.process import run_process
from services.stylizer.servicer import StylizerService


def main() -> int:
    """Serve until told to stop; gives the exit status."""
    ensure_kernel_cache()  # the workers inherit it
    ensure_short_waits()
    return run_process("stylizer", StylizerSettings, StylizerService)


if __name__ == "__main__":
    sys.exit(main())

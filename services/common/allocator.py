"""What the C library does with the memory of a photo that is done: keep it for the next one, or give it back."""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["keep_freed_memory"]

_KEPT_BYTES: Final = 128 << 20
"""At most so much freed memory stays with a process, at the end of its heap."""

_LARGE_BYTES: Final = 64 << 20
"""From this size on a block is the system's own mapping, which goes back when it is freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>

_VARIABLES: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; whether it could be told to.

    Messages of megabytes come and go with each request. The GNU C library gives their memory back to the system each
    time, and takes it again page by page: a quarter of what gateway and transport add to a photo of 12 MP
    (``python -m tests.benchmarks.transport``, and again with ``GLIBC_TUNABLES=glibc.malloc.tcache_count=7``, which does
    nothing but keep this from it). Other C libraries have no such switch. What the operator has set stays.
    """
    if any(variable in os.environ for variable in _VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))

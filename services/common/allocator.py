"""What the C library does with the memory of a photo that is done, and how much it has given out."""

from __future__ import annotations

import ctypes
import os
from typing import ClassVar, Final

__all__ = ["allocated_bytes", "keep_freed_memory"]

_KEPT_BYTES: Final = 128 << 20
"""At most so much freed memory stays with a process, at the end of its heap."""

_LARGE_BYTES: Final = 64 << 20
"""From this size on a block is the system's own mapping, which goes back when it is freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>

_VARIABLES: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


class _MallInfo2(ctypes.Structure):
    """``struct mallinfo2`` of <malloc.h>, GNU C library 2.33 or newer."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks")],
        ("hblkhd", ctypes.c_size_t),  # bytes in mappings of their own
        *[(name, ctypes.c_size_t) for name in ("usmblks", "fsmblks")],
        ("uordblks", ctypes.c_size_t),  # bytes of the heap that are in use
        *[(name, ctypes.c_size_t) for name in ("fordblks", "keepcost")],
    ]


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


def allocated_bytes() -> int | None:
    """Bytes that this process has of the C library and has not freed; None if the library does not say.

    Resident memory holds freed memory too, and the holes between what is not: a leak shows here first. CPython has
    the system map what its small objects lie in, past the C library; with ``PYTHONMALLOC=malloc`` they are counted too.
    """
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    mallinfo2.restype = _MallInfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)

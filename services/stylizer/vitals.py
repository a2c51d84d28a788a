"""What a worker shows of itself without being asked, in memory that it shares with its parent."""

from __future__ import annotations

import ctypes

__all__ = ["Vitals"]


class Vitals(ctypes.Structure):
    """Times on the machine's monotonic clock, which all its processes share; 0 until the worker is warm.

    Attributes:
        beat: when the main thread was last seen.
        moved: when the job that is silent for longest last asked whether it should stop; as ``beat`` without a job.
        card_allocated: bytes of tensors on the card; 0 without one.
        card_reserved: bytes that PyTorch holds of the card, what it keeps for the next job included.
        card_room: bytes of the card that were there for jobs when the worker had become warm; 0 without one.
    """

    _fields_ = (
        ("beat", ctypes.c_double),
        ("moved", ctypes.c_double),
        ("card_allocated", ctypes.c_uint64),
        ("card_reserved", ctypes.c_uint64),
        ("card_room", ctypes.c_uint64),
    )

"""How long OpenMP's threads wait for each other before they sleep, where processes share cores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["SHORT_WAITS", "WAITS", "ensure_short_waits"]

WAITS: Final = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Variables that say how long threads wait."""

SHORT_WAITS: Final[Mapping[str, str]] = {"GOMP_SPINCOUNT": "1000"}


def ensure_short_waits() -> None:
    """To be called before torch or Numba are imported, in this process or one that it spawns.

    GCC's OpenMP, which torch brings, spins at the end of each loop until all threads have come. With a second process
    on the same cores the thread that it waits for often has no core, because the waiting one has it: two solves side by
    side took 14 s each where one alone takes 4 s (``python -m tests.benchmarks.neighbours``). What the operator has set
    stays.
    """
    if not any(variable in os.environ for variable in WAITS):
        os.environ.update(SHORT_WAITS)

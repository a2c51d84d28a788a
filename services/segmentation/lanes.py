"""The photos of a batch divided over the cores of a CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Lanes"]

_S = TypeVar("_S")


class Lanes(Generic[_S]):
    """One narrow session for each lane, and a wide one that has all cores.

    Convolutions keep a core busy with a single photo, a tensor of many photos leaves its cache, and threads that share
    a photo wait for each other at every layer. So each core takes photo after photo, and only a photo that would leave
    the other cores idle gets all of them.

    Args:
        narrow: sessions that run side by side; none = everything runs on the wide one.
        wide: the session with all cores.
    """

    def __init__(self, narrow: Sequence[_S], wide: _S) -> None:
        self._narrow = narrow
        self._wide = wide
        self._threads = ThreadPoolExecutor(max(1, len(narrow)), thread_name_prefix="lane")

    @property
    def count(self) -> int:
        """How many positions are worked on at the same time."""
        return max(1, len(self._narrow))

    @property
    def sessions(self) -> list[_S]:
        """Every session once."""
        return [*self._narrow, self._wide]

    def run(self, count: int, work: Callable[[_S, int], None]) -> None:
        """Call ``work(session, position)`` for every position below ``count``; return when all are through.

        ``work`` must not raise.
        """
        lanes = len(self._narrow)
        together = 0 if lanes < 2 else count - (count % lanes == 1)
        waiting = deque(range(together))

        def lane(session: _S) -> None:
            while True:
                try:
                    position = waiting.popleft()
                except IndexError:
                    return
                work(session, position)

        running = [self._threads.submit(lane, session) for session in self._narrow[:together]]
        for each in running:
            each.result()
        for position in range(together, count):
            work(self._wide, position)

"""How much memory a job will need, from what its header says; calibrated by ``python -m tests.benchmarks.memory``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from services.stylizer.jobs import Job, StylizeJob

__all__ = ["Footprint", "predicted"]


class Footprint(NamedTuple):
    """Bytes of memory: the process's, and of its card, 0 without one."""

    host: int
    card: int = 0

    def holds(self, others: Iterable[Footprint]) -> bool:
        """Whether all of them together are within this one."""
        host, card = map(sum, zip(*others, strict=True))
        return bool(host <= self.host and card <= self.card)


_FIXED = 60 << 20
_PHOTO_BYTES = 14
"""A pixel of the photo: decoded, rendered and encoded, 16 bits a channel at the worst."""

_SOLVE_BYTES = {"student": 1300, "vgg19": 2350}
_LABEL_BYTES = {"student": 215, "vgg19": 170}
"""A pixel of the solve: features, gradients and the history of L-BFGS; and each label's masked copies of features."""


def predicted(job: Job, network: str, *, on_card: bool = False) -> Footprint:
    """What a job adds to the warm worker at its peak.

    Args:
        job: its photo's size, and of a solve the long edge and the number of labels, decide.
        network: name of the feature network; all but ``...student`` count as a VGG-19.
        on_card: whether the network is on one: the solve is then, too, while photos are decoded and written by the
            CPU. The figures of a solve are those of the CPU; ``tests.benchmarks.gpu`` compares them with a card's.
    """
    around = _FIXED + _PHOTO_BYTES * job.pixels
    if not isinstance(job, StylizeJob):
        return Footprint(around, _FIXED if on_card else 0)
    kind = "student" if network.endswith("student") else "vgg19"
    labels = 1 if job.content_labels is None else len(job.content_labels.names)
    solve = (_SOLVE_BYTES[kind] + _LABEL_BYTES[kind] * labels) * job.params.solve_edge_px**2
    return Footprint(around, _FIXED + solve) if on_card else Footprint(around + solve)

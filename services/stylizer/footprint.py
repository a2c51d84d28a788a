"""How much memory a job will need, from what its header says; calibrated by ``python -m tests.benchmarks.memory``."""

from __future__ import annotations

from services.stylizer.jobs import Job, StylizeJob

__all__ = ["predicted_bytes"]

_FIXED = 60 << 20
_PHOTO_BYTES = 14
"""A pixel of the photo: decoded, rendered and encoded, 16 bits a channel at the worst."""

_SOLVE_BYTES = {"student": 1300, "vgg19": 2350}
_LABEL_BYTES = {"student": 215, "vgg19": 170}
"""A pixel of the solve: features, gradients and the history of L-BFGS; and each label's masked copies of features."""


def predicted_bytes(job: Job, network: str) -> int:
    """What a job adds to the warm worker at its peak.

    Args:
        job: its photo's size, and of a solve the long edge and the number of labels, decide.
        network: name of the feature network; all but ``...student`` count as a VGG-19.
    """
    found = _FIXED + _PHOTO_BYTES * job.pixels
    if isinstance(job, StylizeJob):
        kind = "student" if network.endswith("student") else "vgg19"
        labels = 1 if job.content_labels is None else len(job.content_labels.names)
        found += (_SOLVE_BYTES[kind] + _LABEL_BYTES[kind] * labels) * job.params.solve_edge_px**2
    return found

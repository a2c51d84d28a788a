"""What crosses the boundary between the gRPC process and its worker: plain values that pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.common.images import OutputFormat, PhotoInfo
from services.common.label_maps import LabelMap
from services.stylizer.core.matching import LabelMatch
from services.stylizer.core.params import TransferParams
from services.stylizer.core.results import Losses, Quality

__all__ = [
    "Checkpointed",
    "Ended",
    "ExportJob",
    "Exported",
    "Failed",
    "Finished",
    "Iterated",
    "Job",
    "Lut",
    "NetworkInfo",
    "Picture",
    "Queued",
    "Ready",
    "RenderJob",
    "Rendered",
    "StageBegan",
    "StylizeJob",
    "WorkerEvent",
]


@dataclass(frozen=True)
class StylizeJob:
    """Solve a look and render it.

    ``pixels`` are the content photo's. ``checkpoint`` is one of this job to go on from, empty = from the warm start.
    ``solve_until`` is when the solve has to end with what it has, on the machine's monotonic clock; 0 = no such time.
    """

    request_id: str
    content: bytes
    style: bytes
    content_labels: LabelMap | None
    style_labels: LabelMap | None
    params: TransferParams
    output: OutputFormat
    pixels: int = 0
    checkpoint: bytes = b""
    solve_until: float = 0.0


@dataclass(frozen=True)
class RenderJob:
    """Render a solved look."""

    request_id: str
    look: bytes
    content: bytes
    strength: float
    preserve: str
    output: OutputFormat
    pixels: int = 0


@dataclass(frozen=True)
class ExportJob:
    """Turn a solved look into lookup tables: of one label ("" = the whole picture), or of each if ``per_label``.

    The tables must not exceed ``max_bytes`` together.
    """

    request_id: str
    look: bytes
    content: bytes
    points: int
    label: str
    per_label: bool
    max_bytes: int
    pixels: int = 0


Job = StylizeJob | RenderJob | ExportJob


@dataclass(frozen=True)
class NetworkInfo:
    """The feature network, as a report names it."""

    name: str
    version: str
    device: str
    built_in: bool
    description: str


@dataclass(frozen=True)
class Ready:
    """The worker is warm: weights loaded and a dry pass done."""

    network: NetworkInfo


@dataclass(frozen=True)
class Queued:
    """``position`` requests are ahead; made by the gRPC process, not the worker."""

    position: int
    eta_seconds: float


@dataclass(frozen=True)
class StageBegan:
    """A stage began: decode, warm_start, solve, score, render, encode or export."""

    stage: str


@dataclass(frozen=True)
class Iterated:
    """One evaluation is done; ``together`` is for how many photos it was made at once."""

    evaluation: int
    max_evaluations: int
    losses: Losses
    elapsed_seconds: float
    remaining_seconds: float
    preview_jpeg: bytes
    together: int = 1


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint after so many evaluations, for ``StylizeJob.checkpoint``."""

    data: bytes
    evaluations: int


@dataclass(frozen=True)
class Picture:
    """The encoded result."""

    data: bytes
    info: PhotoInfo


@dataclass(frozen=True)
class Finished:
    """A solve is finished; what its report says."""

    params: TransferParams
    network: NetworkInfo
    matches: tuple[LabelMatch, ...]
    first: Losses
    final: Losses
    evaluations: int
    stopped_by: str
    quality: Quality
    look: bytes
    stage_seconds: Mapping[str, float]
    peak_memory_bytes: int
    content: PhotoInfo
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Rendered:
    """A rendering is finished."""

    stage_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Lut:
    """One lookup table as a .cube file, fitted on ``area_share`` of the photo.

    ``mean``, ``p95`` and ``max`` are CIEDE2000 differences between table and look on these pixels.
    """

    label: str
    points: int
    cube: bytes
    area_share: float
    mean: float
    p95: float
    max: float


@dataclass(frozen=True)
class Exported:
    """An export is finished; labels that no pixel of the photo has got no table."""

    luts: tuple[Lut, ...]
    labels_without_pixels: tuple[str, ...]
    stage_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Failed:
    """The job ended with an error; ``ServiceError`` goes to the caller, everything else to the log."""

    error: Exception


@dataclass(frozen=True)
class Ended:
    """The worker is free again; the last event of every job."""


WorkerEvent = Ready | StageBegan | Iterated | Checkpointed | Picture | Finished | Rendered | Exported | Failed | Ended

"""Messages of ``dpst.v1`` to jobs, and a worker's events to messages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from dpst.v1 import labels_pb2, look_pb2, params_pb2, progress_pb2, report_pb2, stylizer_pb2

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.images import ImageLimits, OutputFormat, PhotoInfo, open_photo
from services.common.label_maps import LabelMap, check_matches_photo
from services.common.wire import (
    image_bytes,
    image_info_message,
    label_map_from_message,
    output_format,
    picture_chunks,
)
from services.stylizer.core.errors import ParameterError
from services.stylizer.core.lut import DEFAULT_POINTS, POINTS
from services.stylizer.core.params import TransferParams
from services.stylizer.core.results import CHECKPOINT_VERSION, LOOK_VERSION, Losses, Quality
from services.stylizer.jobs import (
    Checkpointed,
    Exported,
    ExportJob,
    Finished,
    Iterated,
    NetworkInfo,
    Picture,
    Queued,
    RenderJob,
    StageBegan,
    StylizeJob,
    WorkerEvent,
)
from services.stylizer.slots import Priority

__all__ = [
    "expected_job",
    "export_job",
    "export_response",
    "params_from_message",
    "params_message",
    "priority",
    "queued_message",
    "render_job",
    "stage_times",
    "stylize_job",
    "stylize_responses",
]

_ENUMS: Mapping[str, Any] = {
    "mode": params_pb2.Mode,
    "preserve": params_pb2.Preserve,
    "quality": params_pb2.QualityPreset,
    "label_policy": labels_pb2.LabelPolicy,
}
_PREFIXES = {
    "mode": "MODE_",
    "preserve": "PRESERVE_",
    "quality": "QUALITY_PRESET_",
    "label_policy": "LABEL_POLICY_",
}
_OPTIONAL = (
    "strength",
    "content_weight",
    "style_weight",
    "affine_weight",
    "solve_edge_px",
    "max_evaluations",
    "time_budget_seconds",
    "seed",
    "features",
    "preview_every",
)


def params_from_message(message: params_pb2.TransferParams) -> TransferParams:
    """Parameters with defaults filled in, those of the solve's size and length from the quality preset.

    Raises:
        InvalidArgument: naming the field, the value and the limit.
    """
    values: dict[str, Any] = {name: getattr(message, name) for name in _OPTIONAL if message.HasField(name)}  # type: ignore[arg-type]
    for name, enum in _ENUMS.items():
        number = getattr(message, name)
        if number == 0:
            continue
        if number not in enum.values():
            raise InvalidArgument(f"params.{name}", number, f"must be one of {', '.join(enum.keys()[1:])}")
        values[name] = enum.Name(number).removeprefix(_PREFIXES[name]).lower()
    if message.label_strengths:
        values["label_strengths"] = dict(message.label_strengths)
    try:
        return TransferParams.chosen(**values)
    except ParameterError as error:
        raise InvalidArgument(f"params.{error.field}", error.value, error.limit) from error


def params_message(params: TransferParams) -> params_pb2.TransferParams:
    """The message with every field set."""
    message = params_pb2.TransferParams(**{name: getattr(params, name) for name in _OPTIONAL})
    for name, enum in _ENUMS.items():
        setattr(message, name, enum.Value(_PREFIXES[name] + getattr(params, name).upper()))
    message.label_strengths.update(params.label_strengths)
    return message


def stylize_job(request: stylizer_pb2.StylizeRequest, request_id: str, limits: ImageLimits) -> StylizeJob:
    """A checked job: image headers, label maps, parameters and output options are read here, pixels in the worker.

    Raises:
        InvalidArgument: naming the field, the value and the limit.
        FailedPrecondition: the checkpoint is of another version.
    """
    params = params_from_message(request.params)
    output = output_format(request.output, "output")
    files, maps, pixels = {}, {}, 0
    for name in ("content", "style"):
        files[name] = image_bytes(getattr(request, name), name, limits.max_bytes)
        photo = open_photo(files[name], name, limits)
        maps[name] = _labels(request, f"{name}_labels", photo.info, limits)
        pixels = pixels or photo.info.width_px * photo.info.height_px
    checkpoint = _checkpoint_bytes(request.checkpoint) if request.HasField("checkpoint") else b""
    photos, labels = (files["content"], files["style"]), (maps["content"], maps["style"])
    return StylizeJob(request_id, *photos, *labels, params, output, pixels, checkpoint)


def expected_job(request: stylizer_pb2.CheckRoomRequest, request_id: str) -> StylizeJob:
    """A job of which only size and parameters are known yet.

    Raises:
        InvalidArgument: naming the field, the value and the limit.
    """
    pixels = request.width_px * request.height_px
    params = params_from_message(request.params)
    return StylizeJob(request_id, b"", b"", None, None, params, OutputFormat(), pixels)


def priority(number: params_pb2.Priority.ValueType) -> Priority:
    """How urgent a request is.

    Raises:
        InvalidArgument: no such priority.
    """
    if number not in params_pb2.Priority.values():
        names = ", ".join(params_pb2.Priority.keys()[1:])
        raise InvalidArgument("priority", number, f"must be one of {names}")
    if number == params_pb2.PRIORITY_UNSPECIFIED:
        return Priority.NORMAL
    return Priority[params_pb2.Priority.Name(number).removeprefix("PRIORITY_")]


def _checkpoint_bytes(checkpoint: progress_pb2.Checkpoint) -> bytes:
    if not checkpoint.data:
        raise InvalidArgument("checkpoint.data", "nothing", "must be a checkpoint made by this service")
    if checkpoint.version not in (0, CHECKPOINT_VERSION):  # 0: the data says it, and the worker reads it
        raise FailedPrecondition(
            "checkpoint.version", checkpoint.version, f"this service reads version {CHECKPOINT_VERSION}"
        )
    return checkpoint.data


def _labels(request: stylizer_pb2.StylizeRequest, field: str, info: PhotoInfo, limits: ImageLimits) -> LabelMap | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    labels = label_map_from_message(getattr(request, field), field, limits)
    check_matches_photo(labels, info, field)
    return labels


def render_job(request: stylizer_pb2.RenderRequest, request_id: str, limits: ImageLimits) -> RenderJob:
    """A checked job.

    Raises:
        InvalidArgument: naming the field, the value and the limit.
        FailedPrecondition: the look is of another version.
    """
    look = _look_bytes(request.look)
    wanted = params_pb2.TransferParams(preserve=request.preserve)
    if request.HasField("strength"):
        wanted.strength = request.strength
    try:
        params = params_from_message(wanted)
    except InvalidArgument as error:  # these stand in the request itself
        raise InvalidArgument(error.field.removeprefix("params."), error.value, error.limit) from error
    content = image_bytes(request.content, "content", limits.max_bytes)
    info = open_photo(content, "content", limits).info
    output = output_format(request.output, "output")
    pixels = info.width_px * info.height_px
    return RenderJob(request_id, look, content, params.strength, params.preserve, output, pixels)


def export_job(
    request: stylizer_pb2.StylizerExportLookRequest, request_id: str, limits: ImageLimits, max_bytes: int
) -> ExportJob:
    """A checked job, whose tables may have ``max_bytes`` together.

    Raises:
        InvalidArgument: naming the field, the value and the limit.
        FailedPrecondition: the look is of another version.
    """
    look = _look_bytes(request.look)
    points = request.points if request.HasField("points") else DEFAULT_POINTS
    if points not in POINTS:
        raise InvalidArgument("points", points, f"must be one of {', '.join(map(str, POINTS))}")
    if request.label and request.per_label:
        raise InvalidArgument("label", repr(request.label), "must be empty if per_label is set")
    content = image_bytes(request.content, "content", limits.max_bytes)
    info = open_photo(content, "content", limits).info
    pixels = info.width_px * info.height_px
    return ExportJob(request_id, look, content, points, request.label, request.per_label, max_bytes, pixels)


def _look_bytes(look: look_pb2.Look) -> bytes:
    if not look.data:
        raise InvalidArgument("look.data", "nothing", "must be a look made by this service")
    if look.version not in (0, LOOK_VERSION):  # 0: the data says it, and the worker reads it
        raise FailedPrecondition("look.version", look.version, f"this service reads version {LOOK_VERSION}")
    return look.data


def export_response(event: Exported) -> stylizer_pb2.StylizerExportLookResponse:
    """The tables as a message."""
    return stylizer_pb2.StylizerExportLookResponse(
        luts=[
            look_pb2.Lut(
                label=lut.label,
                points=lut.points,
                cube=lut.cube,
                area_share=lut.area_share,
                fit_error=look_pb2.ColourDifference(mean=lut.mean, p95=lut.p95, max=lut.max),
            )
            for lut in event.luts
        ],
        labels_without_pixels=event.labels_without_pixels,
        stages=stage_times(event.stage_seconds),
    )


def queued_message(event: Queued) -> progress_pb2.Queued:
    """A place in the queue as a message."""
    return progress_pb2.Queued(position=event.position, eta_seconds=event.eta_seconds)


def stylize_responses(
    event: Queued | WorkerEvent, request_id: str, picture: Picture | None
) -> Iterator[stylizer_pb2.StylizeResponse]:
    """The messages of one event; ``picture`` is the result, for the report."""
    response = stylizer_pb2.StylizeResponse
    if isinstance(event, Queued):
        yield response(queued=queued_message(event))
    elif isinstance(event, StageBegan):
        yield response(stage=progress_pb2.StageStarted(stage=_stage(event.stage)))
    elif isinstance(event, Iterated):
        yield response(
            iteration=progress_pb2.Iteration(
                evaluation=event.evaluation,
                max_evaluations=event.max_evaluations,
                losses=_losses(event.losses),
                elapsed_seconds=event.elapsed_seconds,
                remaining_seconds=event.remaining_seconds,
                preview_jpeg=event.preview_jpeg,
            )
        )
    elif isinstance(event, Checkpointed):
        yield response(
            checkpoint=progress_pb2.Checkpoint(
                data=event.data, version=CHECKPOINT_VERSION, evaluations=event.evaluations
            )
        )
    elif isinstance(event, Picture):
        for chunk in picture_chunks(event.data, event.info):
            yield response(chunk=chunk)
    elif isinstance(event, Finished):
        report = _report(event, request_id)
        if picture is not None:
            report.result.CopyFrom(image_info_message(picture.info))
        look = look_pb2.Look(version=LOOK_VERSION, data=event.look, sha256=hashlib.sha256(event.look).hexdigest())
        yield response(done=progress_pb2.Done(report=report, look=look))


def stage_times(seconds: Mapping[str, float]) -> list[report_pb2.StageTime]:
    """Seconds by stage name as messages."""
    return [report_pb2.StageTime(stage=_stage(name), seconds=value) for name, value in seconds.items()]


def _report(event: Finished, request_id: str) -> report_pb2.TransferReport:
    return report_pb2.TransferReport(
        request_id=request_id,
        params=params_message(event.params),
        features_model=_model(event.network),
        label_matches=[
            labels_pb2.LabelMatch(
                content_label=match.content_label,
                style_label=match.style_label,
                kind=labels_pb2.MatchKind.Value(f"MATCH_KIND_{match.kind.upper()}"),
                content_area_share=match.content_share,
                style_area_share=match.style_share,
            )
            for match in event.matches
        ],
        first_losses=_losses(event.first),
        final_losses=_losses(event.final),
        evaluations=event.evaluations,
        stopped_by=event.stopped_by,
        partial=event.stopped_by == "time_budget",
        stages=stage_times(event.stage_seconds),
        quality=_quality(event.quality),
        peak_memory_bytes=event.peak_memory_bytes,
        content=image_info_message(event.content),
        notes=event.notes,
    )


def _model(network: NetworkInfo) -> report_pb2.ModelRef:
    return report_pb2.ModelRef(
        name=network.name,
        version=network.version,
        device=network.device,
        built_in=network.built_in,
        description=network.description,
    )


def _losses(losses: Losses) -> report_pb2.Losses:
    return report_pb2.Losses(**vars(losses))


def _quality(quality: Quality) -> report_pb2.Quality:
    values = vars(quality) | {"labels": [report_pb2.LabelQuality(**vars(label)) for label in quality.labels]}
    return report_pb2.Quality(**values)


def _stage(name: str) -> report_pb2.Stage.ValueType:
    return report_pb2.Stage.Value(f"STAGE_{name.upper()}")

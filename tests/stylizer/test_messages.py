"""Messages to jobs: defaults, every limit with its field's name, the report."""

import io

import numpy as np
import pytest
from dpst.v1 import image_pb2, labels_pb2, look_pb2, params_pb2, progress_pb2, report_pb2, stylizer_pb2
from PIL import Image

from services.common.config import StylizerSettings
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.images import ImageLimits
from services.stylizer.core.params import PRESETS, TransferParams
from services.stylizer.core.results import LOOK_VERSION
from services.stylizer.jobs import Exported, Lut
from services.stylizer.messages import (
    export_job,
    export_response,
    params_from_message,
    params_message,
    render_job,
    stylize_job,
)

LIMITS = ImageLimits.of(StylizerSettings())


def png(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def index_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ones((height, width), np.uint8)).save(file, "PNG")
    return file.getvalue()


def request(**fields: object) -> stylizer_pb2.StylizeRequest:
    images = {"content": image_pb2.Image(data=png(64, 48)), "style": image_pb2.Image(data=png(48, 48))}
    return stylizer_pb2.StylizeRequest(**{**images, **fields})  # type: ignore[arg-type]


def test_empty_message_is_the_defaults() -> None:
    assert params_from_message(params_pb2.TransferParams()) == TransferParams()


def test_quality_and_mode_choose_the_preset_and_explicit_values_win() -> None:
    message = params_pb2.TransferParams(mode=params_pb2.MODE_PAPER, quality=params_pb2.QUALITY_PRESET_HIGH)
    assert params_from_message(message) == TransferParams.chosen(mode="paper", quality="high")
    message.solve_edge_px = 128
    assert params_from_message(message).solve_edge_px == 128
    assert params_from_message(message).max_evaluations == PRESETS["paper"]["high"].max_evaluations


def test_params_round_trip() -> None:
    params = TransferParams(strength=0.5, label_strengths={"sky": 0.1}, preserve="chroma", label_policy="keep", seed=9)
    assert params_from_message(params_message(params)) == params
    assert params_from_message(params_message(TransferParams())) == TransferParams()
    paper = TransferParams.chosen(mode="paper", quality="draft", max_evaluations=3)
    assert params_from_message(params_message(paper)) == paper


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (params_pb2.TransferParams(strength=1.5), "params.strength"),
        (params_pb2.TransferParams(solve_edge_px=63), "params.solve_edge_px"),
        (params_pb2.TransferParams(max_evaluations=0), "params.max_evaluations"),
        (params_pb2.TransferParams(affine_weight=float("nan")), "params.affine_weight"),
        (params_pb2.TransferParams(mode=77), "params.mode"),  # type: ignore[arg-type]
        (params_pb2.TransferParams(quality=9), "params.quality"),  # type: ignore[arg-type]
        (params_pb2.TransferParams(label_strengths={"sky": -1}), "params.label_strengths[sky]"),
    ],
)
def test_bad_parameters_are_named(message: params_pb2.TransferParams, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        stylize_job(request(params=message), "id", LIMITS)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"content": image_pb2.Image()}, "content"),
        ({"style": image_pb2.Image(data=b"no picture at all")}, "style"),
        ({"style": image_pb2.Image(uri="file:///etc/passwd")}, "style.uri"),
        ({"content_labels": labels_pb2.LabelMap(png=b"nonsense")}, "content_labels"),
        ({"content_labels": labels_pb2.LabelMap(png=index_png(10, 100))}, "content_labels"),
        ({"checkpoint": progress_pb2.Checkpoint(version=1)}, "checkpoint.data"),
    ],
)
def test_bad_input_is_named(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        stylize_job(request(**fields), "id", LIMITS)
    assert caught.value.field.startswith(field)


def test_an_upload_is_for_the_gateway() -> None:
    with pytest.raises(InvalidArgument, match=r"content\.ref: .* is for the gateway"):
        stylize_job(request(content=image_pb2.Image(ref="0" * 64)), "id", LIMITS)


def test_labels_of_half_the_size_are_welcome() -> None:
    job = stylize_job(request(content_labels=labels_pb2.LabelMap(png=index_png(32, 24))), "id", LIMITS)
    assert job.content_labels is not None
    assert dict(job.content_labels.names) == {1: "label-1"}
    assert job.style_labels is None


def test_render_wants_a_look_of_this_version() -> None:
    content = image_pb2.Image(data=png(64, 48))
    with pytest.raises(InvalidArgument, match=r"look\.data"):
        render_job(stylizer_pb2.RenderRequest(content=content), "id", LIMITS)
    other = look_pb2.Look(version=99, data=b"x")
    with pytest.raises(FailedPrecondition, match=r"look\.version: got 99"):
        render_job(stylizer_pb2.RenderRequest(content=content, look=other), "id", LIMITS)
    good = look_pb2.Look(version=LOOK_VERSION, data=b"x")
    with pytest.raises(InvalidArgument, match=r"^strength: got 2\.0"):
        render_job(stylizer_pb2.RenderRequest(content=content, look=good, strength=2), "id", LIMITS)
    with pytest.raises(InvalidArgument, match=r"^preserve: got 9"):
        render_job(stylizer_pb2.RenderRequest(content=content, look=good, preserve=9), "id", LIMITS)  # type: ignore[arg-type]
    unsaid = look_pb2.Look(data=b"x")
    assert render_job(stylizer_pb2.RenderRequest(content=content, look=unsaid), "id", LIMITS).look == b"x"


def export_request(**fields: object) -> stylizer_pb2.StylizerExportLookRequest:
    given = {"content": image_pb2.Image(data=png(64, 48)), "look": look_pb2.Look(version=LOOK_VERSION, data=b"x")}
    return stylizer_pb2.StylizerExportLookRequest(**{**given, **fields})  # type: ignore[arg-type]


def test_export_has_33_points_of_the_whole_picture_by_default() -> None:
    job = export_job(export_request(), "id", LIMITS, 10)
    assert (job.points, job.label, job.per_label, job.max_bytes) == (33, "", False, 10)
    job = export_job(export_request(points=17, label="sky"), "id", LIMITS, 10)
    assert (job.points, job.label) == (17, "sky")
    assert export_job(export_request(per_label=True), "id", LIMITS, 10).per_label


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"points": 20}, "points: got 20, must be one of 17, 33, 65"),
        ({"points": 0}, "points: got 0, must be one of"),
        ({"label": "sky", "per_label": True}, "label: got 'sky', must be empty if per_label is set"),
        ({"look": look_pb2.Look()}, "look.data: got nothing"),
        ({"content": image_pb2.Image(data=b"no picture")}, "content: got"),
    ],
)
def test_bad_exports_are_named(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        export_job(export_request(**fields), "id", LIMITS, 10)
    assert text in str(caught.value)


def test_export_wants_a_look_of_this_version() -> None:
    with pytest.raises(FailedPrecondition, match=r"look\.version: got 99"):
        export_job(export_request(look=look_pb2.Look(version=99, data=b"x")), "id", LIMITS, 10)


def test_tables_keep_their_figures() -> None:
    made = Exported((Lut("sky", 17, b"text", 0.25, 1.5, 3.0, 9.0),), ("lake",), {"decode": 0.1, "export": 0.5})
    response = export_response(made)
    (lut,) = response.luts
    assert (lut.label, lut.points, lut.cube, lut.area_share) == ("sky", 17, b"text", 0.25)
    assert (lut.fit_error.mean, lut.fit_error.p95, lut.fit_error.max) == (1.5, 3.0, 9.0)
    assert list(response.labels_without_pixels) == ["lake"]
    assert [stage.stage for stage in response.stages] == [report_pb2.STAGE_DECODE, report_pb2.STAGE_EXPORT]

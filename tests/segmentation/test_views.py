"""Sizes and mirrored photos are averaged where they lie on the photo."""

from __future__ import annotations

import numpy as np
import pytest
from dpst.v1 import labels_pb2
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.options import Options, options_of
from services.segmentation.sampling import Axis, area_mean
from services.segmentation.views import View, averaged

CLASSES = ("sky", "building")
SKY = COMMON_LABELS.index("sky")
Message = labels_pb2.SegmentationOptions


def ramp(input_width: int, input_height: int, align_corners: bool, flipped: bool = False) -> View:
    """A network of stride 4 whose logit of "sky" rises from left to right, -3 to 3 over the photo."""
    width, height = (
        ((input_width - 1) // 4 + 1, (input_height - 1) // 4 + 1)
        if align_corners
        else (input_width // 4, input_height // 4)
    )
    places = Axis(width, input_width, align_corners).centres()
    row = 6 * (1 - places if flipped else places) - 3
    logits = np.stack([np.broadcast_to(row, (height, width)), np.zeros((height, width))]).astype(np.float32)
    return View(logits, input_width, input_height, align_corners, flipped)


def expected(size: int) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(3 - 6 * (np.arange(size) + 0.5) / size))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0), (1.0, 1.5, 2.0)])
@pytest.mark.parametrize("flip", [False, True])
def test_views_agree_where_they_lie(align_corners: bool, scales: tuple[float, ...], flip: bool) -> None:
    views = [
        ramp(round(64 * scale) * 2 + align_corners, round(32 * scale) * 2 + align_corners, align_corners, flipped)
        for scale, flipped in Options(scales=scales, flip=flip).views()
    ]
    probabilities = averaged(views, CLASSES)
    assert probabilities.planes.shape[1:] == max((view.logits.shape[1:] for view in views), key=np.prod)
    np.testing.assert_allclose(probabilities.planes.sum(axis=0), 1, atol=1e-5)
    found = probabilities.at_size(200, 10)[SKY]
    # the ramp is not linear after the softmax and cut half a sample from the border: 0.01 of 1 inside it
    np.testing.assert_allclose(found[:, 8:-8], np.broadcast_to(expected(200), (10, 200))[:, 8:-8], atol=0.01)


def test_a_view_and_its_mirror_image_average_to_something_symmetric() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (2, 9, 13)).astype(np.float32)
    both = averaged([View(logits, 49, 33, True), View(logits, 49, 33, True, flipped=True)], CLASSES).planes
    np.testing.assert_allclose(both, both[:, :, ::-1], atol=1e-6)


@pytest.mark.parametrize(("size", "input_size"), [(33, 129), (17, 65), (1, 1)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_samples_lie_where_their_centres_are(size: int, input_size: int, align_corners: bool) -> None:
    axis = Axis(size, input_size, align_corners)
    at = axis.at(axis.centres())
    np.testing.assert_allclose(at.lower + at.share, np.arange(size), atol=1e-4)


def test_area_mean() -> None:
    picture = np.random.default_rng(1).random((12, 18, 3), np.float32)
    blocks = picture.reshape(4, 3, 6, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(area_mean(picture, 6, 4), blocks, atol=1e-6)
    assert area_mean(picture, 18, 12) is picture
    for width, height in ((7, 5), (17, 11), (1, 1)):
        shrunk = area_mean(picture, width, height)
        assert shrunk.shape == (height, width, 3)
        np.testing.assert_allclose(shrunk.mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=1e-5)
        np.testing.assert_allclose(area_mean(np.full((12, 18, 3), 0.3, np.float32), width, height), 0.3, atol=1e-6)


def test_options_and_their_defaults() -> None:
    assert options_of(Message(), "options") == Options() == Options("guided", (1.0,), False)
    message = Message(refinement=labels_pb2.REFINEMENT_CRF, scales=[2, 0.5, 2], flip=True)
    assert options_of(message, "options") == Options("crf", (0.5, 2.0), True)
    assert options_of(Message(refinement=labels_pb2.REFINEMENT_NONE), "options").refinement == "none"
    assert Options(scales=(0.5, 1.0), flip=True).views() == ((0.5, False), (0.5, True), (1.0, False), (1.0, True))


@pytest.mark.parametrize(
    ("message", "field", "says"),
    [
        (Message(scales=[1, 0.4]), "options.scales[1]", "got 0.4, 0.5..2.0"),
        (Message(scales=[3]), "options.scales[0]", "got 3.0"),
        (Message(scales=[float("nan")]), "options.scales[0]", "got nan"),
        (Message(scales=[0.5, 0.7, 0.9, 1.1, 1.3]), "options.scales", "got 5 of them, at most 4"),
        (Message(refinement=9), "options.refinement", "got 9, unspecified, none, guided or crf"),  # type: ignore[arg-type]
    ],
)
def test_bad_options_are_refused(message: Message, field: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says.replace(".", r"\.")) as caught:
        options_of(message, "options")
    assert caught.value.field == field

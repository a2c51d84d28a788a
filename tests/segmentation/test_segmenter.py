"""Regions come out where they are, at the size that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label

from services.common.config import ProcessSettings
from services.common.images import ImageLimits, open_photo
from services.common.label_maps import LabelMap, decode_label_map
from services.common.models import Model, find_model
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.network import Network
from services.segmentation.options import Options
from services.segmentation.refine.kernels import affine_plane, box_mean, ridge_fits
from services.segmentation.refine.speckles import connected_pieces
from services.segmentation.segmenter import (
    Regions,
    map_size,
    photo_edge_px,
    segment,
    segment_as_one,
    warm_up,
)

SKY, BUILDING, TREE = (COMMON_LABELS.index(name) for name in ("sky", "building", "tree"))
LIMITS = ImageLimits.of(ProcessSettings())


def landscape(height: int, width: int) -> np.ndarray:
    """Sky above; below it a red building on the left, a tree on the right."""
    photo = np.zeros((height, width, 3), np.float32)
    photo[: height // 2, :, 2] = 1
    photo[height // 2 :, : width // 2, 0] = 1
    photo[height // 2 :, width // 2 :, 1] = 1
    return photo


@pytest.mark.parametrize("size", [(300, 200), (129, 86), (60, 40), (1500, 1000)])
def test_borders_are_where_they_are(tiny_model: Callable[..., Model], size: tuple[int, int]) -> None:
    width, height = size
    regions = segment(landscape(200, 300), Network(tiny_model(), "cpu", 1), width, height)
    label_map = regions.label_map
    assert label_map.indices.shape == (height, width)
    assert label_map.names == {SKY: "sky", BUILDING: "building", TREE: "tree"}
    expected = np.full((height, width), SKY)
    expected[height // 2 :, : width // 2], expected[height // 2 :, width // 2 :] = BUILDING, TREE
    wrong = np.argwhere(label_map.indices != expected)
    # no further from a border than the network's own stride of 4 of its 129 pixels
    distance = np.minimum(np.abs(wrong[:, 0] + 0.5 - height / 2), np.abs(wrong[:, 1] + 0.5 - width / 2))
    assert (distance <= 3 * width / 129 + 1).all()
    assert label_map.areas() == pytest.approx({"sky": 0.5, "building": 0.25, "tree": 0.25}, abs=0.04)
    assert regions.inference_seconds > 0


def test_soft_masks_sum_to_one_and_agree_with_the_map(tiny_model: Callable[..., Model]) -> None:
    regions = segment(landscape(200, 300), Network(tiny_model(), "cpu", 1), 270, 180)
    masks = np.stack(list(regions.masks()))
    assert masks.shape == (3, 180, 270)
    np.testing.assert_allclose(masks.sum(axis=0), 1, atol=1e-5)
    order = np.array(sorted(regions.label_map.names))
    np.testing.assert_array_equal(order[masks.argmax(axis=0)], regions.label_map.indices)


def test_one_region() -> None:
    regions = segment_as_one(30, 20)
    assert regions.label_map.names == {0: "all"}
    (mask,) = regions.masks()
    np.testing.assert_array_equal(mask, np.ones((20, 30)))


@pytest.mark.parametrize(
    ("edge", "size"), [(0, (4000, 3000)), (1024, (1024, 768)), (9000, (4000, 3000)), (1, (1, 1)), (333, (333, 250))]
)
def test_map_size(edge: int, size: tuple[int, int]) -> None:
    assert map_size(4000, 3000, edge) == size


class Blocky:
    """A network of stride 4 that answers with given logits of sky and building, whatever the photo."""

    labels = ("sky", "building")
    input_edge_px = 512
    align_corners = False

    def __init__(self, building: np.ndarray) -> None:
        self.photos: list[np.ndarray] = []
        self._building = building

    def input_size(self, width: int, height: int, scale: float = 1.0) -> tuple[int, int]:
        return round(512 * scale), round(384 * scale)

    def logits(self, photo: np.ndarray, scale: float = 1.0) -> np.ndarray:
        self.photos.append(photo)
        return np.stack([np.where(self._building, -3.0, 3.0), np.where(self._building, 3.0, -3.0)]).astype(np.float32)


def skyline(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A blue sky above a brown roof that rises and falls; the photo and where the building is."""
    y, x = np.mgrid[:height, :width]
    roof = height * (0.5 + 0.12 * np.sin(x / width * 9))
    is_building = y + 0.5 > roof
    photo = np.where(is_building[..., None], (0.45, 0.3, 0.2), (0.5, 0.65, 0.9)).astype(np.float32)
    return photo + np.random.default_rng(0).normal(0, 0.01, photo.shape).astype(np.float32), is_building


@pytest.mark.parametrize("refinement", ["guided", "crf"])
@pytest.mark.parametrize("map_height", [96, 192, 480])
def test_borders_that_are_six_pixels_off_are_moved_onto_the_edge(refinement: str, map_height: int) -> None:
    photo, is_building = skyline(384, 512)
    network = Blocky(np.roll(is_building, 6, axis=0)[2::4, 2::4])
    width = map_height * 4 // 3
    expected = skyline(map_height, width)[1]
    wrong = {}
    for how in ("none", refinement):
        regions = segment(photo, network, width, map_height, Options(how))  # type: ignore[arg-type]
        wrong[how] = float(((regions.label_map.indices == BUILDING) != expected).mean())
    assert wrong["none"] > 0.8 * 6 / 384
    assert wrong[refinement] < wrong["none"] / 4


def test_the_photo_enters_in_every_size_and_mirrored() -> None:
    photo, is_building = skyline(384, 512)
    network = Blocky(is_building[6::16, 8::16])
    options = Options(scales=(0.5, 1.0), flip=True)
    regions = segment(photo, network, 256, 192, options)
    assert [each.shape for each in network.photos] == [(192, 256, 3)] * 2 + [(384, 512, 3)] * 2
    for straight, mirrored in (network.photos[:2], network.photos[2:]):
        np.testing.assert_array_equal(straight, mirrored[:, ::-1])
    masks = np.stack(list(regions.masks()))
    np.testing.assert_allclose(masks.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("refinement", ["none", "guided", "crf"])
def test_refined_masks_sum_to_one_and_agree_with_a_map_that_has_no_speckles(refinement: str) -> None:
    photo, is_building = skyline(384, 512)
    logits = is_building[2::4, 2::4].copy()
    logits[8, 20], logits[80, 100] = True, False  # a speckle each
    regions = segment(photo, Blocky(logits), 300, 225, Options(refinement))  # type: ignore[arg-type]
    masks = np.stack(list(regions.masks()))
    assert masks.min() >= 0
    np.testing.assert_allclose(masks.sum(axis=0), 1, atol=1e-5)
    order = np.array(sorted(regions.label_map.names))
    np.testing.assert_array_equal(order[masks.argmax(axis=0)], regions.label_map.indices)
    assert all(label(regions.label_map.indices == index)[1] == 1 for index in order)


def test_maps_larger_than_a_band_and_than_the_guide_have_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, is_building = skyline(192, 256)
    network = Blocky(is_building[3::8, 4::8])
    whole = segment(photo, network, 512, 384)
    expected = np.stack(list(whole.masks()))
    monkeypatch.setattr("services.segmentation.surfaces._BAND_PIXELS", 512 * 7)
    banded = segment(photo, network, 512, 384)
    np.testing.assert_array_equal(banded.label_map.indices, whole.label_map.indices)
    np.testing.assert_allclose(np.stack(list(banded.masks())), expected, atol=1e-6)


def test_a_photo_in_the_dark_is_one_region_with_verdicts() -> None:
    photo, is_building = skyline(192, 256)
    regions = segment(photo * np.float32(0.01), Blocky(is_building[3::8, 4::8]), 64, 48)
    assert regions.label_map.names == {0: "all"}
    assert {verdict.verdict for verdict in regions.verdicts} == {"dropped"}
    (mask,) = regions.masks()
    np.testing.assert_array_equal(mask, np.ones((48, 64)))


def test_nothing_is_compiled_after_warming_up() -> None:
    loops = (box_mean, ridge_fits, affine_plane, connected_pieces)
    warm_up()
    before = [len(loop.signatures) for loop in loops]
    assert all(before)
    photo, is_building = skyline(384, 512)
    for width, height in ((1200, 900), (200, 150)):
        list(segment(photo, Blocky(is_building[2::4, 2::4]), width, height).masks())
    assert [len(loop.signatures) for loop in loops] == before


def test_what_a_photo_is_decoded_at() -> None:
    assert photo_edge_px(513, 1024, 768, Options()) == 1024
    assert photo_edge_px(513, 300, 200, Options()) == 513
    assert photo_edge_px(513, 6000, 4000, Options()) == 2048
    assert photo_edge_px(513, 6000, 4000, Options("none")) == 513
    assert photo_edge_px(513, 64, 48, Options(scales=(0.5, 1.5))) == 770


def real_regions(models_dir: Path, data: bytes) -> Regions:
    model = find_model(models_dir, "segmentation", "auto")
    assert model is not None
    network = Network(model, "cpu", 0)
    photo = open_photo(data, "photo", LIMITS)
    width, height = photo.info.width_px, photo.info.height_px
    pixels = photo.proxy(photo_edge_px(network.input_edge_px, width, height, Options()), None)
    return segment(pixels, network, width, height)


def overlap(found: LabelMap, name: str, expected: LabelMap, colour: str) -> float:
    """Intersection over union of a label with a region of the hand-made map."""
    one = np.isin(found.indices, [index for index, value in found.names.items() if value == name])
    other = np.isin(expected.indices, [index for index, value in expected.names.items() if value == colour])
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.weights
@pytest.mark.parametrize(
    ("pair", "least"),
    [
        ("01", {("sky", "black"): 0.97, ("building", "white"): 0.9, ("water", "green"): 0.95}),
        ("31", {("sky", "black"): 0.96, ("building", "red"): 0.94}),
    ],
)
def test_real_network_agrees_with_hand_made_masks(
    models_dir: Path, test_data_dir: Path, pair: str, least: dict[tuple[str, str], float]
) -> None:
    folder = test_data_dir / "pairs" / pair
    regions = real_regions(models_dir, (folder / "content.png").read_bytes())
    expected = decode_label_map((folder / "content_labels.png").read_bytes(), {}, "labels", LIMITS)
    for (name, colour), share in least.items():
        assert overlap(regions.label_map, name, expected, colour) >= share, (name, colour)


@pytest.mark.weights
@pytest.mark.parametrize("part", ["content", "style"])
def test_a_bottle_and_a_flame_on_black_are_one_region(models_dir: Path, test_data_dir: Path, part: str) -> None:
    regions = real_regions(models_dir, (test_data_dir / "pairs" / "16" / f"{part}.png").read_bytes())
    assert regions.label_map.names == {0: "all"}


@pytest.mark.weights
@pytest.mark.parametrize(
    ("photo", "labels"),
    [
        ("01/content", {"sky", "building", "water"}),
        ("03/content", {"sky", "building"}),
        ("13/content", {"sky", "water", "tree"}),
        ("24/content", {"sky", "building", "water", "tree"}),
        ("58/content", {"sky", "grass", "tree"}),
    ],
)
def test_labels_of_clear_photos_stand(models_dir: Path, test_data_dir: Path, photo: str, labels: set[str]) -> None:
    regions = real_regions(models_dir, (test_data_dir / "pairs" / f"{photo}.png").read_bytes())
    assert labels <= set(regions.label_map.names.values())

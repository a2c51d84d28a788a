"""Training of the slim trunk, small: photos, targets, the fitted start, both phases, and the written model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from services.common.config import StylizerSettings
from services.common.images import ImageLimits
from services.common.models import find_model
from services.stylizer.core.student import COMPONENTS, STUDENT_LAYERS, Student
from services.stylizer.core.vgg import InputConvention, random_vgg19, vgg19
from services.stylizer.features import load_features
from services.stylizer.training import __main__ as command
from services.stylizer.training.photos import Crops, photo_files, recoloured
from services.stylizer.training.schedule import Schedule, driven, learned
from services.stylizer.training.start import fitted
from services.stylizer.training.targets import Targets, gram_errors, quadrant_grams

EDGE = 48
LIMITS = ImageLimits.of(StylizerSettings())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for n in range(16):
        coarse = generator.integers(0, 255, (7, 9, 3), np.uint8)
        Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"{n:02}.jpg")
    return folder


@pytest.fixture(scope="module")
def crops(photos: Path) -> Crops:
    return Crops(photo_files(photos)[0], EDGE, 0, LIMITS)


@pytest.fixture(scope="module")
def targets(crops: Crops) -> Targets:
    teacher = vgg19(random_vgg19(2, "conv4_2").state_dict(), InputConvention(), "conv4_2")
    return Targets.of(teacher, [crops.varied() for _ in range(4)], COMPONENTS)


class Perfect(torch.nn.Module):
    """Sees what the targets are."""

    def __init__(self, targets: Targets) -> None:
        super().__init__()
        self.targets = targets

    def forward(self, pictures: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        return self.targets(pictures)


def test_held_out_photos_are_not_trained_on(photos: Path) -> None:
    train, held_out = photo_files(photos)
    assert (len(train), len(held_out)) == (14, 2)
    assert not set(train) & set(held_out)


def test_crops_have_one_size_and_the_range_of_pictures(crops: Crops) -> None:
    for _ in range(6):
        crop = crops.varied()
        assert crop.shape == (3, EDGE, EDGE)
        assert 0 <= float(crop.min()) <= float(crop.max()) <= 1


def test_recoloured_takes_the_mean_of_the_other_photo() -> None:
    I, S = torch.rand(3, 20, 20) * 0.2 + 0.4, torch.rand(3, 20, 20) * 0.1 + 0.3
    torch.testing.assert_close(recoloured(I, S).mean(dim=(1, 2)), S.mean(dim=(1, 2)), atol=1e-3, rtol=0)


def test_directions_are_orthonormal_and_components_have_unit_scale(targets: Targets, crops: Crops) -> None:
    for name, P in targets.directions.items():
        torch.testing.assert_close(P @ P.T, torch.eye(COMPONENTS[name]), atol=1e-4, rtol=0)
    found = targets(torch.stack([crops.varied() for _ in range(4)]))
    assert all(0.3 < float(F.square().mean()) < 3 for F in found.values())


def test_quadrant_grams_average_to_the_whole() -> None:
    F = torch.rand(2, 3, 8, 6)
    flat = F.flatten(2)
    torch.testing.assert_close(quadrant_grams(F).unflatten(0, (2, 4)).mean(1), flat @ flat.transpose(1, 2) / 48)


def test_a_perfect_trunk_errs_by_the_missing_components_only(targets: Targets, crops: Crops) -> None:
    pairs = [(crops.crop(), crops.crop())]
    perfect, blind = (gram_errors(trunk, targets, pairs) for trunk in (Perfect(targets), Student()))
    assert perfect["conv1_1"] < 0.02  # 16 of 64 components hold nearly all
    assert perfect["conv2_1"] < 0.1
    assert min(blind.values()) > 0.5


def test_the_fit_sees_most_of_the_difference_and_training_goes_on(targets: Targets, crops: Crops) -> None:
    torch.manual_seed(0)
    trunk, pairs = Student(), [(crops.varied(), crops.varied()) for _ in range(3)]
    fitted(trunk, targets, [crops.varied() for _ in range(12)], 0)
    start = gram_errors(trunk, targets, pairs)
    assert start["conv1_1"] < 0.2
    assert start["conv4_1"] < 0.8
    texts: list[str] = []
    schedule = Schedule(trunk, [2.0, 2.0])
    learned(schedule, targets, crops, 8, texts.append)
    before = trunk.convs["conv4_1"].weight.clone()
    driven(schedule, targets, crops, texts.append)
    assert not torch.equal(before, trunk.convs["conv4_1"].weight)
    assert all(torch.isfinite(value).all() for value in trunk.state_dict().values())
    assert gram_errors(trunk, targets, pairs)["conv4_1"] < start["conv4_1"] + 0.2


def test_written_model_speaks_the_teachers_units(targets: Targets, crops: Crops, tmp_path: Path) -> None:
    trunk = Student()
    folder = tmp_path / "vgg19-student" / "1"
    command._write(trunk, targets, folder)
    network = load_features(find_model(tmp_path, "features", "vgg19-student/1"), torch.device("cpu"))
    assert not network.info.built_in
    assert json.loads((folder / "manifest.json").read_text())["architecture"] == "student"
    picture = crops.crop()[None]
    with torch.no_grad():
        trained, written = (each(picture, STUDENT_LAYERS) for each in (trunk, network.trunk))
    for name in STUDENT_LAYERS:
        # A style distance divides by the channels four times in all, and features enter it to the fourth power; a
        # content distance divides once, and they enter it squared.
        K, C = targets.directions[name].shape
        unit = targets.scales[name] * (K / C if name != "conv4_2" else (K / C) ** 0.5)
        torch.testing.assert_close(written[name], trained[name] * unit, rtol=2e-2, atol=1e-2 * unit)

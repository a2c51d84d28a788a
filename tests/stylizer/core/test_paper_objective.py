"""The published objective against the one written by hand, and what its parts must satisfy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from services.common.models import find_model
from services.stylizer.core.errors import ParameterError
from services.stylizer.core.objective import FeatureLayers
from services.stylizer.core.paper_objective import PaperObjective, PaperWeights, to_rgb
from services.stylizer.core.paper_photos import PaperPhotos, masks_through
from services.stylizer.core.vgg import LAYERS, VGG19, InputConvention, random_vgg19, vgg19
from services.stylizer.features import load_features
from tests.stylizer.core.paper_by_hand import MEAN_BGR, ByHand, mask_at_layers

CAFFE = InputConvention(bgr=True, scale=255.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0))


def photo(height: int, width: int, seed: int) -> Tensor:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fine = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return 0.8 * smooth + 0.2 * fine


def stripes(height: int, width: int) -> Tensor:
    """Three hard masks: two halves of the upper part, and the lower part."""
    M = torch.zeros(3, height, width, dtype=torch.float64)
    M[0, : height // 2, : width // 3] = M[1, : height // 2, width // 3 :] = M[2, height // 2 :] = 1
    return M


def small_photos(masked: bool = True) -> PaperPhotos:
    I, S = photo(23, 30, 1), photo(26, 21, 2)
    return PaperPhotos(I, S, stripes(23, 30), stripes(26, 21)) if masked else PaperPhotos(I, S)


def by_hand(trunk: VGG19, photos: PaperPhotos, feature_scale: float) -> ByHand:
    return ByHand(
        trunk.state_dict(), trunk.convention, photos.I, photos.S, photos.M_content, photos.M_style, feature_scale
    )


def compare(trunk: VGG19, photos: PaperPhotos, feature_scale: float, x: Tensor, affine: bool) -> None:
    leaf = x.clone().requires_grad_(True)
    total, losses = PaperObjective(trunk, photos, PaperWeights())(leaf, affine)
    total.backward()
    values, gradient = by_hand(trunk, photos, feature_scale).value_and_gradient(x.numpy(), affine)
    for name, value in values.items():
        assert getattr(losses, name) == pytest.approx(value, rel=1e-9, abs=1e-12 * values["total"]), name
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, rtol=1e-7, atol=1e-9 * np.abs(gradient).max())


def points() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(3, 23, 30, generator=generator, dtype=torch.float64)
    return {"noise": 1e-3 * noise, "picture": photo(23, 30, 3) * 255 - 110 + 5 * noise}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("point", ["noise", "picture"])
def test_values_and_gradients_equal_those_by_hand(point: str, affine: bool, masked: bool) -> None:
    trunk = random_vgg19(depth="conv5_1").double()
    scale = 255 * (0.229 + 0.224 + 0.225) / 3
    compare(trunk, small_photos(masked), scale, points()[point], affine)


@pytest.mark.weights
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("point", ["noise", "picture"])
def test_with_the_real_network(models_dir: Path, point: str, affine: bool) -> None:
    trunk = load_features(find_model(models_dir, "features", "auto"), torch.device("cpu")).trunk.double()
    compare(trunk, small_photos(), 1.0, points()[point], affine)


def test_gradient_of_the_affine_term_is_the_laplacian_in_caffe_units() -> None:
    photos, x = small_photos(), points()["picture"]
    weights = PaperWeights(content=0, style=0, tv=0)
    leaf = x.clone().requires_grad_(True)
    PaperObjective(random_vgg19(depth="conv1_1").double(), photos, weights)(leaf, True)[0].backward()
    L = by_hand(random_vgg19(depth="conv5_1").double(), photos, 1).L
    V = ((x.numpy() + MEAN_BGR[:, None, None]) / 255)[::-1]
    expected = np.stack([2 * 1e4 * (L @ channel.ravel()).reshape(channel.shape) / 255 for channel in V])[::-1]
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_a_network_for_pixels_of_0_to_1_counts_like_one_for_0_to_255() -> None:
    weights = random_vgg19(depth="conv5_1").state_dict()  # without biases, so that features are homogeneous
    levels = InputConvention(bgr=False, scale=255.0, mean=(100.0, 110.0, 120.0), std=(1.0, 1.0, 1.0))
    unit = InputConvention(bgr=False, scale=1.0, mean=(100 / 255, 110 / 255, 120 / 255), std=(1.0, 1.0, 1.0))
    one, other = (
        PaperObjective(vgg19(weights, convention).double(), small_photos(), PaperWeights())(points()["picture"], True)[
            1
        ]
        for convention in (levels, unit)
    )
    for name in ("content", "style", "affine", "smoothness"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6)


def test_a_short_trunk_is_compared_at_the_layers_it_has() -> None:
    trunk = random_vgg19(depth="conv3_1").double()
    assert FeatureLayers.of(trunk).style == ("conv1_1", "conv2_1", "conv3_1")
    _, losses = PaperObjective(trunk, small_photos(), PaperWeights())(points()["noise"], False)
    assert losses.style > 0
    assert losses.content > 0
    assert losses.affine == 0


@pytest.mark.parametrize(("height", "width"), [(16, 32), (23, 30), (33, 17)])
def test_masks_follow_the_network(height: int, width: int) -> None:
    M = stripes(height, width)
    found = masks_through(M, LAYERS[:13])
    for label in range(3):
        expected = mask_at_layers(M[label].numpy())
        for name, masks in found.items():
            np.testing.assert_allclose(masks[label].numpy(), expected[name], atol=1e-12)
    features = random_vgg19(depth="conv5_1").double()(torch.rand(1, 3, height, width, dtype=torch.float64), LAYERS[:13])
    assert all(found[name].shape[1:] == F.shape[2:] for name, F in features.items())


def test_variable_is_bgr_of_0_to_255() -> None:
    x = torch.tensor([255 - 103.939, 0 - 116.779, 51 - 123.68], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(to_rgb(x).flatten(), torch.tensor([0.2, 0.0, 1.0], dtype=torch.float64))


def test_the_content_photo_costs_only_its_style_and_its_smoothness() -> None:
    photos = small_photos()
    x = photos.I.flip(0) * 255 - torch.from_numpy(MEAN_BGR).view(3, 1, 1)
    trunk = vgg19(random_vgg19(depth="conv5_1").state_dict(), CAFFE).double()
    own = PaperPhotos(photos.I, photos.I, photos.M_content, photos.M_content)
    objective = PaperObjective(trunk, own, PaperWeights())
    _, losses = objective(x, True)
    assert losses.content == pytest.approx(0, abs=1e-15)
    assert losses.style == pytest.approx(0, abs=1e-9)
    assert losses.total == pytest.approx(losses.smoothness + losses.affine)
    assert losses.affine < 1e-4 * objective(points()["picture"], True)[1].affine  # what the Laplacian's ridge leaves


def test_bad_input_names_the_field_and_the_limit() -> None:
    I, S, M_content, M_style = photo(9, 8, 1), photo(7, 8, 2), stripes(9, 8), stripes(7, 8)
    with pytest.raises(ParameterError, match=r"I: got \(3, 2, 8\)"):
        PaperPhotos(I[:, :2], S, M_content, M_style)
    with pytest.raises(ParameterError, match=r"M_style: got \(3, 9, 8\), must be \(3, 7, 8\)"):
        PaperPhotos(I, S, M_content, M_content)
    with pytest.raises(ParameterError, match=r"M_style: got \(2, 7, 8\), must be \(3, 7, 8\)"):
        PaperPhotos(I, S, M_content, M_style[:2])
    with pytest.raises(ParameterError, match=r"masks \[1\]"):
        PaperPhotos(I, S, M_content, M_style * torch.tensor([1.0, 0, 1]).view(3, 1, 1))
    with pytest.raises(ParameterError, match="both or none"):
        PaperPhotos(I, S, M_content)
    with pytest.raises(ParameterError, match="at least one label"):
        PaperPhotos(I, S, M_content[:0], M_style[:0])

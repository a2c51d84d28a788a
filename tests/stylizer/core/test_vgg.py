"""The trunk: torchvision's names, the layers' shapes, an independent network, seeded defaults."""

import pytest
import torch
from torch import nn

from services.stylizer.core.vgg import LAYERS, InputConvention, random_vgg19, vgg19

TORCHVISION_INDICES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)


def test_key_names_are_torchvisions() -> None:
    trunk = random_vgg19(depth="conv5_4")
    wanted = {f"features.{index}.{kind}" for index in TORCHVISION_INDICES for kind in ("weight", "bias")}
    assert set(trunk.state_dict()) == wanted
    assert len(LAYERS) == 16


def test_layers_have_the_published_shapes() -> None:
    features = random_vgg19(depth="conv5_1")(torch.rand(1, 3, 65, 48), LAYERS[:13])
    shapes = {name: tuple(F.shape[1:]) for name, F in features.items()}
    assert shapes["conv1_1"] == (64, 65, 48)
    assert shapes["conv3_1"] == (256, 17, 12)  # pooling rounds up
    assert shapes["conv5_1"] == (512, 5, 3)


def test_equals_a_network_written_by_hand() -> None:
    trunk = random_vgg19(seed=3, depth="conv2_1")
    weights = trunk.state_dict()
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 128, 3, padding=1)]
    for layer, index in zip(layers, (0, 2, 5), strict=True):
        layer.load_state_dict({kind: weights[f"features.{index}.{kind}"] for kind in ("weight", "bias")})
    x = torch.rand(1, 3, 16, 16)
    normal = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    first = torch.relu(layers[0](normal))
    third = torch.relu(layers[2](torch.max_pool2d(torch.relu(layers[1](first)), 2)))
    found = trunk(x, ("conv1_1", "conv2_1"))
    torch.testing.assert_close(found["conv1_1"], first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["conv2_1"], third, rtol=1e-4, atol=1e-4)


def test_caffe_convention_swaps_channels_and_shifts() -> None:
    weights = random_vgg19(depth="conv1_1").state_dict()
    caffe = InputConvention(bgr=True, scale=255.0, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    plain = InputConvention(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    x = torch.rand(1, 3, 8, 8)
    by_hand = x.flip(1) * 255 - torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(
        vgg19(weights, caffe, "conv1_1")(x, ("conv1_1",)), vgg19(weights, plain, "conv1_1")(by_hand, ("conv1_1",))
    )


def test_seed_decides_the_weights() -> None:
    one, same, other = random_vgg19(1), random_vgg19(1), random_vgg19(2)
    assert torch.equal(one.features[0].weight, same.features[0].weight)
    assert not torch.equal(one.features[0].weight, other.features[0].weight)


def test_missing_layer_and_missing_key_are_refused() -> None:
    with pytest.raises(ValueError, match="conv4_1"):
        random_vgg19()(torch.rand(1, 3, 8, 8), ("conv4_1",))
    weights = random_vgg19().state_dict()
    weights.pop("features.0.bias")
    with pytest.raises(RuntimeError, match=r"features\.0\.bias"):
        vgg19(weights, InputConvention(), "conv3_1")

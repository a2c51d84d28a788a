"""The slim trunk: what it gives, what it costs, and that a solve can use it like VGG-19."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from services.stylizer.core.objective import FeatureLayers
from services.stylizer.core.student import STUDENT_LAYERS, Student, student
from services.stylizer.core.vgg import LAYERS, VGG19


def multiplications(trunk: nn.Module, edge: int = 64) -> float:
    """Of all convolutions, per pixel of the picture."""
    total = 0

    def count(conv: nn.Conv2d, _: object, F: torch.Tensor) -> None:
        nonlocal total
        total += conv.weight[0].numel() * F.numel()

    hooks = [module.register_forward_hook(count) for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    trunk(torch.rand(1, 3, edge, edge), trunk.layers)
    for hook in hooks:
        hook.remove()
    return total / edge**2


def test_it_has_less_than_an_eighth_of_the_multiplications() -> None:
    assert 8 * multiplications(Student()) < multiplications(VGG19("conv5_1"))


def test_layers_have_the_sizes_of_vgg19() -> None:
    pictures = torch.rand(1, 3, 65, 48)
    ours, theirs = Student()(pictures, STUDENT_LAYERS), VGG19("conv4_2")(pictures, STUDENT_LAYERS)
    assert {name: F.shape[2:] for name, F in ours.items()} == {name: F.shape[2:] for name, F in theirs.items()}


def test_content_is_compared_where_the_paper_compares_it() -> None:
    layers = FeatureLayers.of(Student())
    assert layers.content == "conv4_2"
    assert layers.style == ("conv1_1", "conv2_1", "conv3_1", "conv4_1")


def test_features_are_linear_in_their_tap() -> None:
    trunk, picture = Student(), torch.rand(1, 3, 16, 16)
    before = trunk(picture, ("conv3_1",))["conv3_1"]
    tap = trunk.taps["conv3_1"]
    assert isinstance(tap, nn.Conv2d)
    assert tap.bias is not None
    with torch.no_grad():
        tap.weight *= 3
        tap.bias *= 3
    torch.testing.assert_close(trunk(picture, ("conv3_1",))["conv3_1"], 3 * before)


def test_loaded_weights_are_frozen_and_any_precision() -> None:
    trunk = Student()
    loaded = student({key: value.half() for key, value in trunk.state_dict().items()})
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    picture = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(
        loaded(picture, ("conv1_1",))["conv1_1"], trunk(picture, ("conv1_1",))["conv1_1"], rtol=1e-2, atol=1e-2
    )


def test_wrong_layers_and_weights_are_refused() -> None:
    trunk = Student()
    with pytest.raises(ValueError, match="conv5_1"):
        trunk(torch.rand(1, 3, 8, 8), ("conv5_1",))
    weights = trunk.state_dict()
    del weights["convs.conv2_1.weight"]
    with pytest.raises(RuntimeError, match=r"conv2_1\.weight"):
        student(weights)
    assert set(STUDENT_LAYERS) < set(LAYERS)

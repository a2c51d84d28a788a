"""A network with the conventions of torchvision's DeepLabv3: stride 8, dilated, pooled branch, ``{"out": logits}``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["small_resnet"]


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.layer3 = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.layer4 = nn.Conv2d(16, 16, 3, padding=4, dilation=4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.layer2(self.maxpool(torch.relu(self.bn1(self.conv1(x)))))
        return {"out": self.layer4(torch.relu(self.layer3(torch.relu(x))))}


class _Classifier(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU())
        self.last = nn.Conv2d(20, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = functional.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.last(torch.cat([x, pooled], dim=1))


class _Network(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.classifier = _Backbone(), _Classifier(classes)
        nn.init.normal_(self.backbone.bn1.running_mean, 0, 0.3)
        nn.init.uniform_(self.backbone.bn1.running_var, 0.2, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classifier(self.backbone(x)["out"])
        return {"out": functional.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)}


def small_resnet(*, weights: Any = None, weights_backbone: Any = None, num_classes: int = 21) -> nn.Module:
    """Called like torchvision's builders."""
    assert weights is None
    assert weights_backbone is None
    return _Network(num_classes)

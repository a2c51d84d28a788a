"""A dilated network of PyTorch as ONNX, normalisation included, cut before its last upsampling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import onnx
import torch
from torch import nn

from services.segmentation.convert.failure import ConvertError
from services.segmentation.convert.onnx_writer import checked, dimensions

__all__ = ["MEAN", "STD", "BeforeUpsampling", "export_onnx"]

# ImageNet's statistics of RGB 0..1, which torchvision's published weights are for.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Sides that no stride of the networks divides, so that the exporter cannot take them for anything special.
_EXAMPLE_SHAPE = (2, 3, 75, 91)


class BeforeUpsampling(nn.Module):
    """torchvision's segmentation network without its upsampling to the input size: ``{"out": logits}`` at its stride.

    Takes what has ``backbone``, which returns ``{"out": features}``, and ``classifier``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone, self.classifier = network.get_submodule("backbone"), network.get_submodule("classifier")

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take (batch, 3, height, width), normalised; returns the logits under "out"."""
        return {"out": self.classifier(self.backbone(image)["out"])}


class _Normalised(nn.Module):
    """Normalises in front of the network.

    Folding this into the first convolution is not the same at the borders, where that pads with zeros *behind* the
    normalisation.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = (nn.Buffer(torch.tensor(values).reshape(1, 3, 1, 1)) for values in (mean, std))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.network((image - self.mean) / self.std)["out"])


def export_onnx(
    network: nn.Module, classes: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> onnx.ModelProto:
    """Export a network that takes normalised pictures and returns ``{"out": logits}``.

    The result takes ``image``, NCHW float32 RGB 0..1 (``x/255`` of a manifest): the normalisation by
    ``mean`` and ``std`` of RGB 0..1 is its first step. It returns ``logits``; batch, height and width are free. The
    network is left in evaluation mode. Raises ConvertError if the result is no valid ONNX.
    """
    free: dict[str, Any] = {"image": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own use of what PyTorch deprecates
        program = torch.onnx.export(
            _Normalised(network, mean, std).eval(),
            (torch.zeros(_EXAMPLE_SHAPE),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=free,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ConvertError("torch.onnx returned nothing")
    model = program.model_proto
    for value, names in (
        (model.graph.input[0], dimensions(3, "height", "width")),
        (model.graph.output[0], dimensions(classes, "h", "w")),
    ):
        for axis, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if isinstance(name, str):
                axis.dim_param = name
    del model.graph.value_info[:]  # written in the exporter's names for the axes
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, with the paths of this machine
    return checked(model)

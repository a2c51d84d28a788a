"""TensorFlow's padding as attributes of ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["padding_attributes"]

_SAME = 0  # of TFLite's enumeration Padding


def padding_attributes(
    options: Mapping[str, Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> dict[str, Any]:
    """Give ``pads`` or ``auto_pad`` for a convolution or pooling; ``Pads`` of a folded dilation come first.

    With stride 1, SAME does not depend on the size. With stride 2 it does: TensorFlow pads an odd side by 1 and 1
    for a kernel of 3, an even side by 0 and 1. ONNX's SAME_UPPER is the same rule at run time. For sides of the form
    8k+1 all three strides of a DeepLab meet odd sides, where symmetric pads, as other converters write them, are exact.
    """
    if "Pads" in options:
        return {"pads": list(options["Pads"])}
    if options["Padding"] != _SAME:
        return {"pads": [0, 0, 0, 0]}
    if list(strides) != [1, 1]:
        return {"auto_pad": "SAME_UPPER"}
    totals = [dilation * (taps - 1) for dilation, taps in zip(dilations, kernel, strict=True)]
    return {"pads": [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]}

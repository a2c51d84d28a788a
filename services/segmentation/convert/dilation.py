"""TensorFlow's three operators for one dilated convolution, folded back into it."""

from __future__ import annotations

from dataclasses import replace

from services.segmentation.convert.failure import ConvertError
from services.segmentation.convert.tflite_graph import Graph, Operator

__all__ = ["fold_dilations"]

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_VALID = 1  # of TFLite's enumeration Padding


def fold_dilations(graph: Graph) -> Graph:
    """Replace every SpaceToBatchND, convolution, BatchToSpaceND by one convolution with dilation.

    TensorFlow cuts the image into block² interleaved images, convolves each densely, and weaves the results. That is
    a convolution whose taps are ``block`` pixels apart, on the image padded by ``paddings``, its result cropped by
    ``crops``. What pads the image to a multiple of the block is cropped again, so that ``paddings - crops`` is the
    convolution's own padding, which does not depend on the image's size. It is left in the option ``Pads``, (top,
    left, bottom, right), which replaces ``Padding``.

    Raises ConvertError if one of the three stands without the others.
    """
    consumers: dict[int, list[Operator]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            consumers.setdefault(index, []).append(operator)
    folded: dict[int, Operator] = {}  # by the tensor that BatchToSpaceND returns
    inner: set[int] = set()
    for cut in graph.operators:
        if cut.kind == "SPACE_TO_BATCH_ND":
            convolution = _only_consumer(graph, consumers, cut, _CONVOLUTIONS)
            weave = _only_consumer(graph, consumers, convolution, ("BATCH_TO_SPACE_ND",))
            folded[weave.outputs[0]] = _folded(graph, cut, convolution, weave)
            inner |= {*cut.outputs, *convolution.outputs}
    kept = [
        folded.get(operator.outputs[0], operator) for operator in graph.operators if operator.outputs[0] not in inner
    ]
    return replace(graph, operators=tuple(kept))


def _only_consumer(
    graph: Graph, consumers: dict[int, list[Operator]], operator: Operator, kinds: tuple[str, ...]
) -> Operator:
    found = consumers.get(operator.outputs[0], [])
    if len(found) != 1 or found[0].kind not in kinds:
        what = ", ".join(consumer.kind for consumer in found) or "nothing"
        name = graph.tensors[operator.outputs[0]].name
        raise ConvertError(f"{operator.kind} {name!r} is followed by {what}; {' or '.join(kinds)} alone can be folded")
    return found[0]


def _folded(graph: Graph, cut: Operator, convolution: Operator, weave: Operator) -> Operator:
    name, options = graph.tensors[weave.outputs[0]].name, convolution.options
    block, paddings = (_integers(graph, cut, position) for position in (1, 2))
    block_after, crops = (_integers(graph, weave, position) for position in (1, 2))
    strides = (options["StrideH"], options["StrideW"])
    if len(block) != 2 or block != block_after or strides != (1, 1):
        raise ConvertError(
            f"BATCH_TO_SPACE_ND {name!r}: blocks {block} and {block_after} around strides {strides}; "
            "two equal blocks of 2 around stride 1 can be folded"
        )
    dilations = (block[0] * options["DilationHFactor"], block[1] * options["DilationWFactor"])
    weights = graph.tensors[convolution.inputs[1]].shape
    before, after = [], []
    for axis in (0, 1):
        same = 0 if options["Padding"] == _VALID else dilations[axis] * (weights[1 + axis] - 1)
        before.append(paddings[2 * axis] + same // 2 - crops[2 * axis])
        after.append(paddings[2 * axis + 1] + same - same // 2 - crops[2 * axis + 1])
    if min(*before, *after) < 0:
        raise ConvertError(f"BATCH_TO_SPACE_ND {name!r}: crops {crops} are more than the paddings {paddings}")
    changed = {"DilationHFactor": dilations[0], "DilationWFactor": dilations[1], "Pads": (*before, *after)}
    inputs = (cut.inputs[0], *convolution.inputs[1:])
    return Operator(convolution.kind, inputs, weave.outputs, {**options, **changed})


def _integers(graph: Graph, operator: Operator, position: int) -> list[int]:
    tensor = graph.tensors[operator.inputs[position]]
    if tensor.constant is None:
        raise ConvertError(f"{operator.kind}: {tensor.name!r} is computed; constant blocks, paddings, crops expected")
    return [int(value) for value in tensor.constant.ravel()]

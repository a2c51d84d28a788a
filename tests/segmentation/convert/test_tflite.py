"""A converted DeepLab computes what TensorFlow's graph says, at its own size and at others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from services.common.models import find_model
from services.segmentation.convert.__main__ import main
from services.segmentation.convert.deeplab import convert_deeplab
from services.segmentation.convert.failure import ConvertError
from services.segmentation.network import Network
from tests.segmentation.convert.small_deeplab import (
    ALIGNED,
    ASYMMETRIC,
    HALF_PIXEL,
    small_deeplab,
    small_with_the_other_operators,
)
from tests.segmentation.convert.tflite_by_hand import evaluated
from tests.segmentation.convert.tflite_files import Op, Spec, Stored, written


def put(folder: Path, spec: Spec) -> Path:
    path = folder / "small.tflite"
    path.write_bytes(written(spec))
    return path


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image.transpose(0, 3, 1, 2).astype(np.float32)})
    return np.asarray(logits).transpose(0, 2, 3, 1)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (1, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("resize", [ALIGNED, HALF_PIXEL, ASYMMETRIC], ids=["aligned", "half pixel", "asymmetric"])
@pytest.mark.parametrize("size", [(33, 33), (41, 25), (40, 26), (35, 38)], ids=str)
def test_equals_the_graph_evaluated_by_hand(tmp_path: Path, size: tuple[int, int], resize: dict[str, bool]) -> None:
    """Converted from the graph for 33 x 33; sizes that are even or no 8k+1 are padded as TensorFlow pads them."""
    converted = convert_deeplab(put(tmp_path, small_deeplab(33, 33, resize=resize)))
    image = picture(*size)
    expected = evaluated(small_deeplab(*size, resize=resize), image, "logits")
    assert expected.std() > 0.5
    np.testing.assert_allclose(run(converted.model, image), expected, atol=2e-5)
    assert (converted.stride, converted.align_corners) == (2, resize == ALIGNED)
    assert (converted.edge_px, converted.step, converted.offset) == (33, 4, 1)


@pytest.mark.parametrize("size", [(33, 33), (40, 27)], ids=str)
def test_the_other_operators(tmp_path: Path, size: tuple[int, int]) -> None:
    converted = convert_deeplab(put(tmp_path, small_with_the_other_operators(33, 33)))
    image = picture(*size)
    expected = evaluated(small_with_the_other_operators(*size), image, "logits")
    assert expected.std() > 0.3
    np.testing.assert_allclose(run(converted.model, image), expected, atol=2e-5)
    assert (converted.stride, converted.align_corners, converted.step) == (2, False, 2)


def test_batches_are_free(tmp_path: Path) -> None:
    model = convert_deeplab(put(tmp_path, small_deeplab(33, 33))).model
    pictures = np.concatenate([picture(33, 41), -picture(33, 41)])
    np.testing.assert_allclose(run(model, pictures)[1:], run(model, pictures[1:]), atol=1e-5)


@pytest.mark.parametrize("block", [2, 4])
def test_dilations_are_true_ones(tmp_path: Path, block: int) -> None:
    model = convert_deeplab(put(tmp_path, small_deeplab(33, 33, block=block))).model
    found = [
        {a.name: list(a.ints) for a in node.attribute if a.name in ("dilations", "pads")}
        for node in model.graph.node
        if node.op_type == "Conv"
    ]
    assert {"dilations": [block, block], "pads": [block] * 4} in found
    assert {node.op_type for node in model.graph.node} == {
        *("Conv", "Clip", "Mul", "Add", "GlobalAveragePool", "Relu", "Shape", "Concat", "Expand", "Resize", "Identity")
    }
    expected = evaluated(small_deeplab(41, 37, block=block), picture(41, 37), "logits")
    np.testing.assert_allclose(run(model, picture(41, 37)), expected, atol=2e-5)


def test_padding_within_the_blocks(tmp_path: Path) -> None:
    """Some converters let the inner convolution pad (SAME), and SpaceToBatchND only fill up to the block."""
    spec = small_deeplab(33, 33)
    cut = next(op for op in spec.ops if op.kind == "SPACE_TO_BATCH_ND")
    inner = next(op for op in spec.ops if op.output == "wide/conv")
    ops = [replace(inner, options={**inner.options, "Padding": 0}) if op is inner else op for op in spec.ops]
    pads = Stored((2, 2), "int32", np.array([[0, 1], [0, 1]], np.int32))
    tensors = {**spec.tensors, "wide/pads": pads, cut.output: Stored((4, 5, 5, 8))}
    other = Spec(tensors, ops, spec.inputs, spec.outputs)
    image = picture(33, 33)
    np.testing.assert_allclose(
        evaluated(other, image, "logits"), evaluated(spec, image, "logits"), atol=1e-9, err_msg="the test's own graph"
    )
    np.testing.assert_allclose(
        run(convert_deeplab(put(tmp_path, other)).model, image), evaluated(spec, image, "logits"), atol=2e-5
    )


def test_quantised_activations_keep_their_range(tmp_path: Path) -> None:
    """TensorFlow drops a ReLU6 where the result's quantisation says as much."""
    spec = small_deeplab(33, 33)
    tensors = {**spec.tensors, "sum": Stored((1, 9, 9, 8), "int8", scale=[0.01], zero=[-100])}
    clipped, image = Spec(tensors, spec.ops, spec.inputs, spec.outputs), picture(33, 33)
    expected = evaluated(clipped, image, "logits")
    assert np.abs(expected - evaluated(spec, image, "logits")).max() > 0.1
    np.testing.assert_allclose(run(convert_deeplab(put(tmp_path, clipped)).model, image), expected, atol=2e-5)


def test_the_folder_loads_in_the_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = put(tmp_path, small_deeplab(33, 33))
    folder = tmp_path / "models" / "small" / "7"
    assert main(["tflite", str(source), str(folder), "--name", "small", "--version", "7", "--licence", "CC0-1.0"]) == 0
    assert capsys.readouterr().err == ""
    assert sorted(path.name for path in folder.parent.iterdir()) == ["7"]
    model = find_model(tmp_path / "models", "segmentation", "small/7")
    assert model is not None
    assert model.licence == "CC0-1.0"
    network = Network(model, "cpu", 1)
    network.dry_pass()
    assert network.labels[:3] == ("background", "aeroplane", "bicycle")
    assert network.input_size(4000, 3000) == (33, 25)
    photo = np.random.default_rng(2).uniform(0, 1, (25, 33, 3)).astype(np.float32)
    expected = evaluated(small_deeplab(25, 33), photo[None] * 2 - 1, "logits")[0]
    np.testing.assert_allclose(network.logits(photo).transpose(1, 2, 0), expected, atol=2e-5)


def test_labels_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, labels, folder = put(tmp_path, small_deeplab(33, 33, classes=3)), tmp_path / "mine.txt", tmp_path / "out"
    command = ["tflite", str(source), str(folder), "--name", "small", "--version", "1"]
    assert main(command) == 1
    assert "the network has 3 outputs, known are 151 (ade20k" in capsys.readouterr().err
    labels.write_text("sky\nsea\n")
    assert main([*command, "--labels", str(labels)]) == 1
    assert "has 2 labels, the network 3 outputs" in capsys.readouterr().err
    labels.write_text("sky\nsea\ntraffic light\n")
    assert main([*command, "--labels", str(labels)]) == 0
    assert json.loads((folder / "manifest.json").read_text())["labels"] == ["sky", "sea", "traffic light"]


def changed(**ops: Op) -> Spec:
    spec = small_deeplab(33, 33)
    return replace(spec, ops=[ops.get(op.output.replace("/", "_"), op) for op in spec.ops])


def retyped(**tensors: Stored) -> Spec:
    spec = small_deeplab(33, 33)
    return replace(spec, tensors={**spec.tensors, **{name.replace("__", "/"): t for name, t in tensors.items()}})


_MISFITS: dict[str, tuple[Any, str]] = {
    "unknown operator": (changed(sum=Op("TANH", ["narrow"], "sum")), r"operator TANH of tensor 'sum' is not supported"),
    "two outputs": (replace(small_deeplab(33, 33), outputs=["output", "up"]), "1 inputs, 2 outputs; 1 of each"),
    "output of no classifier": (replace(small_deeplab(33, 33), outputs=["up"]), "output 'up' comes from CONCATENATION"),
    "output that is the input": (
        replace(small_deeplab(33, 33), outputs=["image"]),
        "output 'image' comes from nothing",
    ),
    "grey input": (retyped(image=Stored((1, 33, 33, 1))), r"input 'image' has the shape \(1, 33, 33, 1\)"),
    "input of 0 to 255": (
        retyped(image=Stored((1, 33, 33, 3), "uint8", scale=[1.0], zero=[0])),
        r"input 'image' has the range \(0.0, 255.0\), -1 to 1 expected",
    ),
    "lone SpaceToBatchND": (
        changed(wide=Op("DEQUANTIZE", ["wide/conv"], "wide")),
        "DEPTHWISE_CONV_2D 'wide/conv' is followed by DEQUANTIZE; BATCH_TO_SPACE_ND alone can be folded",
    ),
    "crops over paddings": (
        retyped(wide__crops=Stored((2, 2), "int32", np.array([[3, 1], [0, 1]], np.int32))),
        r"BATCH_TO_SPACE_ND 'wide': crops \[3, 1, 0, 1\] are more than the paddings",
    ),
    "wrong weights": (
        retyped(logits__w=Stored((21, 1, 1, 7), "int8", np.ones((21, 1, 1, 7), np.int8), [0.1], [0])),
        r"operator CONV_2D of tensor 'logits' has weights \(21, 7, 1, 1\) \(OIHW\) for 20 channels",
    ),
    "weights that are not finite": (
        retyped(gain=Stored((8,), "float32", np.full(8, np.nan, np.float32))),
        "tensor 'gain' holds values that are not finite",
    ),
    "scales for another axis": (
        retyped(logits__w=Stored((21, 1, 1, 20), "int8", np.ones((21, 1, 1, 20), np.int8), [0.1] * 3, [0] * 3)),
        r"tensor 'logits/w' of shape \(21, 1, 1, 20\) has 3 scales on axis 0",
    ),
    "a size that nothing has": (
        retyped(up=Stored((1, 20, 20, 12))),
        r"operator RESIZE_BILINEAR of tensor 'up' resizes to \(20, 20\); no value before it has that size",
    ),
}


@pytest.mark.parametrize(("spec", "says"), _MISFITS.values(), ids=_MISFITS)
def test_misfits_are_refused(tmp_path: Path, spec: Spec, says: str) -> None:
    with pytest.raises(ConvertError, match=says):
        convert_deeplab(put(tmp_path, spec))


def test_what_is_no_whole_tflite_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit status 1, nothing written, wherever the file is cut."""
    whole, source = written(small_deeplab(33, 33)), tmp_path / "source.tflite"
    cuts = [whole[: len(whole) * part // 16] for part in range(1, 16)]
    for data in (b"", b"PK\x03\x04" * 9, b"\0\0\0\0TFL3", whole[:-1], *cuts):
        source.write_bytes(data)
        assert main(["tflite", str(source), str(tmp_path / "out"), "--name", "a", "--version", "1"]) == 1, len(data)
        error = capsys.readouterr().err
        assert error.startswith(f"error: {source}: "), error
        assert error.count("\n") == 1
    source.unlink()
    assert main(["tflite", str(source), str(tmp_path / "out"), "--name", "a", "--version", "1"]) == 1
    assert "cannot be read (No such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused_or_valid(tmp_path: Path) -> None:
    """Whatever byte is changed, the end is a ConvertError or a network that ONNX accepts."""
    whole, random = np.frombuffer(written(small_deeplab(33, 33)), np.uint8), np.random.default_rng(0)
    source, refused = tmp_path / "source.tflite", 0
    for _ in range(300):
        data = whole.copy()
        data[random.integers(8, len(data), 2)] = random.integers(0, 256, 2)
        source.write_bytes(data.tobytes())
        try:
            convert_deeplab(source)
        except ConvertError:
            refused += 1
    assert 50 < refused < 300

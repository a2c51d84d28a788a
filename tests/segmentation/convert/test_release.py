"""The real DeepLab release: the converted network beside the one that somebody made of it before, and TFLite's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.common.models import find_model
from services.segmentation.convert.__main__ import main
from services.segmentation.convert.label_sets import label_set_of
from services.segmentation.convert.tflite_graph import read_graph
from services.segmentation.network import Network
from tests.segmentation.convert.tflite_files import Op, Spec, Stored, written

NAME = "deeplabv3-mnv2-ade20k"
PHOTOS = ("pairs/*/content.png", "photos/scenes/*", "photos/bsds/*")


def photos(test_data_dir: Path) -> list[np.ndarray]:
    paths = [path for pattern in PHOTOS for path in sorted(test_data_dir.glob(pattern))[:3]]
    return [np.asarray(Image.open(path).convert("RGB"), np.float32) / 255 for path in paths]


def source_of(models_dir: Path) -> Path:
    path = models_dir / NAME / "1" / "source.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture
def converted(models_dir: Path, tmp_path: Path) -> Network:
    folder = tmp_path / NAME / "2"
    assert main(["tflite", str(source_of(models_dir)), str(folder), "--name", NAME, "--version", "2"]) == 0
    model = find_model(tmp_path, "segmentation", NAME)
    assert model is not None
    return Network(model, "cpu", 1)


@pytest.mark.weights
def test_labels_are_in_the_releases_order(models_dir: Path) -> None:
    manifest = json.loads((models_dir / NAME / "1" / "manifest.json").read_text())
    assert label_set_of(151) == (manifest["label_set"], tuple(manifest["labels"]))


@pytest.mark.weights
def test_agrees_with_the_onnx_made_before(converted: Network, models_dir: Path, test_data_dir: Path) -> None:
    before = find_model(models_dir, "segmentation", NAME)
    assert before is not None
    for field in ("input", "output", "label_set", "labels"):
        assert converted.model.manifest[field] == before.manifest[field]
    reference, worst, agreed = Network(before, "cpu", 1), 0.0, []
    for photo in photos(test_data_dir):
        got, expected = converted.logits(photo), reference.logits(photo)
        worst = max(worst, float(np.abs(got - expected).max()))
        agreed.append(float((got.argmax(axis=0) == expected.argmax(axis=0)).mean()))
    print(f"{len(agreed)} photos: labels agree on {min(agreed):.4%} at least, logits within {worst:.1e}")
    assert min(agreed) >= 0.99
    assert worst < 1e-3


def by_tflite(file: bytes, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Logits (classes, 129, 129) of pictures of 513 x 513 by TFLite's interpreter."""
    interpreter_of = pytest.importorskip("ai_edge_litert.interpreter", reason="needs the package ai-edge-litert")
    interpreter, results = interpreter_of.Interpreter(model_content=file, num_threads=1), []
    interpreter.allocate_tensors()
    for picture in pictures:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None] * 2 - 1)
        interpreter.invoke()
        logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        # Corners are aligned: every fourth pixel is a sample of the logits.
        results.append(logits[0, ::4, ::4].transpose(2, 0, 1))
    return results


def with_float_weights(path: Path) -> bytes:
    """Write the release anew with its weights as float32, so that TFLite computes in float32 throughout."""
    graph = read_graph(path)
    stored = {i: tensor.constant for i, tensor in enumerate(graph.tensors) if tensor.constant is not None}
    ops = []
    for operator in graph.operators:
        if operator.kind == "DEQUANTIZE":
            stored[operator.outputs[0]] = stored[operator.inputs[0]]
            continue
        more = {"DepthMultiplier": 1} if operator.kind == "DEPTHWISE_CONV_2D" else {}
        inputs = [str(index) for index in operator.inputs]
        ops.append(Op(operator.kind, inputs, str(operator.outputs[0]), {**operator.options, **more}))
    tensors = {
        name: Stored(graph.tensors[int(name)].shape, "float32" if values is None else str(values.dtype), values)
        for name, values in ((name, stored.get(int(name))) for op in ops for name in (*op.inputs, op.output))
    }
    return written(Spec(tensors, ops, [str(graph.inputs[0])], [str(graph.outputs[0])]))


@pytest.mark.weights
def test_agrees_with_tflite(converted: Network, models_dir: Path, test_data_dir: Path) -> None:
    """In float32 it is the same network. TFLite itself also rounds what enters a layer of 8-bit weights to 8 bits."""
    pictures = []
    for photo in photos(test_data_dir):
        square = Image.fromarray(np.uint8(photo * 255)).resize((513, 513), Image.Resampling.BILINEAR)
        pictures.append(np.asarray(square, np.float32) / 255)
    source = source_of(models_dir)
    got = [converted.logits(picture) for picture in pictures]
    for weights, file, least, tolerance in (
        ("float32", with_float_weights(source), 0.999, 1e-3),
        ("8-bit", source.read_bytes(), 0.95, 1.0),
    ):
        expected = by_tflite(file, pictures)
        agreed = [float((a.argmax(axis=0) == b.argmax(axis=0)).mean()) for a, b in zip(got, expected, strict=True)]
        worst = max(float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True))
        print(f"{weights} weights: labels agree on {min(agreed):.4%} to {max(agreed):.4%}, logits within {worst:.1e}")
        assert min(agreed) >= least
        assert worst < tolerance

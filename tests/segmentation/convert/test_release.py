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
from services.segmentation.network import Network

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


@pytest.mark.weights
def test_agrees_with_tflite(converted: Network, models_dir: Path, test_data_dir: Path) -> None:
    """TFLite rounds what enters each layer of 8-bit weights to 8 bits, too: that, not the conversion, is the rest."""
    interpreter_of = pytest.importorskip("ai_edge_litert.interpreter", reason="needs the package ai-edge-litert")
    interpreter = interpreter_of.Interpreter(str(source_of(models_dir)), num_threads=1)
    interpreter.allocate_tensors()
    agreed = []
    for photo in photos(test_data_dir):
        square = Image.fromarray(np.uint8(photo * 255)).resize((513, 513), Image.Resampling.BILINEAR)
        pixels = np.asarray(square, np.float32) / 255
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None] * 2 - 1)
        interpreter.invoke()
        expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0, ::4, ::4].argmax(axis=2)
        agreed.append(float((converted.logits(pixels).argmax(axis=0) == expected).mean()))
    print(f"{len(agreed)} photos at 513x513: labels agree on {min(agreed):.4%} to {max(agreed):.4%}")
    assert min(agreed) > 0.95

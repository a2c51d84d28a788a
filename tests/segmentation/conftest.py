"""A tiny network, made here, so that no test needs the real one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.common.models import Model, find_model

CLASSES = ["others", "building", "tree", "sky", "skyscraper"]
# Which colour of an sRGB photo each class answers to: grey, half of red, green, blue, half of red.
_WEIGHTS = np.array([[0, 0, 0], [9, -9, -9], [-9, 9, -9], [-9, -9, 9], [9, -9, -9]], np.float32)


def network_bytes(
    spatial: tuple[Any, Any] = ("h", "w"),
    classes: int = len(CLASSES),
    batch: Any = "n",
    stride: int = 4,
    then: str = "Identity",
) -> bytes:
    """Logits at a quarter of the input size, on the centres of every fourth pixel.

    ``then`` is done to the logits: "Log" makes NaN of negative ones.
    """
    weights = numpy_helper.from_array(_WEIGHTS[:classes, :, None, None], "weights")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "weights"], ["scores"], strides=[stride, stride]),
            helper.make_node(then, ["scores"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, *spatial])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes, "h", "w"])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def put_network(
    models_dir: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    data: bytes | None = None,
    network: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a model; ``network`` changes its ONNX file, ``changes`` fields of its manifest, dicts field by field."""
    folder = models_dir / name / version
    folder.mkdir(parents=True, exist_ok=True)
    data = network_bytes(**network or {}) if data is None else data
    (folder / "model.onnx").write_bytes(data)
    manifest: dict[str, Any] = {
        "name": name,
        "version": version,
        "task": "segmentation",
        "licence": "Apache-2.0",
        "source": "made by a test",
        "files": {"model.onnx": hashlib.sha256(data).hexdigest()},
        "input": {
            "name": "image",
            "layout": "NCHW",
            "channels": "RGB",
            "dtype": "float32",
            "scale": "x/127.5 - 1",
            "size": "any; best with the long side at 129, sides of the form 8k+1",
        },
        "output": {"name": "logits", "layout": "NCHW", "stride": 4, "align_corners": True},
        "labels": CLASSES,
    }
    for field, value in changes.items():
        manifest[field] = {**manifest[field], **value} if isinstance(value, dict) else value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Model]:
    """Make and find the tiny model, with changes to its network or manifest."""

    def make(**changes: Any) -> Model:
        put_network(tmp_path, **changes)
        model = find_model(tmp_path, "segmentation", "tiny")
        assert model is not None
        return model

    return make


@pytest.fixture
def tiny_models_dir(tmp_path: Path) -> Path:
    put_network(tmp_path)
    return tmp_path

"""A network is held to its manifest; what does not fit is refused with path and reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.common.models import Model, ModelError
from services.segmentation.network import Network

MakeModel = Callable[..., Model]


def colours(*rgb: tuple[float, float, float]) -> np.ndarray:
    """Equal columns of colour, 65 rows high."""
    return np.repeat(np.array(rgb, np.float32)[None], 65, axis=0).repeat(129 // len(rgb), axis=1)


def test_logits(tiny_model: MakeModel) -> None:
    network = Network(tiny_model(), "cpu", threads=1)
    assert (network.provider, network.device) == ("CPUExecutionProvider", "cpu")
    assert network.input_edge_px == 129
    network.dry_pass()
    logits = network.logits(colours((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    assert logits.shape == (5, 17, 33)
    assert logits.dtype == np.float32
    assert [int(logits[:, 8, column].argmax()) for column in (2, 16, 30)] == [3, 2, 1]
    assert logits[3, 8, 2] == pytest.approx(27)  # blue is (-1, -1, 1) to the network


@pytest.mark.parametrize(
    ("photo", "size"),
    [
        ((4000, 3000), (129, 97)),
        ((3000, 4000), (97, 129)),
        ((64, 64), (129, 129)),
        ((30_000, 40), (129, 9)),
        ((700, 437), (129, 81)),
    ],
)
def test_input_size_keeps_the_aspect_ratio(
    tiny_model: MakeModel, photo: tuple[int, int], size: tuple[int, int]
) -> None:
    assert Network(tiny_model(), "cpu", 1).input_size(*photo) == size


def test_channel_order_and_scale_follow_the_manifest(tiny_model: MakeModel) -> None:
    network = Network(tiny_model(input={"channels": "BGR", "scale": "x/255"}), "cpu", 1)
    logits = network.logits(colours((1, 0, 0)))
    assert logits[:, 0, 0].argmax() == 3  # red arrives where blue is
    assert logits[3, 0, 0] == pytest.approx(9)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input": {"name": "picture"}}, r"inputs are \['image'\], the manifest says 'picture'"),
        ({"output": {"name": "scores"}}, r"outputs are \['logits'\], the manifest says 'scores'"),
        ({"input": {"scale": "x/7"}}, "input.scale is 'x/7', known are"),
        ({"input": {"layout": "NHWC"}}, "input.layout is 'NHWC'"),
        ({"input": {"size": "512"}}, "input.size '512' does not say"),
        ({"labels": ["sky", "tree"]}, "logits has 5 classes, the manifest lists 2 labels"),
        ({"labels": []}, "the manifest lists 0 labels"),
        ({"spatial": (128, 128)}, "fixed size"),
        ({"input": None}, "field 'input' is missing"),
        ({"data": b"no network"}, r"model\.onnx: ONNX Runtime cannot load it"),
    ],
)
def test_misfits_are_refused(tiny_model: MakeModel, changes: dict[str, Any], says: str) -> None:
    model = tiny_model(**changes)
    with pytest.raises(ModelError, match=says) as caught:
        Network(model, "cpu", 1)
    assert str(model.folder) in str(caught.value)


def test_cuda_refuses_to_fall_back(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ModelError, match="DPST_DEVICE=cuda but this ONNX Runtime has only CPUExecutionProvider"):
        Network(model, "cuda", 1)
    assert Network(model, "auto", 1).device == "cpu"


def test_cuda_that_is_listed_but_not_there_is_noticed(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fallen:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    model = tiny_model()
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: Fallen())
    with pytest.raises(ModelError, match="fell back to CPUExecutionProvider"):
        Network(model, "cuda", 1)

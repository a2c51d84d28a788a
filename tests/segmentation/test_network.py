"""A network is held to its manifest; what does not fit is refused with path and reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from services.common.errors import FailedPrecondition
from services.common.models import Model, ModelError
from services.segmentation.network import Inferred, Network
from services.segmentation.sessions import Placement, open_session
from tests.segmentation.conftest import network_bytes

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
        ({"labels": ["sky", "tree"]}, "'logits' has 5 classes, the manifest lists 2 labels"),
        ({"labels": []}, "the manifest lists 0 labels"),
        ({"labels": "sky"}, "field 'labels' is no list of names"),
        ({"output": {"stride": "4"}}, "output.stride is '4'"),
        ({"network": {"spatial": (128, 128)}}, "fixed size"),
        ({"network": {"batch": 4}}, "takes 4 photos, no more and no less"),
        ({"network": {"classes": 3}}, "'logits' has 3 classes, the manifest lists 5 labels"),
        ({"data": network_bytes()[:-40]}, r"model\.onnx: ONNX Runtime cannot load it"),
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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"network": {"then": "Log"}}, "logits holds values that are not finite numbers"),
        ({"network": {"stride": 8}}, "17 samples along an edge of 129 px, the manifest says stride 4"),
        ({"output": {"stride": 8}}, "33 samples along an edge of 129 px, the manifest says stride 8"),
    ],
)
def test_the_dry_pass_refuses_what_only_running_shows(
    tiny_model: MakeModel, changes: dict[str, Any], says: str
) -> None:
    model = tiny_model(**changes)
    with pytest.raises(ModelError, match=says) as caught:
        Network(model, "cpu", 1).dry_pass()
    assert str(model.folder) in str(caught.value)


def collected(network: Network, photos: list[np.ndarray]) -> dict[int, Inferred | Exception]:
    results: dict[int, Inferred | Exception] = {}
    network.run(photos, results.__setitem__)
    return results


@pytest.mark.parametrize(
    ("threads", "size", "stacked"), [(1, 1, None), (2, 8, None), (3, 4, None), (2, 8, True), (1, 8, True)]
)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_photos_of_a_batch_come_out_as_alone(
    tiny_model: MakeModel, threads: int, size: int, stacked: bool | None, count: int
) -> None:
    network = Network(tiny_model(), "cpu", threads, max_batch_size=size, stacked=stacked)
    network.dry_pass()
    photos = list(np.random.default_rng(count).random((count, 65, 129, 3), np.float32))
    results = collected(network, [network.prepared(photo) for photo in photos])
    assert sorted(results) == list(range(count))
    for position, photo in enumerate(photos):
        result = results[position]
        assert isinstance(result, Inferred)
        assert result.seconds > 0
        np.testing.assert_allclose(result.logits, network.logits(photo), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_bad_photo_leaves_the_others_alone(tiny_model: MakeModel, stacked: bool) -> None:
    network = Network(tiny_model(), "cpu", 2, max_batch_size=8, stacked=stacked)
    photos = [network.prepared(colours((shade, shade, 0.5))) for shade in (0.0, 0.5, 1.0)]
    photos[1][:, 8, 8] = np.inf
    results = collected(network, photos)
    assert isinstance(results[1], FailedPrecondition)
    assert "tiny/1" in str(results[1])
    assert "not finite" in str(results[1])
    assert isinstance(results[0], Inferred)
    assert isinstance(results[2], Inferred)


def test_a_network_that_takes_one_photo_gets_one_by_one(tiny_model: MakeModel) -> None:
    network = Network(tiny_model(network={"batch": 1}), "cpu", 1, max_batch_size=8, stacked=True)
    network.dry_pass()
    results = collected(network, [network.prepared(colours((0, 0, 1), (0, 1, 0), (1, 0, 0)))] * 3)
    assert all(isinstance(result, Inferred) for result in results.values())


def test_a_network_that_mixes_its_photos_up_gets_one_by_one(tiny_model: MakeModel) -> None:
    model = tiny_model(data=mixing())
    network = Network(model, "cpu", 1, max_batch_size=8, stacked=True)
    network.dry_pass()
    photos = [colours((0, 0, 1)), colours((1, 0, 0))]
    results = collected(network, [network.prepared(photo) for photo in photos])
    for position, photo in enumerate(photos):
        result = results[position]
        assert isinstance(result, Inferred)
        np.testing.assert_allclose(result.logits, network.logits(photo))


def mixing() -> bytes:
    """The tiny network, with the mean over the batch added to every photo."""
    model = onnx.load_model_from_string(network_bytes())
    model.graph.node[1].CopyFrom(helper.make_node("ReduceMean", ["scores"], ["mean"], axes=[0], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["scores", "mean"], ["logits"]))
    return bytes(model.SerializeToString())


def test_threads_are_said_explicitly(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5})
    assert Placement().cores == 3
    assert Placement(threads=2).cores == 2
    session = open_session(tiny_model().file("model.onnx"), Placement(), 3)
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("device", "tensorrt", "listed", "asked"),
    [
        ("auto", False, ["Tensorrt", "CUDA", "CPU"], ["CUDA", "CPU"]),
        ("auto", True, ["Tensorrt", "CUDA", "CPU"], ["Tensorrt", "CUDA", "CPU"]),
        ("auto", True, ["CUDA", "CPU"], ["CUDA", "CPU"]),
        ("cuda", True, ["Tensorrt", "CUDA", "CPU"], ["Tensorrt", "CUDA", "CPU"]),
        ("cpu", True, ["Tensorrt", "CUDA", "CPU"], ["CPU"]),
        ("auto", True, ["CPU"], ["CPU"]),
    ],
)
def test_providers(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch, device: Any, tensorrt: bool, listed: Any, asked: Any
) -> None:
    got: list[str] = []

    class Session:
        def __init__(self, _path: str, _options: object, providers: list[str]) -> None:
            got.extend(providers)

        def get_providers(self) -> list[str]:
            return got

    full = [f"{name}ExecutionProvider" for name in listed]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: full)
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    open_session(tiny_model().file("model.onnx"), Placement(device, 1, tensorrt), 1)
    assert got == [f"{name}ExecutionProvider" for name in asked]

"""The way out of PyTorch, with a small network of the same conventions; with torchvision's own where it is there."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from services.common.models import find_model
from services.segmentation.convert import dilated_resnet
from services.segmentation.convert.__main__ import main
from services.segmentation.convert.label_sets import VOC
from services.segmentation.convert.torch_export import MEAN, STD, BeforeUpsampling, export_onnx
from services.segmentation.network import Network
from tests.segmentation.convert.small_resnet import small_resnet

RESNET50 = "deeplabv3_resnet50"


def command(folder: Path, *options: str) -> list[str]:
    return ["torchvision", RESNET50, str(folder), "--version", "1", *options]


def normalised(pictures: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (MEAN, STD))
    return (torch.from_numpy(pictures) - mean) / std


@pytest.fixture
def in_place_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    builders = SimpleNamespace(deeplabv3_resnet50=small_resnet)
    monkeypatch.setattr(dilated_resnet, "_torchvision", lambda: builders)


def test_export_equals_torch_at_any_size_and_batch() -> None:
    torch.manual_seed(3)
    network = small_resnet().eval()
    model = export_onnx(BeforeUpsampling(network), 21)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [session.get_inputs()[0].shape, session.get_outputs()[0].shape] == [
        ["batch", 3, "height", "width"],
        ["batch", 21, "h", "w"],
    ]
    for batch, height, width in ((1, 64, 96), (3, 72, 41), (1, 129, 33)):
        pictures = np.random.default_rng(0).uniform(0, 1, (batch, 3, height, width)).astype(np.float32)
        (logits,) = session.run(["logits"], {"image": pictures})
        assert logits.shape == (batch, 21, -(-height // 8), -(-width // 8))
        with torch.inference_mode():
            whole = network(normalised(pictures))["out"]
            enlarged = functional.interpolate(torch.from_numpy(logits), size=whole.shape[-2:], mode="bilinear")
        assert whole.std() > 0.05
        torch.testing.assert_close(enlarged, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("in_place_of_torchvision")
def test_command_with_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    network, weights = small_resnet().eval(), tmp_path / "weights.pth"
    torch.save({**network.state_dict(), "aux_classifier.0.weight": torch.zeros(1)}, weights)
    folder = tmp_path / "models" / RESNET50 / "1"
    assert main(command(folder, "--weights", str(weights))) == 0
    assert capsys.readouterr().err == ""
    model = find_model(tmp_path / "models", "segmentation", RESNET50)
    assert model is not None
    assert model.manifest["output"] == {"name": "logits", "layout": "NCHW", "stride": 8, "align_corners": False}
    loaded = Network(model, "cpu", 1)
    assert (loaded.input_edge_px, loaded.labels, loaded.align_corners) == (520, VOC, False)
    loaded.dry_pass()
    photo = np.random.default_rng(0).uniform(0, 1, (520, 520, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = BeforeUpsampling(network)(normalised(photo.transpose(2, 0, 1)[None]))["out"][0]
    np.testing.assert_allclose(loaded.logits(photo), expected.numpy(), atol=1e-5)


@pytest.mark.usefixtures("in_place_of_torchvision")
def test_random_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate(("7", "7", "8")):
        assert main(command(tmp_path / str(number), "--random-weights", seed)) == 0
        digests.append(json.loads((tmp_path / str(number) / "manifest.json").read_text())["files"]["model.onnx"])
    assert digests[0] == digests[1] != digests[2]


def _without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != key}


_MISFITS: dict[str, tuple[Any, str]] = {
    "missing": (lambda s: _without(s, "backbone.layer3.weight"), "has no key 'backbone.layer3.weight'"),
    "other shape": (
        lambda s: {**s, "classifier.last.bias": torch.zeros(19)},
        "key 'classifier.last.bias' has the shape (19,), the network's is (21,)",
    ),
    "unknown": (lambda s: {**s, "backbone.extra": torch.zeros(1)}, "has the key 'backbone.extra', which the network"),
    "not finite": (
        lambda s: {**s, "classifier.last.bias": torch.full((21,), torch.nan)},
        "key 'classifier.last.bias' holds values that are not finite",
    ),
    "nested": (lambda s: {"state_dict": s}, "holds dict, a dictionary of tensors expected"),
    "list": (lambda s: list(s.values()), "holds list, a dictionary of tensors expected"),
}


@pytest.mark.usefixtures("in_place_of_torchvision")
@pytest.mark.parametrize(("change", "says"), _MISFITS.values(), ids=_MISFITS)
def test_weights_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, says: str) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(change(small_resnet().state_dict()), weights)
    assert main(command(tmp_path / "out", "--weights", str(weights))) == 1
    assert capsys.readouterr().err.startswith(f"error: {weights}: {says}")
    assert list(tmp_path.iterdir()) == [weights]


@pytest.mark.usefixtures("in_place_of_torchvision")
def test_files_that_are_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, weights = tmp_path / "whole.pth", tmp_path / "weights.pth"
    torch.save(small_resnet().state_dict(), whole)
    data = whole.read_bytes()
    for bad in (b"", b"<html>404</html>", data[: len(data) // 2], data[:-20]):
        weights.write_bytes(bad)
        assert main(command(tmp_path / "out", "--weights", str(weights))) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {weights}: is no file of weights"), error
        assert error.count("\n") == 1
    assert main(command(tmp_path / "out", "--weights", str(tmp_path / "none.pth"))) == 1
    assert "none.pth: cannot be read (No such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_torchvision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main(command(tmp_path / "out", "--random-weights", "1")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: torchvision is not there")
    assert error.endswith("install the extra 'gpu'\n")


def test_with_a_torchvision_for_another_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    assert main(command(tmp_path / "out", "--random-weights", "1")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: torchvision does not fit torch 2.")
    assert "nms does not exist" in error


def test_weights_or_random_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--weights", "a.pth", "--random-weights", "1"]):
        assert main(command(tmp_path / "out", *options)) == 1
        assert capsys.readouterr().err == "error: give either --weights FILE.pth or --random-weights SEED\n"


@pytest.fixture
def real_torchvision() -> Iterator[None]:
    """Import torchvision, also beside a torch of another build.

    Its compiled operators do not load there, and its Python does not import before two of them are declared. The
    networks use none of them.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs the gpu extra's torchvision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = None
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            importlib.import_module("torchvision")
        yield
        del library


@pytest.mark.slow
@pytest.mark.usefixtures("real_torchvision")
@pytest.mark.parametrize("architecture", dilated_resnet.ARCHITECTURES)
def test_torchvisions_own_networks(tmp_path: Path, architecture: str) -> None:
    folder = tmp_path / architecture / "1"
    assert main(["torchvision", architecture, str(folder), "--version", "1", "--random-weights", "11"]) == 0
    model = find_model(tmp_path, "segmentation", architecture)
    assert model is not None
    loaded, photo = Network(model, "cpu", 1), np.random.default_rng(0).uniform(0, 1, (520, 390, 3)).astype(np.float32)
    logits = loaded.logits(photo)
    assert logits.shape == (21, 65, 49)
    entered = functional.interpolate(torch.from_numpy(photo.transpose(2, 0, 1)[None]), (520, 392), mode="bilinear")
    with torch.inference_mode():
        whole = dilated_resnet.built(architecture, 21, 11).eval()(normalised(entered.numpy()))["out"]
    enlarged = functional.interpolate(torch.from_numpy(logits[None]), size=(520, 392), mode="bilinear")
    # With random weights and no statistics for its normalisations, a hundred layers leave logits of any magnitude.
    worst = float((enlarged - whole).abs().max() / whole.std())
    print(f"{architecture}: within {worst:.1e} of the logits' standard deviation {float(whole.std()):.2g}")
    assert worst < 1e-4

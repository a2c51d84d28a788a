"""The training of ``scene-student``, small: shapes, views, its teacher, fits, steps, the result."""

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
from services.segmentation.network import Network
from services.segmentation.training.data import Check, Photo, checks, grouping, known, normalised, views
from services.segmentation.training.deployed import Deployed, write
from services.segmentation.training.fit import Fit, ridge
from services.segmentation.training.lessons import Lessons, places
from services.segmentation.training.scene import WIDTHS, SceneNetwork
from services.segmentation.training.schedule import agreement, trained
from services.segmentation.training.teacher import BLOCKS, STAGES, Teacher

CLASSES = ("others", "sky", "sea", "lake", "grass")
WIDTHS_OF_BLOCKS = (16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320)  # what leaves the trunk's blocks
STRIDES = (2, 4, 4, *[8] * 14)
HEAD = {"here": (256, 8), "scene": (256, 8), "border": (48, 4), "join": (256, 4), "decode": (256, 4)}  # a teacher's
SIZES = {**{f"block {n}": each for n, each in enumerate(zip(WIDTHS_OF_BLOCKS, STRIDES, strict=True))}, **HEAD}
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
    generator = np.random.default_rng(0)
    weights = {"table": table}
    nodes = []
    for name, (width, stride) in SIZES.items():
        weights[f"{name}.weight"] = generator.normal(size=(width, 3, 1, 1)).astype(np.float32)
        nodes.append(
            helper.make_node(
                "Conv", ["image", f"{name}.weight"], [STAGES[name]], kernel_shape=[1, 1], strides=[stride, stride]
            )
        )
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


def slim_teacher(model: Model) -> Teacher:
    teacher = Teacher(model, 1)
    teacher.show_of(WIDTHS, torch.rand(1, 3, 41, 57))
    return teacher


def test_stages_have_the_sizes_of_a_teachers() -> None:
    network = SceneNetwork(len(CLASSES)).eval()
    stages = network.stages(torch.rand(2, 3, 41, 57))
    assert list(stages) == list(STAGES)
    for name, (width, stride) in {**SIZES, "head": (len(CLASSES), 4)}.items():
        width = WIDTHS.get(name, width)
        assert stages[name].shape == (2, width, 40 // stride + 1, 56 // stride + 1), name


def test_a_regression_finds_the_convolution() -> None:
    torch.manual_seed(0)
    true, found = torch.nn.Conv2d(5, 3, 1), torch.nn.Conv2d(5, 3, 1)
    views = [torch.rand(1, 5, 9, 9) + 2 for _ in range(4)]
    ridge(found, [(places(each, 1, (0, 0)), places(true(each).detach(), 1, (0, 0))) for each in views])
    unseen = torch.rand(1, 5, 9, 9) + 2
    torch.testing.assert_close(found(unseen), true(unseen), atol=1e-2, rtol=0)


def test_fitted_stages_are_nearer_to_the_teachers(model: Model) -> None:
    torch.manual_seed(0)
    teacher, network = slim_teacher(model), SceneNetwork(len(CLASSES))
    images = [torch.rand(3, 41, 57) for _ in range(6)]
    wanted = teacher(images[0][None])

    def errors() -> dict[str, float]:
        with torch.no_grad():
            found = network.eval().stages(normalised(images[0][None]))
        return {name: float((found[name] - wanted[name]).square().mean()) for name in STAGES}

    fit, before = Fit(teacher, images), errors()
    fit.blocks(network)
    after_blocks = errors()
    assert all(after_blocks[name] < before[name] for name in BLOCKS)
    fit.head(network)
    after = errors()
    assert all(after[name] < after_blocks[name] for name in HEAD)
    assert after["head"] < after_blocks["head"]
    assert all(after[name] == after_blocks[name] for name in BLOCKS)


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


def test_teacher_gives_the_features_of_each_stage(model: Model) -> None:
    teacher = Teacher(model, 1)
    photos = torch.rand(2, 3, 33, 49)
    found = teacher(photos)
    assert list(found) == list(STAGES)
    torch.testing.assert_close(found["head"][:, CLASSES.index("sky")], 20 * photos[:, 2, ::4, ::4])
    for name, (width, stride) in SIZES.items():
        assert found[name].shape == (2, width, 32 // stride + 1, 48 // stride + 1)


def test_teacher_shows_the_channels_that_vary_most(model: Model) -> None:
    teacher = Teacher(model, 1)
    photos = torch.rand(2, 3, 33, 49)
    whole_stage = teacher(photos)["scene"]
    teacher.show_of({"scene": 16}, photos)
    shown = teacher(photos)["scene"]
    assert shown.shape[1] == 16
    spread = whole_stage.relu().var(dim=(0, 2, 3))
    kept = (spread >= spread.sort().values[-16]).nonzero()[:, 0]
    assert torch.equal(shown, whole_stage[:, kept])


def test_teacher_without_the_stages_is_refused(model: Model) -> None:
    network = onnx.load(model.file("model.onnx"))
    for node in list(network.graph.node):
        if node.output[0] == STAGES["scene"]:
            network.graph.node.remove(node)
    model.file("model.onnx").write_bytes(network.SerializeToString())
    with pytest.raises(ValueError, match=STAGES["scene"]):
        Teacher(model, 1)


def test_places_of_fine_features_are_each_second() -> None:
    quarter, eighth = (torch.arange(2 * h * w).reshape(2, 1, h, w) for h, w in ((11, 15), (6, 8)))
    assert places(quarter, 41, (1, 0))[:, 0].tolist() == quarter[:, :, 1::2, ::2].flatten().tolist()
    assert places(eighth, 41, (1, 0))[:, 0].tolist() == eighth.flatten().tolist()


def test_all_of_a_lesson_are_upright_or_none(model: Model) -> None:
    turned = photo(0)
    upright = Photo(turned.pixels.transpose(1, 2), turned.people.T)
    lessons = Lessons([*(photo(n) for n in range(6)), *[upright] * 6], Teacher(model, 1), 0)
    taken = [lessons.new((41, 73)) for _ in range(20)]
    assert {tuple(lesson.photos.shape) for lesson in taken} == {(4, 3, 41, 73), (4, 3, 73, 41)}
    for lesson in taken:
        quarter = ((edge - 1) // 4 + 1 for edge in lesson.photos.shape[2:])
        rows, columns = ((edge + 1 - first) // 2 for edge, first in zip(quarter, lesson.offset, strict=True))
        assert lesson.hints["head"].shape == (4 * rows * columns, len(CLASSES))
        assert lesson.people.shape == (4 * rows * columns,)
        assert lesson.hints["scene"].shape == (4 * 6 * 10, 256)


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
    assert (width, height % 8) == (513, 1)
    assert check.labels.shape == (height // 4 + 1, 129)
    assert check.labels[: len(check.labels) // 2 - 1].unique().tolist() == [SKY]
    assert check.labels[len(check.labels) // 2 + 2 :].unique().tolist() == [GRASS]


def test_training_moves_the_trunk_then_all_then_what_follows_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.segmentation.training.schedule.SMALL", (57, 89))
    monkeypatch.setattr("services.segmentation.training.schedule.WHOLE", (89, 121))
    monkeypatch.setattr("services.segmentation.training.schedule._REPORT_SECONDS", 0.5)
    torch.manual_seed(0)
    teacher, groups = slim_teacher(model), grouping(CLASSES)
    network = SceneNetwork(len(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in network.named_parameters()}
    kept: list[dict[str, torch.Tensor]] = []
    small = [Check(normalised(photo(9).pixels[None, :, :65, :81].float() / 255), torch.full((17, 21), SKY))]
    lessons = Lessons([photo(n) for n in range(6)], teacher, 0)
    fit = Fit(teacher, list(lessons.batch((57, 89)).photos))

    def keep(mean: SceneNetwork) -> None:
        kept.append({name: value.clone() for name, value in mean.named_parameters()})

    found = trained(network, lessons, fit, small, groups, (3.0, 4.0, 2.0), keep)
    assert not found.training
    assert all(torch.equal(kept[0][name], before[name]) for name in before if not name.startswith("trunk."))
    after = dict(found.named_parameters())
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []
    moved = {name for name in before if not torch.equal(kept[-2][name], kept[-1][name])}
    assert moved == {name for name in before if not name.startswith("trunk.")}  # in the last part
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
    kinds = [node.op_type for node in onnx.load(written.file("model.onnx")).graph.node]
    assert kinds.count("Reshape") < len(BLOCKS)  # a view for each block's hook would keep the runtime from joining them
    session = onnxruntime.InferenceSession(written.file("model.onnx"))
    photos = torch.rand(2, 3, 49, 65)
    (scores,) = session.run(None, {"image": photos.numpy()})
    wanted = Deployed(network, groups)(normalised(photos))["out"]
    np.testing.assert_allclose(scores, wanted.detach().numpy(), atol=1e-3)
    assert Network(written, "cpu", 1).labels == COMMON_LABELS

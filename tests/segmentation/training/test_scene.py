"""The network of ``services.segmentation.training``, small: shapes, start, crops, some steps, the exported model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from services.common.taxonomy import COMMON_LABELS
from services.segmentation.convert.torch_export import MEAN, STD, export_onnx
from services.segmentation.training import __main__ as command
from services.segmentation.training.data import Example, batch_of, grouping, whole
from services.segmentation.training.scene import OUTPUT_STRIDE, Deployed, SceneNetwork
from services.segmentation.training.schedule import agreement, trained

CLASSES = ["others", "sky", "sea", "lake", "grass"]


def example(seed: int) -> Example:
    """Blue above, green below, and a teacher that says sky and grass; people say so too, but for one corner."""
    noise = torch.randint(0, 30, (3, 60, 90), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    photo = noise.clone()
    photo[2, :30] += 200
    photo[1, 30:] += 200
    classes = torch.zeros(len(CLASSES), 20, 30, dtype=torch.float16)
    classes[1, :10], classes[4, 10:] = 1, 1
    people = torch.full((20, 30), COMMON_LABELS.index("sky"))
    people[10:] = COMMON_LABELS.index("grass")
    people[:2, :2] = -1
    return Example(photo, classes, people)


def test_scores_lie_at_a_quarter_of_the_size() -> None:
    network = SceneNetwork(13, len(CLASSES)).eval()
    assert network(torch.rand(2, 3, 48, 64)).shape == (2, 13, 48 // OUTPUT_STRIDE, 64 // OUTPUT_STRIDE)
    assert [scores.shape[1] for scores in network.both(torch.rand(1, 3, 16, 16))] == [13, len(CLASSES)]


def test_trunk_starts_from_the_student() -> None:
    network, student = (
        SceneNetwork(3),
        {f"convs.{n}": torch.ones_like(v) for n, v in SceneNetwork(3).convs.state_dict().items()},
    )
    network.start_from({**student, "taps.conv1_1.weight": torch.zeros(1)})
    assert all(torch.equal(value, torch.ones_like(value)) for value in network.convs.parameters())
    del student["convs.conv4_1.bias"]
    with pytest.raises(ValueError, match=r"convs\.conv4_1\.bias"):
        network.start_from(student)


def test_classes_are_grouped() -> None:
    groups = grouping(CLASSES)
    assert groups.sum(dim=0).tolist() == [1] * len(CLASSES)
    assert groups[COMMON_LABELS.index("water")].tolist() == [0, 0, 1, 1, 0]


def test_crops_keep_photo_and_targets_together() -> None:
    batch = batch_of([example(n) for n in range(8)], 64, np.random.default_rng(0))
    assert batch.photos.shape == (8, 3, 64, 64)
    assert batch.classes.shape == (8, len(CLASSES), 16, 16)
    torch.testing.assert_close(batch.classes.sum(dim=1), torch.ones(8, 16, 16), atol=1e-2, rtol=0)
    told = batch.people >= 0
    by_teacher = batch.classes.argmax(dim=1)[told]
    sky, grass = COMMON_LABELS.index("sky"), COMMON_LABELS.index("grass")
    by_people = torch.where(batch.people[told] == sky, 1, torch.where(batch.people[told] == grass, 4, 0))
    assert (by_teacher == by_people).float().mean() > 0.9  # they part only at the border between the two


def test_training_moves_all_but_the_first_convolutions() -> None:
    torch.manual_seed(0)
    photos = [example(n) for n in range(6)]
    network = SceneNetwork(len(COMMON_LABELS), len(CLASSES))
    before = {name: value.clone() for name, value in network.named_parameters()}
    found = trained(network, photos, photos[:2], grouping(CLASSES), 4.0, 0)
    assert not found.training
    after = dict(found.named_parameters())
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert still == {f"convs.{c}.{p}" for c in ("conv1_1", "conv1_2", "conv2_1", "conv2_2") for p in ("weight", "bias")}
    assert all(torch.isfinite(value).all() for value in found.state_dict().values())


def test_agreement_is_the_share_of_equal_labels() -> None:
    class Says(SceneNetwork):
        """Grass everywhere: right on the lower half of each photo."""

        def forward(self, photos: torch.Tensor) -> torch.Tensor:
            scores = torch.zeros(len(photos), len(COMMON_LABELS), photos.shape[2] // 4, photos.shape[3] // 4)
            scores[:, COMMON_LABELS.index("grass")] = 1
            return scores

    photos = [example(n) for n in range(2)]
    assert agreement(Says(len(COMMON_LABELS)), photos, grouping(CLASSES)) == pytest.approx(0.5)


def test_written_model_is_the_network(tmp_path: Path) -> None:
    network = SceneNetwork(len(COMMON_LABELS), len(CLASSES)).eval()
    folder = tmp_path / "scene-student" / "1"
    command._write(network, folder)
    assert json.loads((folder / "manifest.json").read_text())["labels"] == list(COMMON_LABELS)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    photos = torch.rand(2, 3, 40, 56)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    (scores,) = session.run(None, {"image": photos.numpy()})
    np.testing.assert_allclose(scores, network((photos - mean) / std).detach().numpy(), atol=1e-4)


def test_whole_photo_has_sides_that_the_network_takes() -> None:
    photo, classes = whole(example(0))
    assert [edge % 8 for edge in photo.shape[2:]] == [0, 0]
    assert max(photo.shape[2:]) == 320
    assert classes.shape == (len(CLASSES), 20, 30)
    assert export_onnx(Deployed(SceneNetwork(3).eval()), 3).graph.output[0].name == "logits"

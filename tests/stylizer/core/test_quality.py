"""Quality numbers: closed forms, and the published pictures' recorded scores."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from services.stylizer.core.objective import FeatureLayers, StyleGoal
from services.stylizer.core.quality import clipped, edge_similarity, score
from services.stylizer.core.vgg import InputConvention, random_vgg19, vgg19

CAFFE = InputConvention(bgr=True, scale=255.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0))
NINE = [
    [int(code[k : k + 2], 16) for k in (0, 2, 4)]
    for code in ["0000ff", "00ff00", "000000", "ffffff", "ff0000", "ffff00", "808080", "00ffff", "ff00ff"]
]
# docs/quality.md: pair, style relative, affine, edges, clipped, of the published picture at 700 px with vgg19-caffe.
PUBLISHED = [("01", 0.0523, 136.3, 0.3908, 0.095), ("09", 0.1348, 214.5, 0.4009, 0.295)]


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_edges_of_the_same_picture_are_one() -> None:
    I = rand(3, 32, 40)
    assert edge_similarity(I, I) == pytest.approx(1.0)
    assert edge_similarity(I * 0.5 + 0.2, I) == pytest.approx(1.0)  # each is divided by its own mean
    assert edge_similarity(rand(3, 32, 40, seed=1), I) < 0.5


def test_clipped_counts_both_ends_after_rounding() -> None:
    O = torch.tensor([0.0, 0.001, 0.5, 0.999]).repeat(3, 1, 1)
    assert clipped(O).float().mean() == 0.75


def test_untouched_photo_scores_one() -> None:
    I, S = rand(3, 48, 48), rand(3, 48, 48, seed=1)
    M = torch.zeros(2, 48, 48)
    M[0, :24], M[1, 24:] = 1, 1
    trunk = random_vgg19()
    goal = StyleGoal(trunk, FeatureLayers.of(trunk), I, S, M, M)
    quality = score(I, I, goal, M, ["a", "b"])
    assert quality.style_relative == pytest.approx(1.0)
    assert [label.style_relative for label in quality.labels] == pytest.approx([1.0, 1.0])
    assert quality.content == 0
    assert quality.affine_per_pixel_e6 == pytest.approx(0, abs=1)  # the ridge ε |a|²
    assert score(S, I, goal, M, ["a", "b"]).style_relative == pytest.approx(0, abs=1e-9)


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize(("pair", "style", "affine", "edges", "ends"), PUBLISHED)
def test_published_pictures_have_their_recorded_scores(
    pair: str, style: float, affine: float, edges: float, ends: float, models_dir: Path, test_data_dir: Path
) -> None:
    def pixels(name: str) -> np.ndarray:
        with Image.open(test_data_dir / "pairs" / pair / name) as image:
            return np.array(image.convert("RGB"))

    def labels(name: str) -> torch.Tensor:
        distance = ((pixels(name)[:, :, None].astype(int) - np.array(NINE)) ** 2).sum(axis=-1)
        return torch.from_numpy(distance.argmin(axis=-1))

    I, S, O = (
        torch.from_numpy(pixels(f"{name}.png")).permute(2, 0, 1).float() / 255
        for name in ("content", "style", "published")
    )
    content, style_labels = labels("content_labels.png"), labels("style_labels.png")
    shared = [k for k in range(9) if (content == k).float().mean() >= 1e-3 and (style_labels == k).sum() >= 20]
    M_content = torch.stack([(content == k).float() for k in shared])
    M_style = torch.stack([(style_labels == k).float() for k in shared])
    trunk = vgg19(load_file(models_dir / "vgg19-caffe/1/features.safetensors"), CAFFE)
    goal = StyleGoal(trunk, FeatureLayers(), I, S, M_content, M_style)
    quality = score(O, I, goal, M_content, [str(k) for k in shared])
    assert quality.style_relative == pytest.approx(style, abs=6e-5)
    assert quality.affine_per_pixel_e6 == pytest.approx(affine, abs=0.06)
    assert quality.edges == pytest.approx(edges, abs=6e-5)
    assert quality.clipped_share == pytest.approx(ends, abs=6e-4)

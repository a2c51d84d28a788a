"""The objective: its gradient, its balance, what it sees of colours that no picture has."""

import dataclasses

import pytest
import torch
from torch import Tensor

from services.stylizer.core.matting import MattingLaplacian, matting_energy, smoothed
from services.stylizer.core.objective import FeatureLayers, PictureObjective, StyleGoal, Weights
from services.stylizer.core.palette import Palette
from services.stylizer.core.results import Losses
from services.stylizer.core.vgg import random_vgg19

HEIGHT, WIDTH = 24, 30


def photo(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")[0]
    return (0.1 + 0.7 * smooth + 0.1 * torch.rand(3, HEIGHT, WIDTH, generator=generator)).to(dtype)


class AnyColour(Palette):
    """A palette in which every colour is free; the real one is float32 and has kinks."""

    def __init__(self) -> None:
        pass

    def penalty(self, O: Tensor) -> Tensor:
        return O.new_zeros(())


def goal(dtype: torch.dtype = torch.float32) -> StyleGoal:
    trunk = random_vgg19().to(dtype)
    M = torch.zeros(2, HEIGHT, WIDTH, dtype=dtype)
    M[0, : HEIGHT // 2], M[1, HEIGHT // 2 :] = 1, 1
    return StyleGoal(trunk, FeatureLayers.of(trunk), photo(1, dtype), photo(2, dtype), M, M)


GOAL = goal()
I = photo(1)


def objective(reference: float = 1.0, **weights: float) -> PictureObjective:
    palette = Palette([photo(2).flatten(1)], torch.zeros(HEIGHT, WIDTH))
    return PictureObjective(GOAL, I, palette, Weights(**weights), reference)


def losses(T: Tensor, reference: float = 1.0, **weights: float) -> Losses:
    return objective(reference, **weights)(T)[1]


def test_terms_add_up() -> None:
    smoothness = torch.tensor(0.25)
    total, terms = objective()(photo(3) * 1.5 - 0.3, smoothness)
    parts = dataclasses.asdict(terms)
    assert float(total) == pytest.approx(parts.pop("total"))
    assert all(value > 0 for value in parts.values())
    assert sum(parts.values()) == pytest.approx(float(total), rel=1e-5)
    assert terms.smoothness == 0.25


def test_gradient_against_finite_differences() -> None:
    """Along random directions, in float64, at a picture inside the range."""
    value = PictureObjective(goal(torch.float64), photo(1, torch.float64), AnyColour(), Weights(), 0.5)
    T = photo(3, torch.float64).requires_grad_(True)
    total, _ = value(T)
    total.backward()  # type: ignore[no-untyped-call]
    assert T.grad is not None
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        direction, step = torch.randn(T.shape, generator=generator, dtype=torch.float64), 1e-6
        ahead, behind = (value(T.detach() + sign * step * direction)[0] for sign in (1, -1))
        assert float((T.grad * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-5)


def test_the_picture_is_the_clipped_proximal_step() -> None:
    T = photo(3) * 2 - 0.5
    O = objective().picture(T)
    laplacian = MattingLaplacian(I)
    assert torch.equal(O, smoothed(T, MattingLaplacian(I, 1e-5), 3.0, 8).clamp(0, 1))
    assert float(matting_energy(O, laplacian)) < 0.5 * float(matting_energy(T.clamp(0, 1), laplacian))


def test_rounding_noise_raised_to_speckle_is_smoothed_away() -> None:
    """Which the energy alone, at the published epsilon, takes for structure of the photo."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(I.shape, generator=generator) - 0.5
    clear = (0.5 + noise / 255).clamp(0, 1)
    speckle = 0.5 + 20 * noise / 255
    assert float(matting_energy(speckle, MattingLaplacian(clear))) < 0.15 * float(
        noise.square().sum() * (20 / 255) ** 2
    )
    O = PictureObjective(goal(), clear, AnyColour(), Weights(), 0.5).picture(speckle)
    assert float((O - O.mean()).std()) < 0.4 * float(speckle.std())


def test_the_content_photo_costs_style_alone() -> None:
    terms = losses(I)  # seen through the proximal step, whose larger epsilon moves it a little
    assert terms.content == pytest.approx(0, abs=1e-5)
    assert terms.edges == pytest.approx(0, abs=1e-5)
    assert 0 < terms.affine < 0.2 * losses(torch.rand(I.shape, generator=torch.Generator().manual_seed(9))).affine
    assert terms.style > 0.1


def test_style_counts_against_the_reference() -> None:
    at_one = losses(photo(3)).style
    assert losses(photo(3), reference=0.25).style == pytest.approx(2 * at_one, rel=1e-5)
    assert losses(photo(3), reference=0.0).style == losses(photo(3), reference=1e-3).style  # as good as reached
    assert losses(photo(2)).style < 0.5 * losses(I).style


@pytest.mark.parametrize("name", ["content", "style", "affine"])
def test_weights_scale_their_own_term_only(name: str) -> None:
    default = getattr(Weights(), name)
    T = photo(3)
    once, twice, never = (losses(T, **{name: factor * default}) for factor in (1, 2, 0))
    for term in ("content", "style", "affine", "gamut", "edges"):
        ratio = 2 if term == name else 1
        assert getattr(twice, term) == pytest.approx(ratio * getattr(once, term), rel=1e-6)
    assert getattr(once, name) > 0
    assert getattr(never, name) == 0


def test_outside_the_range_only_the_way_back_counts() -> None:
    """Far outside, a picture is what its clipped self is; the gamut penalty alone tells the solver where to go."""
    far, farther = torch.full_like(I, 3.0), torch.full_like(I, 4.0)
    one, other = losses(far), losses(farther)
    assert (one.style, one.content, one.affine, one.edges) == (other.style, other.content, other.affine, other.edges)
    assert other.gamut - one.gamut == pytest.approx(10 * (9 - 4), rel=1e-4)
    T = far.clone().requires_grad_(True)
    objective()(T)[0].backward()  # type: ignore[no-untyped-call]
    assert T.grad is not None
    assert float(T.grad.min()) > 0


def test_stray_colours_cost() -> None:
    green = torch.zeros_like(I)
    green[1] = 1
    assert losses(green).gamut > losses(photo(2)).gamut + 0.01


def test_equal_photos_give_finite_terms() -> None:
    trunk, M = random_vgg19(), torch.ones(1, HEIGHT, WIDTH)
    same = StyleGoal(trunk, FeatureLayers.of(trunk), I, I, M, M)
    value = PictureObjective(same, I, Palette([I.flatten(1)], torch.zeros(HEIGHT, WIDTH)), Weights(), 0.0)
    T = I.clone().requires_grad_(True)
    total, terms = value(T)
    total.backward()  # type: ignore[no-untyped-call]
    assert T.grad is not None
    assert bool(torch.isfinite(T.grad).all())
    assert all(-1e-6 <= term < 10 for term in dataclasses.asdict(terms).values()), terms

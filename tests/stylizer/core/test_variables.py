"""What a solve moves: where each kind of variable starts, what picture it stands for, what it hands on."""

import torch
from torch import Tensor

from services.stylizer.core.field import GRID_SHAPE, GridField, grid_smoothness
from services.stylizer.core.objective import PictureObjective
from services.stylizer.core.variables import GridProblem, PixelProblem, State, resized
from tests.stylizer.core.test_transfer import make

EDGE = 80
TRANSFER = make()
MATCHES = TRANSFER.match()
I, B = TRANSFER.I, TRANSFER.warm_field(MATCHES).base
OBJECTIVE: PictureObjective = TRANSFER.objective(EDGE, MATCHES, TRANSFER.goal(MATCHES), 1.0)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def gradient(problem: GridProblem | PixelProblem, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    problem(x)[0].backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return x.grad


def test_the_warm_start_is_a_grid_of_zeros_and_nothing_else() -> None:
    state = State.warm_start(torch.device("cpu"))
    assert state.grid.shape == GRID_SHAPE
    assert not state.grid.any()
    assert state.change is None


def test_a_grid_of_zeros_is_the_warm_picture_seen_through_the_proximal_step() -> None:
    problem = GridProblem(OBJECTIVE, I, B, State.warm_start(I.device))
    assert torch.equal(problem.picture(problem.start), OBJECTIVE.picture(B))
    assert torch.equal(OBJECTIVE.picture(B), OBJECTIVE.picture(B).clamp(0, 1))


def test_the_grid_pays_for_its_roughness_and_is_handed_on() -> None:
    problem, grid = GridProblem(OBJECTIVE, I, B, State.warm_start(I.device)), 0.1 * rand(*GRID_SHAPE)
    total, losses = problem(grid)
    assert losses.smoothness > 0
    assert losses.smoothness == float(0.05 * grid_smoothness(grid))
    assert float(total) == losses.total
    state = problem.state(grid)
    assert torch.equal(state.grid, grid)
    assert state.change is None


def test_pixels_start_where_the_grid_ended() -> None:
    grid = 0.1 * rand(*GRID_SHAPE)
    ended = GridProblem(OBJECTIVE, I, B, State(grid))
    problem = PixelProblem(OBJECTIVE, I, B, ended.state(grid))
    assert torch.equal(problem.start, GridField(I, B)(grid))
    assert torch.equal(problem.picture(problem.start), ended.picture(grid))
    by_grid, by_pixels = ended(grid)[1], problem(problem.start)[1]
    assert by_pixels.smoothness == 0
    assert abs(by_pixels.total - (by_grid.total - by_grid.smoothness)) < 1e-5


def test_pixels_hand_on_what_they_add_to_the_field() -> None:
    grid = 0.1 * rand(*GRID_SHAPE)
    problem = PixelProblem(OBJECTIVE, I, B, State(grid))
    state = problem.state(problem.start + 0.1)
    assert torch.equal(state.grid, grid)
    assert state.change is not None
    torch.testing.assert_close(state.change, torch.full_like(I, 0.1), rtol=0, atol=1e-6)
    again = PixelProblem(OBJECTIVE, I, B, state)
    torch.testing.assert_close(again.start, problem.start + 0.1, rtol=0, atol=1e-6)


def test_a_coarse_change_is_enlarged() -> None:
    state = State(torch.zeros(GRID_SHAPE), torch.full((3, 32, 40), 0.2))
    start = PixelProblem(OBJECTIVE, I, B, state).start
    torch.testing.assert_close(start, B + 0.2, rtol=0, atol=1e-6)


def test_both_variables_have_gradients() -> None:
    state = State.warm_start(I.device)
    for problem in (GridProblem(OBJECTIVE, I, B, state), PixelProblem(OBJECTIVE, I, B, state)):
        found = gradient(problem, problem.start)
        assert found.shape == problem.start.shape
        assert bool(torch.isfinite(found).all())
        assert float(found.abs().max()) > 0


def test_resized() -> None:
    change = rand(3, 6, 8)
    assert resized(change, (6, 8)) is change
    enlarged = resized(change, (12, 16))
    assert enlarged.shape == (3, 12, 16)
    torch.testing.assert_close(enlarged[:, 0, 0], change[:, 0, 0])  # half-pixel centres, clamped at the border
    weights = torch.tensor([0.75, 0.25])
    expected = torch.einsum("cyx,y,x->c", change[:, 2:4, 3:5], weights, weights)
    torch.testing.assert_close(enlarged[:, 5, 7], expected)

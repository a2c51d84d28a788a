"""Jobs on pixels and files without gRPC: a look renders its picture again, and a warm worker compiles nothing."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import pyvips
import torch
from numba.extending import is_jitted

from services.common.config import StylizerSettings
from services.common.errors import ResourceExhausted
from services.common.images import ImageLimits, OutputFormat
from services.common.label_maps import LabelMap
from services.stylizer.core import affine_strip, cross_bilateral, matting_kernels
from services.stylizer.core.errors import CheckpointError
from services.stylizer.core.look import Look
from services.stylizer.core.params import TransferParams
from services.stylizer.core.student import Student
from services.stylizer.features import FeatureNetwork
from services.stylizer.jobs import Checkpointed, Finished, Iterated, Picture, RenderJob, StylizeJob, WorkerEvent
from services.stylizer.pipeline import Pipeline, service_error
from services.stylizer.shapes import camera_shapes
from services.stylizer.warm_up import try_shapes, warm_network
from services.stylizer.worker import _prepare_thread

WIDTH, HEIGHT = 120, 90
LIMITS = ImageLimits.of(StylizerSettings())
PNG = OutputFormat("png")


@pytest.fixture(scope="module")
def network() -> Iterator[FeatureNetwork]:
    """A network as a worker warms it; what it sets for the whole process is put back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DPST_MODELS_DIR", raising=False)
        threads = torch.get_num_threads()
        settings = StylizerSettings(device="cpu", threads=threads)
        _prepare_thread(settings)
        yield warm_network(settings, 0)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def photo(width: int, height: int, seed: int, dtype: type[np.uint8] | type[np.uint16] = np.uint8) -> bytes:
    """A PNG of soft blotches and some grain."""
    generator = np.random.default_rng(seed)
    small = pyvips.Image.new_from_array(generator.random((6, 8, 3)).astype(np.float32))
    large = small.resize(width / 8, vscale=height / 6, kernel="linear").numpy()[:height, :width]
    grainy = (0.1 + 0.75 * large + 0.1 * generator.random(large.shape)) * np.iinfo(dtype).max
    image = pyvips.Image.new_from_array(grainy.astype(dtype))
    return bytes(image.copy(interpretation="srgb" if dtype is np.uint8 else "rgb16").pngsave_buffer())


def halves(width: int, height: int) -> LabelMap:
    indices = np.zeros((height, width), np.uint8)
    indices[height // 2 :] = 1
    return LabelMap(indices, {0: "sky", 1: "road"})


def run(network: FeatureNetwork, job: StylizeJob | RenderJob) -> list[WorkerEvent]:
    events: list[WorkerEvent] = []
    Pipeline(network, LIMITS, events.append, lambda: False).run(job)
    return events


def stylized(network: FeatureNetwork, job: StylizeJob) -> tuple[bytes, Finished]:
    events = run(network, job)
    (picture,) = (event for event in events if isinstance(event, Picture))
    assert isinstance(events[-1], Finished)
    return picture.data, events[-1]


def stylize_job(
    dtype: type[np.uint8] | type[np.uint16] = np.uint8, output: OutputFormat = PNG, **params: object
) -> StylizeJob:
    values = {"solve_edge_px": 96, "max_evaluations": 6, **params}
    return StylizeJob(
        "id",
        photo(WIDTH, HEIGHT, 1, dtype),
        photo(100, 100, 2),
        halves(WIDTH, HEIGHT),
        halves(100, 100),
        TransferParams(**values),  # type: ignore[arg-type]
        output,
    )


def rendered(network: FeatureNetwork, look: bytes, job: StylizeJob, strength: float = 1.0) -> bytes:
    params = job.params
    events = run(network, RenderJob("id", look, job.content, strength, params.preserve, job.output))
    (picture,) = (event for event in events if isinstance(event, Picture))
    return picture.data


def values(data: bytes) -> np.ndarray:
    return np.asarray(pyvips.Image.new_from_buffer(data, "").numpy())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "params",
    [{}, {"strength": 0.5, "preserve": "luminance"}, {"label_strengths": {"road": 0.3}}],
    ids=["plain", "half, luma kept", "label strengths"],
)
def test_the_look_renders_the_solved_picture_bit_for_bit(
    network: FeatureNetwork, dtype: type[np.uint8] | type[np.uint16], params: dict[str, object]
) -> None:
    job = stylize_job(dtype, **params)
    picture, finished = stylized(network, job)
    assert rendered(network, finished.look, job, job.params.strength) == picture
    assert not np.array_equal(values(picture), values(job.content))


def test_the_look_of_a_stretched_proxy_renders_the_solved_picture_bit_for_bit(network: FeatureNetwork) -> None:
    """96 x 58 instead of the photo's own 96 x 59, see ``shapes``."""
    job = replace(stylize_job(), content=photo(250, 153, 3), content_labels=None)
    picture, finished = stylized(network, job)
    assert Look.from_bytes(finished.look).indices.shape == (58, 96)
    assert values(picture).shape == (153, 250, 3)
    assert rendered(network, finished.look, job) == picture


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("of numpy")])
def test_without_memory_a_job_is_refused_with_advice(error: Exception) -> None:
    refused = service_error(error)
    assert isinstance(refused, ResourceExhausted)
    assert refused.retry_after_seconds > 0
    assert str(error) in str(refused)
    assert pickle.loads(pickle.dumps(refused)).retry_after_seconds == refused.retry_after_seconds


def test_the_look_of_paper_mode_renders_its_picture_nearly(network: FeatureNetwork) -> None:
    """As near as the local affine maps of a look come to a picture that no map made."""
    job = stylize_job(np.uint16, mode="paper", max_evaluations=12)
    picture, finished = stylized(network, job)
    again = values(rendered(network, finished.look, job)).astype(np.float64)
    error = np.abs(again - values(picture)).mean()
    change = np.abs(values(picture).astype(np.float64) - values(job.content)).mean()
    assert change > 0.05 * 65535
    assert error < 0.2 * change  # a tenth, measured: paper mode's picture moves the grain, a look's maps cannot


@pytest.mark.parametrize("mode", ["field", "paper"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("params", [{"strength": 0.0}, {"label_strengths": {"sky": 0.0, "road": 0.0}}])
def test_strength_zero_is_the_photo_bit_for_bit(
    network: FeatureNetwork, dtype: type[np.uint8] | type[np.uint16], params: dict[str, object], mode: str
) -> None:
    job = stylize_job(dtype, mode=mode, max_evaluations=2, **params)
    picture, finished = stylized(network, job)
    assert np.array_equal(values(picture), values(job.content))
    assert np.array_equal(values(rendered(network, finished.look, job, strength=0.0)), values(job.content))


@pytest.mark.parametrize("mode", ["field", "paper"])
def test_a_job_goes_on_from_its_checkpoint(network: FeatureNetwork, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr("services.stylizer.pipeline._CHECKPOINT_SECONDS", 0.0)
    job = stylize_job(mode=mode, max_evaluations=8)
    kept = [event for event in run(network, job) if isinstance(event, Checkpointed)]
    assert [event.evaluations for event in kept] == list(range(1, 9))
    resumed = replace(job, checkpoint=kept[4].data, params=replace(job.params, preview_every=1))
    events = run(network, resumed)
    assert [event.evaluation for event in events if isinstance(event, Iterated)] == [6, 7, 8]
    assert isinstance(events[-1], Finished)
    assert events[-1].evaluations == 8

    for other in (
        replace(job, style=photo(100, 100, 3)),
        replace(job, params=replace(job.params, content_weight=6.0)),
        replace(job, content_labels=halves(WIDTH, HEIGHT - 1)),
        replace(job, style_labels=None),
    ):
        with pytest.raises(CheckpointError, match="one of another request"):
            run(network, replace(other, checkpoint=kept[4].data))


def test_a_warm_worker_compiles_nothing(network: FeatureNetwork) -> None:
    before = compiled()
    assert before["services.stylizer.core.affine_strip._kernel"] == 4  # 8 or 16 bits in, 8 or 16 bits out
    for dtype, depth in itertools.product((np.uint8, np.uint16), (8, 16)):
        for mode in ("field", "paper"):
            job = stylize_job(dtype, OutputFormat("png", bit_depth=depth), mode=mode, max_evaluations=2)
            picture, finished = stylized(network, job)
            assert values(picture).dtype == (np.uint8 if depth == 8 else np.uint16)
            rendered(network, finished.look, job)
    assert compiled() == before


def compiled() -> dict[str, int]:
    """How many versions of each kernel have been compiled, or read from numba's cache."""
    modules: tuple[ModuleType, ...] = (affine_strip, cross_bilateral, matting_kernels)
    kernels = {f"{module.__name__}.{name}": value for module in modules for name, value in vars(module).items()}
    return {name: len(kernel.signatures) for name, kernel in kernels.items() if is_jitted(kernel)}


def test_every_size_of_a_camera_is_tried_once(network: FeatureNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[int, int]] = set()
    forward = Student.forward

    def noting(trunk: Student, O: torch.Tensor, layers: Sequence[str]) -> dict[str, torch.Tensor]:
        seen.add((O.shape[3], O.shape[2]))
        return forward(trunk, O, layers)

    monkeypatch.setattr(Student, "forward", noting)
    assert try_shapes(network, 96) == 11
    assert set(camera_shapes(96)) <= seen

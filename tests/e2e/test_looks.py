"""Solved looks through the whole stack: rendered again, exported as lookup tables, refused, cancelled, by command."""

from __future__ import annotations

import io
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pillow_lut
import pytest
import pyvips
from click.testing import CliRunner
from dpst.v1 import image_pb2, labels_pb2, look_pb2, params_pb2, photo_style_pb2, report_pb2
from dpst.v1.photo_style_pb2_grpc import PhotoStyleStub
from google.rpc import error_details_pb2, status_pb2
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from gateway.cli import main
from gateway.stack import Stack, local_stack
from services.common.client import channel_options
from services.stylizer.core.results import LOOK_VERSION

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 96, 72
BLUE, GREEN = (0, 0, 255), (0, 255, 0)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def scene(width: int, height: int, seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(20, 235, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def halves(width: int, height: int) -> labels_pb2.LabelMap:
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(GREEN, (0, height // 2, width, height))
    return labels_pb2.LabelMap(png=encoded(image))


CONTENT = encoded(scene(WIDTH, HEIGHT, 0))
PHOTO = image_pb2.Image(data=CONTENT)


@dataclass(frozen=True)
class Solved:
    """A running stack, and a look of two labels that it solved for ``PHOTO`` at the photo's own size."""

    stack: Stack
    stub: PhotoStyleStub
    look: look_pb2.Look
    picture: bytes

    def scraped(self, service: str, sample: str) -> float:
        with urllib.request.urlopen(f"http://{self.stack.addresses[service].http}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        return float(next((line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"{sample} ")), 0.0))


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Solved]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DPST_MODELS_DIR", raising=False)
        with (
            local_stack(tmp_path_factory.mktemp("logs"), every={"device": "cpu"}) as stack,
            grpc.insecure_channel(stack.addresses["gateway"].grpc, options=channel_options(64 << 20)) as channel,
        ):
            stub = PhotoStyleStub(channel)
            transfer = photo_style_pb2.Transfer(
                content=PHOTO,
                style=image_pb2.Image(data=encoded(scene(80, 80, 1))),
                content_labels=halves(WIDTH, HEIGHT),
                style_labels=halves(80, 80),
                params=params_pb2.TransferParams(solve_edge_px=WIDTH, max_evaluations=6),
            )
            reply = stub.Transfer(photo_style_pb2.TransferRequest(transfer=transfer), timeout=120)
            yield Solved(stack, stub, reply.look, reply.picture)


def rendered(solved: Solved, **fields: object) -> bytes:
    request = photo_style_pb2.RenderLookRequest(**{"look": solved.look, "content": PHOTO, **fields})  # type: ignore[arg-type]
    return b"".join(event.chunk.data for event in solved.stub.RenderLook(request, timeout=60))


def exported(solved: Solved, **fields: object) -> photo_style_pb2.ExportLookResponse:
    request = photo_style_pb2.ExportLookRequest(**{"look": solved.look, "content": PHOTO, **fields})  # type: ignore[arg-type]
    return solved.stub.ExportLook(request, timeout=60)


def values(data: bytes) -> np.ndarray:
    """(H, W, 3) 0..1 of an 8-bit or 16-bit file."""
    pixels = pyvips.Image.new_from_buffer(data, "").numpy()
    return np.asarray(pixels / np.iinfo(pixels.dtype).max, np.float64)


def test_the_look_gives_the_transfers_picture_again_and_other_strengths_between(solved: Solved) -> None:
    assert rendered(solved) == solved.picture
    untouched = values(rendered(solved, strength=0.0))
    np.testing.assert_array_equal(untouched, values(CONTENT))
    sixteen = image_pb2.OutputOptions(bit_depth=16)
    whole, half = values(rendered(solved, output=sixteen)), values(rendered(solved, output=sixteen, strength=0.5))
    inside = (whole > 0.01) & (whole < 0.99)
    assert np.abs(whole - untouched).mean() > 0.02
    np.testing.assert_allclose(half[inside], ((whole + untouched) / 2)[inside], atol=2e-4)


def test_the_look_fits_another_size_and_another_frame(solved: Solved) -> None:
    large = encoded(scene(WIDTH, HEIGHT, 0).resize((4 * WIDTH, 4 * HEIGHT), Image.Resampling.BICUBIC))
    picture = values(rendered(solved, content=image_pb2.Image(data=large)))
    assert picture.shape == (4 * HEIGHT, 4 * WIDTH, 3)
    small = values(encoded(Image.fromarray((picture * 255).round().astype(np.uint8)).resize((WIDTH, HEIGHT))))
    assert np.abs(small - values(solved.picture)).mean() < 0.03
    frame = encoded(Image.fromarray(np.roll(np.asarray(scene(WIDTH, HEIGHT, 0)), 2, axis=1)))
    assert values(rendered(solved, content=image_pb2.Image(data=frame))).shape == (HEIGHT, WIDTH, 3)


def test_a_rendering_ends_with_its_stages_and_facts(solved: Solved) -> None:
    request = photo_style_pb2.RenderLookRequest(look=solved.look, content=PHOTO)
    call = solved.stub.RenderLook(request, timeout=60, metadata=(("x-request-id", "burst-3"),))
    done = list(call)[-1].done
    assert (done.result.width_px, done.result.height_px) == (WIDTH, HEIGHT)
    stages = {report_pb2.Stage.Name(stage.stage).removeprefix("STAGE_") for stage in done.stages}
    assert stages == {"DECODE", "RENDER", "ENCODE", "END_TO_END"}
    assert dict(call.initial_metadata())["x-request-id"] == "burst-3"


@pytest.mark.parametrize("points", [17, 33, 65])
def test_a_table_read_by_another_program_is_off_by_what_was_said(solved: Solved, points: int) -> None:
    (lut,) = exported(solved, points=points).luts
    table = pillow_lut.load_cube_file(io.StringIO(lut.cube.decode("ascii")))
    assert tuple(table.size) == (points, points, points)
    with Image.open(io.BytesIO(CONTENT)) as photo:
        looked_up = np.asarray(photo.filter(table)) / 255
    look = values(rendered(solved, output=image_pb2.OutputOptions(bit_depth=16)))
    found = deltaE_ciede2000(rgb2lab(looked_up), rgb2lab(look))
    assert lut.fit_error.mean == pytest.approx(found.mean(), abs=0.3)  # 8-bit rounding and another white point
    assert lut.fit_error.p95 == pytest.approx(np.percentile(found, 95), rel=0.1, abs=0.3)
    assert found.mean() < 0.7 * deltaE_ciede2000(rgb2lab(values(CONTENT)), rgb2lab(look)).mean()


def test_tables_of_single_labels(solved: Solved) -> None:
    each = exported(solved, points=17, per_label=True)
    assert [lut.label for lut in each.luts] == ["blue", "green"]
    assert [lut.area_share for lut in each.luts] == [0.5, 0.5]
    assert not each.labels_without_pixels
    (green,) = exported(solved, points=17, label="green").luts
    assert green == each.luts[1]
    assert each.luts[0].cube != green.cube


def violation(error: grpc.Call) -> error_details_pb2.BadRequest.FieldViolation:
    details = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    bad_request = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad_request)
    return bad_request.field_violations[0]


def of_another_version(data: bytes) -> bytes:
    said, other = (f'"version": {version}'.encode() for version in (LOOK_VERSION, LOOK_VERSION + 1))
    assert data.count(said) == 1
    assert len(said) == len(other)
    return data.replace(said, other)


INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
WIDE = image_pb2.Image(data=encoded(scene(200, 40, 0)))
REFUSALS: dict[str, tuple[Callable[[Solved], dict[str, object]], grpc.StatusCode, str, str]] = {
    "said version": (
        lambda s: {"look": look_pb2.Look(version=99, data=s.look.data)},
        PRECONDITION,
        "look.version",
        "got 99",
    ),
    "version inside": (
        lambda s: {"look": look_pb2.Look(data=of_another_version(s.look.data))},
        PRECONDITION,
        "look.version",
        f"got {LOOK_VERSION + 1}",
    ),
    "garbage": (lambda s: {"look": look_pb2.Look(data=b"garbage" * 99)}, INVALID, "look.data", "not a look"),
    "truncated": (lambda s: {"look": look_pb2.Look(data=s.look.data[:-100])}, INVALID, "look.data", "not a look"),
    "too large": (lambda s: {"look": look_pb2.Look(data=bytes(2 << 20))}, INVALID, "look.data", "2097152 bytes"),
    "no look": (lambda s: {"look": look_pb2.Look(version=LOOK_VERSION)}, INVALID, "look.data", "nothing"),
    "wide photo": (lambda s: {"content": WIDE}, INVALID, "content", "aspect ratio"),
    "no photo": (lambda s: {"content": image_pb2.Image(data=b"x")}, INVALID, "content", "no known image"),
}


@pytest.mark.parametrize("rpc", [rendered, exported])
@pytest.mark.parametrize("kind", REFUSALS)
def test_what_does_not_fit_is_named(solved: Solved, rpc: Callable[..., object], kind: str) -> None:
    fields, code, field, text = REFUSALS[kind]
    with pytest.raises(grpc.RpcError) as caught:
        rpc(solved, **fields(solved))
    assert caught.value.code() is code
    assert f"{field}: got " in caught.value.details()
    assert violation(caught.value).field == field
    assert text in violation(caught.value).description


@pytest.mark.parametrize(
    ("rpc", "fields", "field", "text"),
    [
        (rendered, {"strength": 1.5}, "strength", "between 0 and 1"),
        (rendered, {"preserve": 9}, "preserve", "must be one of"),
        (rendered, {"output": image_pb2.OutputOptions(bit_depth=12)}, "output.bit_depth", "8 or 16"),
        (exported, {"points": 20}, "points", "17, 33, 65"),
        (exported, {"label": "lake"}, "label", "got 'lake', the look has: blue, green"),
        (exported, {"label": "blue", "per_label": True}, "label", "must be empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_out_of_range_are_named(
    solved: Solved, rpc: Callable[..., object], fields: dict[str, object], field: str, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        rpc(solved, **fields)
    assert caught.value.code() is INVALID
    assert violation(caught.value).field == field
    assert text in violation(caught.value).description


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_callers_that_leave_leave_the_queue(solved: Solved) -> None:
    """Behind a long solve a rendering and an export wait; both go, and then so does the solve."""
    busy = photo_style_pb2.Transfer(
        content=PHOTO,
        style=PHOTO,
        content_labels=halves(WIDTH, HEIGHT),
        style_labels=halves(WIDTH, HEIGHT),
        params=params_pb2.TransferParams(solve_edge_px=512, max_evaluations=4000),
    )
    busy.content.data = encoded(scene(900, 675, 3))
    before = solved.scraped("gateway", 'dpst_jobs_total{outcome="cancelled"}')
    solve = solved.stub.TransferStream(photo_style_pb2.TransferStreamRequest(transfer=busy))
    assert any(event.HasField("iteration") for event in solve)  # stops reading at the first
    rendering = solved.stub.RenderLook(photo_style_pb2.RenderLookRequest(look=solved.look, content=PHOTO))
    assert next(rendering).queued.position == 1
    export = solved.stub.ExportLook.future(photo_style_pb2.ExportLookRequest(look=solved.look, content=PHOTO))
    eventually(lambda: solved.scraped("stylizer", "dpst_queue_depth") == 2)
    rendering.cancel()
    export.cancel()
    eventually(lambda: solved.scraped("stylizer", "dpst_queue_depth") == 0)
    solve.cancel()
    eventually(lambda: solved.scraped("gateway", 'dpst_jobs_total{outcome="cancelled"}') == before + 3)
    assert rendered(solved) == solved.picture


def test_the_commands_hand_a_look_from_one_to_the_other(solved: Solved, tmp_path: Path) -> None:
    content, style, look = tmp_path / "content.png", tmp_path / "style.png", tmp_path / "evening.look"
    content.write_bytes(CONTENT)
    style.write_bytes(encoded(scene(80, 80, 1)))
    server = ["--server", solved.stack.addresses["gateway"].grpc]

    def dpst(*arguments: object) -> str:
        result = CliRunner().invoke(main, [*map(str, arguments), *server])
        assert result.exit_code == 0, result.output
        return result.stdout

    first, again, cube = tmp_path / "first.png", tmp_path / "again.png", tmp_path / "evening.cube"
    flags = ["--quality", "draft", "--solve-edge", 64, "--max-evaluations", 2, "--segmentation-model", "single-region"]
    dpst("stylize", content, style, "-o", first, "--look", look, *flags)
    dpst("render", look, content, "-o", again)
    assert again.read_bytes() == first.read_bytes()
    assert "17 points, whole picture, 100.0% of the photo, ΔE2000 mean " in dpst(
        "export-look", look, content, "-o", cube, "--size", 17
    )
    assert tuple(pillow_lut.load_cube_file(io.StringIO(cube.read_text())).size) == (17, 17, 17)
    dpst("export-look", look, content, "-o", tmp_path / "luts", "--per-label", "--size", 17)
    assert [path.name for path in (tmp_path / "luts").iterdir()] == ["all.cube"]

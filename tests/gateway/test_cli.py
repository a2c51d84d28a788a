"""The dpst command against a gateway with scripted services behind it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dpst.v1 import image_pb2, labels_pb2, look_pb2, params_pb2

from gateway.cli import main
from gateway.cli.parameters import FIELDS
from services.common import errors
from tests.gateway.fakes import World, eventually, exported, forever, labels, photo, rendered, segmented, solved


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Write two photos and return their paths."""
    paths = [tmp_path / "content.png", tmp_path / "style.png"]
    paths[0].write_bytes(photo())
    paths[1].write_bytes(photo(colour=(20, 40, 160)))
    return [str(path) for path in paths]


async def dpst(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


async def test_stylize_writes_picture_report_and_look(world: World, pair: list[str], tmp_path: Path) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved(b"0123456789")]
    world.stylizer.replies[0][-1].done.look.MergeFrom(look_pb2.Look(version=1, data=b"a solved look"))
    out, report, look = tmp_path / "out.png", tmp_path / "report.json", tmp_path / "look.bin"
    result = await dpst(
        "stylize", *pair, "-o", str(out), "--server", world.address, "--report", str(report), "--look", str(look)
    )
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == b"0123456789"
    assert look.read_bytes() == b"a solved look", "the file is Look.data itself"
    written = json.loads(report.read_text())
    assert written["evaluations"] == 2
    assert written["peak_memory_bytes"] == 1 << 30
    assert written["stages"][0]["stage"] == "STAGE_SEGMENT"
    assert "note: built-in features" in result.stderr
    assert "evaluation 2/2  loss 12.5" in result.stderr
    assert result.stdout.startswith(f"{out}: 48×32, 8 bit, 2 evaluations")
    (request,) = world.stylizer.requests
    assert request.params == params_pb2.TransferParams(), "flags that are not given stay unset"
    assert request.output == image_pb2.OutputOptions(format=image_pb2.IMAGE_FORMAT_PNG)
    assert not list(tmp_path.glob(".*")), "no partial file stays behind"  # noqa: ASYNC240


async def test_every_parameter_has_a_flag_that_arrives(world: World, pair: list[str], tmp_path: Path) -> None:
    assert set(FIELDS) == {field.name for field in params_pb2.TransferParams.DESCRIPTOR.fields}
    world.stylizer.replies = [solved()]
    masks = tmp_path / "labels.png"
    masks.write_bytes(labels().png)
    flags = (
        "--mode field --strength 0.5 --label-strength sky=0.25 --preserve luminance --content-weight 1 "
        "--style-weight 2 --affine-weight 3 --solve-edge 128 --max-evaluations 4 --time-budget 5 "
        "--label-policy reject --seed 6 --features net/1 --preview-every 0 --quality high "
        "--encoder-quality 80 --bit-depth 8"
    )
    command = ["stylize", *pair, "-o", str(tmp_path / "out.webp"), "--server", world.address, *flags.split()]
    result = await dpst(*command, "--content-labels", str(masks), "--style-labels", str(masks))
    assert result.exit_code == 0, result.output
    (request,) = world.stylizer.requests
    assert request.params == params_pb2.TransferParams(
        mode=params_pb2.MODE_FIELD,
        strength=0.5,
        label_strengths={"sky": 0.25},
        preserve=params_pb2.PRESERVE_LUMINANCE,
        content_weight=1,
        style_weight=2,
        affine_weight=3,
        solve_edge_px=128,
        max_evaluations=4,
        time_budget_seconds=5,
        label_policy="LABEL_POLICY_REJECT",
        seed=6,
        features="net/1",
        preview_every=0,
        quality=params_pb2.QUALITY_PRESET_HIGH,
    )
    assert request.output == image_pb2.OutputOptions(format=image_pb2.IMAGE_FORMAT_WEBP, quality=80, bit_depth=8)
    assert request.content_labels.png == request.style_labels.png == labels().png


async def test_segmentation_flags_arrive(world: World, pair: list[str], tmp_path: Path) -> None:
    world.segmentation.replies = [segmented()] * 2
    world.stylizer.replies = [solved()]
    flags = ("--refinement", "crf", "--scales", "0.5,1,1.5", "--flip")
    result = await dpst("stylize", *pair, "-o", str(tmp_path / "out.png"), "--server", world.address, *flags)
    assert result.exit_code == 0, result.output
    expected = labels_pb2.SegmentationOptions(refinement=labels_pb2.REFINEMENT_CRF, scales=[0.5, 1, 1.5], flip=True)
    assert [request.options for request in world.segmentation.requests] == [expected] * 2


async def test_a_refusal_is_one_line_and_leaves_no_file(world: World, pair: list[str], tmp_path: Path) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [errors.InvalidArgument("params.strength", 7, "allowed: 0..1")]
    out = tmp_path / "out.jpg"
    result = await dpst("stylize", *pair, "-o", str(out), "--server", world.address, "--strength", "7")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: INVALID_ARGUMENT: params.strength: got 7, allowed: 0..1"
    assert not out.exists()


async def test_a_server_that_is_away_is_one_line(pair: list[str], tmp_path: Path) -> None:
    result = await dpst("stylize", *pair, "-o", str(tmp_path / "out.jpg"), "--server", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["stylize", "{c}", "absent.jpg", "-o", "{d}/out.jpg"], "'absent.jpg' does not exist"),
        (["stylize", "{c}", "{c}", "-o", "{d}/out.gif"], "cannot tell a format from 'out.gif'"),
        (["stylize", "{c}", "{c}", "-o", "{d}/nowhere/out.jpg"], "cannot write {d}/nowhere/out.jpg: No such file"),
        (["stylize", "{c}", "{c}", "-o", "{d}"], "is a directory"),
        (["stylize", "{c}", "{c}", "-o", "{d}/out.jpg", "--label-strength", "sky"], "not of the form NAME=NUMBER"),
        (["stylize", "{c}", "{c}"], "Missing option '-o'"),
        (["segment", "{c}", "-o", "{d}/nowhere/out.png"], "cannot write {d}/nowhere/out.png: No such file"),
        (["segment", "{c}", "-o", "{d}/out.png", "--scales", "1,big"], "'1,big' is not of the form NUMBER,NUMBER"),
        (["up", "--port", "70000"], "not in the range"),
        (["render", "absent.look", "{c}", "-o", "{d}/out.jpg"], "'absent.look' does not exist"),
        (["render", "{c}", "{c}", "-o", "{d}/out.gif"], "cannot tell a format from 'out.gif'"),
        (["export-look", "{c}", "{c}", "-o", "{d}/a.cube", "--size", "20"], "'20' is not one of '17', '33', '65'"),
        (["export-look", "{c}", "{c}", "-o", "{d}", "--label", "sky", "--per-label"], "exclude each other"),
        (["export-look", "{c}", "{c}", "-o", "{c}", "--per-label"], "with --per-label it must be a folder"),
        (["export-look", "{c}", "{c}", "-o", "{d}/nowhere/a.cube"], "cannot write {d}/nowhere/a.cube: No such file"),
    ],
)
def test_usage_errors_come_before_any_service_starts(
    pair: list[str], tmp_path: Path, arguments: list[str], text: str
) -> None:
    result = CliRunner().invoke(main, [each.format(c=pair[0], d=tmp_path) for each in arguments])
    assert result.exit_code == 2
    assert text.format(d=tmp_path) in " ".join(result.stderr.split())


@pytest.fixture
def look(pair: list[str], tmp_path: Path) -> list[str]:
    """Write a look and return its path and that of its photo."""
    path = tmp_path / "evening.look"
    path.write_bytes(b"a solved look")
    return [str(path), pair[0]]


async def test_render_writes_the_picture(world: World, look: list[str], tmp_path: Path) -> None:
    world.stylizer.replies = [rendered(b"0123456789"), rendered()]
    out = tmp_path / "out.png"
    result = await dpst("render", *look, "-o", str(out), "--server", world.address)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == b"0123456789"
    assert result.stdout.startswith(f"{out}: 48×32, 8 bit, ")
    assert "waiting behind 2, about 9 s" in result.stderr
    flags = "--strength 0.5 --preserve luminance --encoder-quality 80 --bit-depth 8"
    await dpst("render", *look, "-o", str(tmp_path / "out.webp"), "--server", world.address, *flags.split())
    bare, full = world.stylizer.requests
    assert bare.look == look_pb2.Look(data=b"a solved look"), "the version stands in the data"
    assert (bare.content.data, bare.HasField("strength"), bare.preserve) == (photo(), False, 0)
    assert bare.output == image_pb2.OutputOptions(format=image_pb2.IMAGE_FORMAT_PNG)
    assert (full.strength, full.preserve) == (0.5, params_pb2.PRESERVE_LUMINANCE)
    assert full.output == image_pb2.OutputOptions(format=image_pb2.IMAGE_FORMAT_WEBP, quality=80, bit_depth=8)


async def test_export_look_writes_one_file(world: World, look: list[str], tmp_path: Path) -> None:
    world.stylizer.replies = [exported("sky"), exported(""), exported("")]
    out = tmp_path / "evening.cube"
    server = ["--server", world.address]
    result = await dpst("export-look", *look, "-o", str(out), "--label", "sky", "--size", "65", *server)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == b"sky"
    assert result.stdout == (f"{out}: 33 points, sky, 100.0% of the photo, ΔE2000 mean 1.25, 95 % 3.50, max 9.00\n")
    result = await dpst("export-look", *look, "-o", str(out), *server)
    assert "whole picture" in result.stdout
    await dpst("export-look", *look, "-o", str(tmp_path), *server)
    assert (tmp_path / "whole-picture.cube").exists(), "in a folder it gets a name"
    one, whole, _ = world.stylizer.requests
    assert (one.label, one.points, one.per_label) == ("sky", 65, False)
    assert (whole.label, whole.HasField("points"), whole.look.data) == ("", False, b"a solved look")


async def test_export_look_writes_one_file_a_label_under_safe_names(
    world: World, look: list[str], tmp_path: Path
) -> None:
    world.stylizer.replies = [exported("sky", "../../etc", "Sky", "flower/plant")]
    folder = tmp_path / "luts"
    result = await dpst("export-look", *look, "-o", str(folder), "--per-label", "--server", world.address)
    assert result.exit_code == 0, result.output
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert written == {
        "sky.cube": b"sky",
        "______etc.cube": b"../../etc",
        "Sky.2.cube": b"Sky",
        "flower_plant.cube": b"flower/plant",
    }
    assert "note: no pixel of the photo is labelled lake" in result.stderr
    assert len(result.stdout.splitlines()) == 4
    assert world.stylizer.requests[0].per_label


@pytest.mark.parametrize("command", ["render", "export-look"])
async def test_a_refused_look_is_one_line_and_leaves_no_file(
    world: World, look: list[str], tmp_path: Path, command: str
) -> None:
    world.stylizer.replies = [errors.FailedPrecondition("look.version", 9, "must be 1")]
    out = tmp_path / "out.png"
    result = await dpst(command, *look, "-o", str(out), "--server", world.address)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: FAILED_PRECONDITION: look.version: got 9, must be 1"
    assert not out.exists()


@pytest.mark.parametrize("as_json", [True, False])
async def test_segment_writes_map_and_legend(world: World, pair: list[str], tmp_path: Path, as_json: bool) -> None:
    world.segmentation.replies = [segmented()]
    out = tmp_path / "labels.png"
    server = ["--server", world.segmentation_address]
    result = await dpst("segment", pair[0], "-o", str(out), *server, *(["--json"] if as_json else []))
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == labels().png
    if as_json:
        legend = json.loads(result.stdout)
        assert legend["labels"] == [{"index": 3, "name": "sky", "area_share": 1.0}]
        assert legend["model"]["name"] == "fake-net"
    else:
        assert result.stdout.splitlines()[0].split() == ["3", "100.0%", "sky"]


@pytest.mark.parametrize("as_json", [True, False])
async def test_segment_says_what_became_of_labels(world: World, pair: list[str], tmp_path: Path, as_json: bool) -> None:
    reply = segmented()
    reply.verdicts.add(label="sky", verdict=labels_pb2.VERDICT_KEPT, area_share=0.9, confidence=0.75)
    reply.verdicts.add(
        label="plant",
        verdict=labels_pb2.VERDICT_MERGED,
        area_share=0.1,
        confidence=0.5,
        merged_into="grass",
        reason="it is 0.50 sure, 0.7 is asked for",
    )
    world.segmentation.replies = [reply]
    flags = ["--refinement", "none", "--scales", "0.5", *(["--json"] if as_json else [])]
    arguments = ["segment", pair[0], "-o", str(tmp_path / "map.png"), "--server", world.segmentation_address]
    result = await dpst(*arguments, *flags)
    assert result.exit_code == 0, result.output
    (request,) = world.segmentation.requests
    assert request.options == labels_pb2.SegmentationOptions(refinement=labels_pb2.REFINEMENT_NONE, scales=[0.5])
    if as_json:
        kept, merged = json.loads(result.stdout)["verdicts"]
        assert (kept["verdict"], kept["confidence"], kept["merged_into"]) == ("kept", 0.75, "")
        assert (merged["verdict"], merged["merged_into"]) == ("merged", "grass")
    else:
        lines = [line.strip() for line in result.stdout.splitlines()]
        assert lines[1] == "10.0%  plant: merged into grass, it is 0.50 sure, 0.7 is asked for"
        assert not any("kept" in line for line in lines)


async def test_interrupt_cancels_the_transfer(world: World, pair: list[str], tmp_path: Path) -> None:
    world.segmentation.replies = [forever, forever]
    out = str(tmp_path / "out.jpg")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from gateway.cli import main; main()"),
        *("stylize", *pair, "-o", out, "--server", world.address),
        stderr=asyncio.subprocess.PIPE,
    )
    await eventually(lambda: len(world.segmentation.requests) == 2)
    process.send_signal(signal.SIGINT)
    _, text = await process.communicate()
    assert process.returncode == 130
    assert text.decode().splitlines()[-1] == "stopped"
    await eventually(lambda: world.segmentation.cancelled == 2)


def test_version_is_the_packages() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output.startswith("dpst 0.")


def test_the_command_imports_no_numeric_library() -> None:
    heavy = "{'torch', 'onnxruntime', 'scipy', 'pyvips'} & set(sys.modules)"
    program = f"import sys, gateway.cli; print(*({heavy}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_wrong_setting_is_named_before_any_service_starts(
    pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPST_DEVICE", "toaster")
    result = CliRunner().invoke(main, ["segment", pair[0], "-o", str(tmp_path / "map.png")])
    assert result.exit_code == 2
    assert result.stderr == "error: DPST_DEVICE: Input should be 'auto', 'cpu' or 'cuda'\n"


def test_a_service_that_cannot_start_says_why(pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPST_MODELS_DIR", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(main, ["segment", pair[0], "-o", str(tmp_path / "map.png")])
    assert result.exit_code == 1
    first, *_, last = result.stderr.splitlines()
    assert first == "--- segmentation ---"
    assert last.startswith("error: the segmentation process ended with exit status 1: ")
    assert "nowhere: no such folder" in last

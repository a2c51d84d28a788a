"""``dpst batch`` against a gateway with scripted services behind it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dpst.v1 import image_pb2

from gateway.cli import main
from gateway.cli.batch.journal import Entry, Journal
from services.common import errors
from tests.gateway.fakes import World, photo, segmented, solved


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Three photos and, last, the style."""
    names = ("a.png", "b.png", "c.png", "style.png")
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(photo(colour=(40 * number, 90, 30)))
    return [str(tmp_path / name) for name in names]


async def dpst(world: World, photos: list[str], out: Path, *more: str) -> Result:
    arguments = ("batch", "--style", photos[-1], *photos[:-1], "-o", str(out), "--server", world.address, *more)
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


def ready(world: World, *pictures: object) -> None:
    world.segmentation.replies += [segmented()] * (2 * len(pictures))
    world.stylizer.replies += [solved(each) if isinstance(each, bytes) else each for each in pictures]


async def test_a_batch_is_done_reported_and_skipped_the_second_time(
    world: World, photos: list[str], tmp_path: Path
) -> None:
    ready(world, *[photo(colour=(200, 200, 9))] * 3)
    out = tmp_path / "out"
    result = await dpst(world, photos, out, "--strength", "0.5")
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        *("a.png", "b.png", "c.png", "report.csv", "report.html", ".dpst-batch")
    }
    assert (out / "b.png").read_bytes() == photo(colour=(200, 200, 9))
    assert {request.params.strength for request in world.stylizer.requests} == {0.5}
    assert all(request.output.format == image_pb2.IMAGE_FORMAT_PNG for request in world.stylizer.requests)
    rows = list(csv.DictReader(io.StringIO((out / "report.csv").read_text())))
    assert [(row["output"], row["state"], row["evaluations"]) for row in rows] == [
        *(("a.png", "done", "2"), ("b.png", "done", "2"), ("c.png", "done", "2"))
    ]
    page = (out / "report.html").read_text()
    assert "3 of 3 photos" in page
    for name in ("a.png", "b.png", "c.png"):
        for when in ("before", "after"):
            assert f'src=".dpst-batch/thumbnails/{name}.{when}.jpg"' in page
            assert (out / ".dpst-batch" / "thumbnails" / f"{name}.{when}.jpg").exists()
    again = await dpst(world, photos, out, "--strength", "0.5")
    assert again.exit_code == 0
    assert "3 of 3 photos done, 3 of them before" in again.output
    (out / "a.png").unlink()
    back = await dpst(world, photos, out, "--strength", "0.5")
    assert "3 of 3 photos done, 2 of them before" in back.output
    assert len(world.stylizer.requests) == 3, "the server has kept it"
    ready(world, *[photo()] * 3)
    other = await dpst(world, photos, out, "--strength", "0.7")
    assert "3 of 3 photos done, 0 of them before" in other.output


async def test_a_failed_photo_fails_alone_and_is_tried_again(world: World, photos: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "b.png").write_bytes(b"no photo")
    ready(world, photo(), photo())
    result = await dpst(world, photos, out, "--at-once", "1")
    assert result.exit_code == 1
    assert "2 of 3 photos done" in result.output
    assert "content: got 8 bytes that are no known image" in result.stderr
    assert 'class="failed"' in (out / "report.html").read_text()
    (tmp_path / "b.png").write_bytes(photo())
    ready(world, errors.InvalidArgument("params.strength", 7, "allowed: 0..1"))
    assert (await dpst(world, photos, out)).exit_code == 1
    ready(world, photo())
    assert (await dpst(world, photos, out)).exit_code == 0
    rows = list(csv.DictReader(io.StringIO((out / "report.csv").read_text())))
    assert {row["state"] for row in rows} == {"done"}


async def test_a_style_that_the_server_has_lost_is_uploaded_again(
    world: World, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpst_client import AsyncClient, Uploaded

    real, calls = AsyncClient.upload, []

    async def upload(self: AsyncClient, data: bytes) -> Uploaded:
        calls.append(data)
        return await real(self, data) if len(calls) > 1 else Uploaded("0" * 64, 1)

    monkeypatch.setattr(AsyncClient, "upload", upload)
    ready(world, *[photo()] * 3)
    assert (await dpst(world, photos, tmp_path / "out", "--at-once", "1")).exit_code == 0
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.png", "other/a.png"], "would both become"),
        (["none.png"], "does not exist"),
        ([], "Missing argument"),
    ],
)
def test_wrong_photos_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for name in ("a.png", "other/a.png", "style.png"):
        (tmp_path / name).write_bytes(photo())
    result = CliRunner().invoke(main, ["batch", "--style", "style.png", *arguments, "-o", "out"])
    assert result.exit_code == 2
    assert says in result.output
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(main, ["batch", "--style", "style.png", "a.png", "-o", "."])
    assert "would be overwritten" in result.output


def test_a_journal_forgives_a_line_that_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Entry("in/a.jpg", "a.jpg", "d1", "done", 1.5, 3, 0.5, 0.9, ("a note",))
    Journal(path).add(first)
    path.write_text(path.read_text() + json.dumps({"output": "b.jpg"})[:-4])
    journal = Journal(path)
    assert journal.entries == (first,)
    assert journal.is_done("a.jpg", "d1")
    assert not journal.is_done("a.jpg", "d2")
    failed = Entry("in/b.jpg", "b.jpg", "d3", "failed", error="why")
    journal.add(failed)
    assert Journal(path).entries == (first, failed)
    assert Journal(path).failures("d3") == 1

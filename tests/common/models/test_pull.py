"""Whole models: installed, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.models import ModelError, find_model
from services.common.models.catalogue import Entry
from services.common.models.download import Patience
from services.common.models.folder import model_folders
from services.common.models.pull import pull
from services.common.models.store import installed, reserved, write_manifest
from tests.common.models.mirror import Mirror, cut, running, status

DATA = b"weights " * 50_000
ONCE = Patience(attempts=1)


class Heard:
    """What a person would have seen."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done: list[tuple[str, int, int | None]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def bytes(self, name: str, done: int, total: int | None) -> None:
        self.done.append((name, done, total))


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running({"/net.bin": DATA, "/base/net/1/net.bin": DATA}) as mirror:
        yield mirror


def entry(mirror: Mirror, **changes: Any) -> Entry:
    file = {"name": "net.bin", "url": f"{mirror.url}/net.bin", "size": len(DATA)}
    file["sha256"] = hashlib.sha256(DATA).hexdigest()
    fields = {"name": "net", "version": "1", "task": "features", "licence": "none", "source": "a test"}
    return Entry(**{**fields, "description": "nothing", "input": {"range": "0..1"}, "files": [file]} | changes)


def halved(made: Entry, source: Path, folder: Path) -> None:
    """A converter: half of the bytes."""
    folder.mkdir()
    (folder / "half.bin").write_bytes(source.read_bytes()[::2])
    manifest = {"name": made.name, "version": made.version, "task": made.task, "licence": "?", "input": {"is": "half"}}
    write_manifest(folder, manifest, ["half.bin"])


def run(mirror: Mirror, folder: Path, heard: Heard | None = None) -> Path:
    return pull(entry(mirror), folder, halved, None, heard or Heard(), ONCE)


def test_files_become_a_model_that_services_find(mirror: Mirror, tmp_path: Path) -> None:
    heard = Heard()
    models = tmp_path / "new" / "models"
    assert run(mirror, models, heard) == models / "net" / "1"
    model = find_model(models, "features", "auto")
    assert model is not None
    assert model.file("net.bin").read_bytes() == DATA
    assert model.manifest["input"] == {"range": "0..1"}
    assert heard.said == [f"fetching {mirror.url}/net.bin"]
    assert heard.done[-1] == ("net.bin", len(DATA), len(DATA))
    run(mirror, models, heard)
    assert heard.said[-1] == "net/1 is there already"
    assert len(mirror.asked) == 1
    assert [path.name for path in (models / ".partial" / "net").iterdir()] in ([], ["1.lock"])


def test_a_converted_model_says_what_it_was_made_of(mirror: Mirror, tmp_path: Path) -> None:
    made = entry(mirror, convert="halved")
    folder = pull(made, tmp_path, halved, f"{mirror.url}/base/", Heard(), ONCE)
    manifest = json.loads((folder / "manifest.json").read_text())
    url = f"{mirror.url}/base/net/1/net.bin"
    digest = hashlib.sha256(DATA).hexdigest()
    assert manifest["downloaded"] == {"net.bin": {"url": url, "sha256": digest, "size": len(DATA)}}
    assert manifest["files"] == {"half.bin": hashlib.sha256(DATA[::2]).hexdigest()}
    assert (manifest["licence"], manifest["source"], manifest["input"]) == ("none", "a test", {"is": "half"})
    assert sorted(path.name for path in folder.iterdir()) == ["half.bin", "manifest.json"]


def test_a_failed_conversion_keeps_the_download_and_makes_no_model(mirror: Mirror, tmp_path: Path) -> None:
    def failing(_: Entry, __: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "half.bin").write_bytes(b"ha")
        raise ModelError("cannot halve")

    made = entry(mirror, convert="halved")
    with pytest.raises(ModelError, match="cannot halve"):
        pull(made, tmp_path, failing, None, Heard(), ONCE)
    assert model_folders(tmp_path) == []
    assert find_model(tmp_path, "features", "auto") is None
    pull(made, tmp_path, halved, None, Heard(), ONCE)
    assert len(mirror.asked) == 1


def test_a_converter_that_writes_something_else_is_not_believed(mirror: Mirror, tmp_path: Path) -> None:
    def wrong(_: Entry, source: Path, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(source, folder)
        write_manifest(folder, {"name": "other", "version": "1", "task": "features", "licence": ""}, ["net.bin"])

    with pytest.raises(ModelError, match="says other/1"):
        pull(entry(mirror, convert="halved"), tmp_path, wrong, None, Heard(), ONCE)
    assert model_folders(tmp_path) == []


def test_a_failed_pull_leaves_the_old_model_as_it_was(mirror: Mirror, tmp_path: Path) -> None:
    folder = run(mirror, tmp_path)
    (folder / "net.bin").write_bytes(b"damaged")
    mirror.script = [cut(1000), status(404)]
    for says in ("gave up", "HTTP 404"):
        with pytest.raises(ModelError, match=says):
            run(mirror, tmp_path)
        assert (folder / "net.bin").read_bytes() == b"damaged"
    assert run(mirror, tmp_path) == folder
    assert (folder / "net.bin").read_bytes() == DATA
    assert model_folders(tmp_path) == [folder]


def test_too_little_room_is_said_before_anything_is_fetched(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(ModelError, match=r"needs 34 MB, the disk has only 1 MB free"):
        run(mirror, tmp_path)
    assert mirror.asked == []


def test_a_disk_that_fills_while_the_model_is_made(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "manifest.json")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ModelError, match=r"manifest\.json: cannot be written \(the disk is full\)|the disk is full"):
        run(mirror, tmp_path)
    monkeypatch.undo()
    assert model_folders(tmp_path) == []


def test_a_second_pull_waits_and_finds_it_done(mirror: Mirror, tmp_path: Path) -> None:
    heard, waits = Heard(), threading.Event()
    heard.say = lambda text: (heard.said.append(text), waits.set())  # type: ignore[method-assign,func-returns-value]
    with reserved(tmp_path, "net", "1", lambda: None):
        second = threading.Thread(target=run, args=(mirror, tmp_path, heard))
        second.start()
        assert waits.wait(30)
        assert heard.said == ["waiting for another pull"]
        assert mirror.asked == []
    second.join(30)
    assert heard.said == ["waiting for another pull", f"fetching {mirror.url}/net.bin"]
    assert len(model_folders(tmp_path)) == 1


def test_work_in_progress_is_no_model(mirror: Mirror, tmp_path: Path) -> None:
    run(mirror, tmp_path)
    shutil.copytree(tmp_path / "net" / "1", tmp_path / "net" / ".2")
    shutil.copytree(tmp_path / "net", tmp_path / ".other")
    assert [model.folder for model in installed(tmp_path)] == [tmp_path / "net" / "1"]


@pytest.mark.parametrize("name", ["..", "../net", "a/b", ".net", "", "a\0b", "/net"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    for names in ((name, "1"), ("net", name)):
        with pytest.raises(ModelError, match="is no name of a model or version"), reserved(tmp_path, *names, print):
            pass

"""The command as a process: one line and nothing written where it fails, and no torch where it needs none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.segmentation.convert.__main__ import main
from tests.architecture.fresh import loaded_by
from tests.segmentation.convert.small_deeplab import small_deeplab
from tests.segmentation.convert.tflite_files import written

PACKAGE = "services.segmentation.convert"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "small.tflite"
    path.write_bytes(written(small_deeplab(33, 33)))
    return path


def command(source: Path, folder: Path) -> list[str]:
    return ["tflite", str(source), str(folder), "--name", "small", "--version", "1"]


def test_as_a_process(source: Path) -> None:
    folder = source.parent / "small" / "1"
    start = [sys.executable, "-m", PACKAGE]
    done = subprocess.run([*start, *command(source, folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(os.listdir(folder)) == ["manifest.json", "model.onnx"]
    again = subprocess.run([*start, *command(source, folder)], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"error: {folder}: exists already; remove it or name another folder\n"


def test_only_the_torchvision_command_loads_torch() -> None:
    loaded = loaded_by([PACKAGE, f"{PACKAGE}.__main__", f"{PACKAGE}.deeplab"])
    assert {"onnx", "tflite"} <= loaded
    assert not {"torch", "onnxruntime", "grpc"} & loaded


def test_an_empty_folder_is_filled(source: Path) -> None:
    folder = source.parent / "made"
    folder.mkdir()
    assert main(command(source, folder)) == 0
    assert sorted(os.listdir(folder)) == ["manifest.json", "model.onnx"]


def test_folders_that_cannot_be_written(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source.parent / "file").write_text("here")
    for folder, reason in ((source, "exists already"), (source.parent / "file" / "out", "Not a directory")):
        assert main(command(source, folder)) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {folder}: ")
        assert reason in error
        assert error.count("\n") == 1

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)  # the network is written, the manifest no more
    assert main(command(source, source.parent / "out")) == 1
    assert "out: cannot be written (No space left on device)" in capsys.readouterr().err
    assert sorted(path.name for path in source.parent.iterdir()) == ["file", "small.tflite"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing command"),
        (["onnx"], "No such command 'onnx'"),
        (["tflite", "a"], "Missing argument 'OUT_FOLDER'"),
        (["tflite", "a", "b", "--version", "1"], "Missing option '--name'"),
        (["tflite", "a", "b", "--name", "../x", "--version", "1"], "'../x' is no name of a folder"),
        (["torchvision", "vgg19", "b", "--version", "1"], "'vgg19' is not one of 'deeplabv3_resnet50'"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1


def test_without_the_extra(source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(f"{PACKAGE}.") and "__main__" not in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tflite", None)
    assert main(command(source, source.parent / "out")) == 1
    assert "tflite is not installed; install the extra 'convert'" in capsys.readouterr().err

"""``dpst models`` as a person runs it, against a real HTTP server."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from gateway.cli import main
from services.common.models import find_model
from services.common.models.catalogue import parsed
from services.common.models.folder import model_folders
from services.common.models.store import write_manifest
from services.stylizer.core.vgg import LAYERS, VGG19
from tests.common.models.mirror import Mirror, running, silent, status

CLI = sys.modules["gateway.cli.models"]  # the attribute of this name is the command
DATA = os.urandom(1 << 20)
# What the command is in a test: its catalogue is a file, everything else is the real thing.
PROGRAM = """
import sys
from pathlib import Path
from gateway.cli import main
from services.common.models.catalogue import parsed
text = Path(sys.argv.pop(1)).read_text()
sys.modules["gateway.cli.models"].catalogue = lambda: parsed(text, "test")
main()
"""


def entry(url: str, data: bytes, extra: str = "", name: str = "net", file: str = "net.bin") -> str:
    return f"""
[[model]]
name = "{name}"
version = "1"
task = "features"
licence = "none of yours"
source = "a test"
description = "nothing"
input = {{}}
{extra}
[[model.files]]
name = "{file}"
url = "{url}/there/{file}"
size = {len(data)}
sha256 = "{hashlib.sha256(data).hexdigest()}"
"""


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running({"/there/net.bin": DATA, "/m/net/1/net.bin": DATA}) as mirror:
        yield mirror


@pytest.fixture
def models_folder(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, none in the package, and a catalogue of one model on the mirror."""
    text = entry(mirror.url, DATA)
    (tmp_path / "catalogue.toml").write_text(text)
    monkeypatch.setattr(CLI, "catalogue", lambda: parsed(text, "test"))
    monkeypatch.setattr(CLI, "embedded_models_dir", lambda task: tmp_path / "package" / task)
    monkeypatch.setenv("DPST_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.delenv("DPST_MODELS_URL", raising=False)
    return tmp_path / "models"


def dpst(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments])


def test_pull_list_path_verify(models_folder: Path) -> None:
    assert dpst("verify").output == ""
    assert "net/1  features  1.0 MB  to pull  none of yours" in dpst("list").output
    result = dpst("pull", "net")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"net/1: {models_folder / 'net' / '1'}\n"
    assert "net.bin: 1.0 of 1.0 MB" in result.stderr
    assert "net/1  features  1.0 MB  installed  none of yours" in dpst("list").output
    assert dpst("path").output == f"{models_folder}\n"
    assert dpst("path", "net").output == f"{models_folder / 'net' / '1'}\n"
    assert dpst("verify", "net/1").output == "net/1: whole\n"
    (models_folder / "net" / "1" / "net.bin").write_bytes(DATA[:-1])
    result = dpst("verify")
    assert result.exit_code == 1
    assert "net/1/net.bin: wrong checksum" in result.stderr
    assert result.stderr.endswith("error: 1 model is damaged\n")
    (models_folder / "net" / "1" / "manifest.json").write_text('{"name": "net"}')
    assert "damaged" in dpst("list").output
    assert "field 'version' is missing" in dpst("verify", "net").stderr
    assert dpst("pull", "net").exit_code == 0
    assert dpst("verify").exit_code == 0


def test_unknown_names(models_folder: Path) -> None:
    for command, says in (
        (("pull", "nett"), "error: model 'nett' is not in the catalogue; there are net\n"),
        (("pull", "../net"), "error: model '../net' is not in the catalogue; there are net\n"),
        (("path", "nett"), f"error: {models_folder}: no model 'nett' there; installed: none\n"),
        (("verify", "nett"), f"error: {models_folder}: no model 'nett' there; installed: none\n"),
    ):
        result = dpst(*command)
        assert (result.exit_code, result.stderr) == (1, says)


def test_a_mirror_takes_the_place_of_the_urls(
    models_folder: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPST_MODELS_URL", f"{mirror.url}/m/")
    assert dpst("pull", "net").exit_code == 0
    assert [asked.path for asked in mirror.asked] == ["/m/net/1/net.bin"]
    monkeypatch.setenv("DPST_MODELS_URL", "ftp://mirror")
    result = dpst("pull", "net")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: DPST_MODELS_URL: ")


def test_a_proxy_of_the_environment_is_used(
    models_folder: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror plays the proxy: it is asked for the whole address of a host that does not exist."""
    text = entry("http://models.invalid", DATA)
    monkeypatch.setattr(CLI, "catalogue", lambda: parsed(text, "test"))
    monkeypatch.setenv("http_proxy", mirror.url)
    monkeypatch.delenv("no_proxy", raising=False)
    mirror.files["http://models.invalid/there/net.bin"] = DATA
    assert dpst("pull", "net").exit_code == 0, "through the proxy"
    assert [asked.path for asked in mirror.asked] == ["http://models.invalid/there/net.bin"]


def test_a_refusal_is_one_line(models_folder: Path, mirror: Mirror) -> None:
    mirror.script = [status(404)]
    result = dpst("pull", "net")
    assert result.exit_code == 1
    assert result.stderr.endswith(f"error: {mirror.url}/there/net.bin: HTTP 404 Not Found; the file is not there\n")
    assert model_folders(models_folder) == []


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pull_goes_on(models_folder: Path, mirror: Mirror, tmp_path: Path, way: signal.Signals) -> None:
    mirror.script = [silent(700_000)]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "catalogue.toml"), "models", "pull", "net"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        for line in first.stderr:  # half of it is there, and written
            if line.startswith("net.bin: ") and float(line.split()[1]) >= 0.5:
                break
        first.send_signal(way)
        _, rest = first.communicate(timeout=60)
    assert first.returncode == (130 if way is signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in rest
    mirror.released.set()
    assert model_folders(models_folder) == []
    partial = models_folder / ".partial" / "net" / "1" / "net.bin.partial"
    there = partial.stat().st_size
    assert 400_000 < there <= 700_000
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert second.returncode == 0, second.stderr
    assert mirror.asked[1].range == f"bytes={there}-"
    assert mirror.asked[1].sent == len(DATA) - there
    assert (models_folder / "net" / "1" / "net.bin").read_bytes() == DATA
    assert not partial.parent.exists()


def vgg(path: Path) -> bytes:
    shapes = {key: tensor.shape for key, tensor in VGG19(depth=LAYERS[-1]).state_dict().items()}
    torch.save({key: torch.full((1,), 0.01).expand(shape) for key, shape in shapes.items()}, path)
    return path.read_bytes()


def test_weights_are_converted_by_the_stylizers_module(
    models_folder: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = vgg(tmp_path / "vgg.pth")
    mirror.files["/there/vgg.pth"] = data
    extra = 'convert = "vgg19"\nconvention = "caffe"'
    text = entry(mirror.url, data, extra, "vgg", "vgg.pth")
    monkeypatch.setattr(CLI, "catalogue", lambda: parsed(text, "test"))
    monkeypatch.setattr(CLI, "embedded_models_dir", lambda task: tmp_path / "package" / task)
    result = dpst("pull", "vgg")
    assert result.exit_code == 0, result.output
    model = find_model(models_folder, "features", "auto")
    assert model is not None
    assert (model.licence, model.manifest["input"]["channels"]) == ("none of yours", "BGR")
    assert model.manifest["downloaded"]["vgg.pth"]["sha256"] == hashlib.sha256(data).hexdigest()
    result = dpst("import", str(tmp_path / "vgg.pth"), "--as", "mine", "--version", "2.1")
    assert result.exit_code == 0, "the catalogue knows the convention of this very file"
    assert dpst("verify", "mine/2.1").output == "mine/2.1: whole\n"
    result = dpst("import", str(tmp_path / "vgg.pth"), "--as", "mine", "--version", "2.1")
    assert "mine/2.1: is there already; name another version, or remove it first" in result.stderr


def test_what_cannot_be_imported(models_folder: Path, tmp_path: Path) -> None:
    for name, arguments, says in (
        ("a.pth", [], "say with --convention how pixels enter it"),
        ("a.pth", ["--convention", "caffe"], "services.stylizer.convert: "),
        ("a.zip", [], "cannot tell what it is; use .pth, .safetensors, .onnx or .tflite"),
        ("a.onnx", [], "an ONNX network needs --manifest FILE"),
        ("a.tflite", [], "services.segmentation.convert: "),
    ):
        (tmp_path / name).write_bytes(b"nothing")
        result = dpst("import", str(tmp_path / name), "--as", "net", *arguments)
        assert result.exit_code == 1, name
        assert says in result.stderr
        assert result.stderr.count("\n") == 1
    for name in ("../net", ".net", "a/b"):
        result = dpst("import", str(tmp_path / "a.tflite"), "--as", name)
        assert f"error: {name!r} is no name of a model or version" in result.stderr
    assert model_folders(models_folder) == []
    assert not [path for path in models_folder.rglob("*") if path.name == "finished"]


def test_an_onnx_network_with_its_manifest(models_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"a network")
    said = {"task": "segmentation", "licence": "none", "input": {}, "output": {}, "labels": ["a"], "name": "old"}
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    assert dpst("import", str(tmp_path / "net.onnx"), "--as", "scene").exit_code == 0
    model = find_model(models_folder, "segmentation", "scene")
    assert model is not None
    assert model.file("model.onnx").read_bytes() == b"a network"
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**said, "labels": None}))
    result = dpst("import", str(tmp_path / "net.onnx"), "--as", "scene", "--version", "2", "--manifest", str(other))
    assert result.stderr == f"error: {other}: field 'labels' is missing or no list; add it\n"


def test_embedded_models_are_listed(models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "features" / "student" / "1"
    folder.mkdir(parents=True)
    (folder / "w").write_bytes(b"1")
    write_manifest(folder, {"name": "student", "version": "1", "task": "features", "licence": "Apache-2.0"}, ["w"])
    monkeypatch.setattr(CLI, "embedded_models_dir", lambda task: tmp_path / task)
    assert "student/1  features  0.0 MB  built in  Apache-2.0" in dpst("list").output
    assert dpst("verify").output == "student/1: whole\n"


def test_export_wants_weights(tmp_path: Path) -> None:
    result = dpst("export", "deeplabv3_resnet50", "-o", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "give either --weights FILE or --random-weights SEED" in result.output


@pytest.mark.weights
def test_the_catalogues_tflite_release_from_a_mirror(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packaged catalogue, with its real checksum, and the real converter."""
    pytest.importorskip("services.segmentation.convert")
    name = "deeplabv3-mnv2-ade20k"
    data = (models_dir / name / "1" / "source.tflite").read_bytes()
    monkeypatch.setenv("DPST_MODELS_DIR", str(tmp_path))
    with running({f"/{name}/1/deeplabv3-mobilenetv2-ade20k.tflite": data}) as mirror:
        monkeypatch.setenv("DPST_MODELS_URL", mirror.url)
        result = dpst("pull", name)
    assert result.exit_code == 0, result.output
    model = find_model(tmp_path, "segmentation", "auto")
    assert model is not None
    assert (model.name, len(model.manifest["labels"]), model.licence[:10]) == (name, 151, "Apache-2.0")

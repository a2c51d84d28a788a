"""The committed stubs are what ``make protos`` makes of the protos."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

PROTOS = Path(__file__).parents[2] / "protos"
SOURCES = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
WITH_SERVICES = [source for source in SOURCES if "\nservice " in (PROTOS / source).read_text(encoding="utf-8")]


def protoc(*arguments: str) -> None:
    """Run the generator as the Makefile does: from the root, with the plugins of this interpreter's environment."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", "-Ibuild/protos"]
    subprocess.run([*command, *arguments], cwd=PROTOS.parent, env=environment, check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of new stubs and of the descriptor set."""
    out = tmp_path_factory.mktemp("stubs")
    sources, with_services = ([f"protos/{source}" for source in group] for group in (SOURCES, WITH_SERVICES))
    protoc(f"--python_out={out}", f"--mypy_out=quiet:{out}", f"--descriptor_set_out={out / 'set'}", *sources)
    protoc(f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *with_services)
    return out


def test_every_committed_stub_is_made_and_no_other(made: Path) -> None:
    def stubs(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*_pb2*") if path.suffix != ".pyc"}

    assert stubs(PROTOS) == stubs(made)


@pytest.mark.parametrize("source", SOURCES)
def test_text_is_what_the_generator_writes(made: Path, source: str) -> None:
    for path in sorted(made.glob(f"{source.removesuffix('.proto')}_pb2*")):
        committed = PROTOS / path.relative_to(made)
        assert committed.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), f"{committed}: make protos"


@pytest.mark.parametrize("source", SOURCES)
def test_descriptor_is_that_of_the_proto(made: Path, source: str) -> None:
    (expected,) = (
        file for file in FileDescriptorSet.FromString((made / "set").read_bytes()).file if file.name == source
    )
    module = importlib.import_module(f"{source.removesuffix('.proto').replace('/', '.')}_pb2")
    found = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(found)
    for file in (expected, found):
        for message in file.message_type:
            _without_json_names(message)
    assert found.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def _without_json_names(message: object) -> None:
    """Drop what the generator leaves out of stubs and a descriptor set spells out."""
    for field in message.field:  # type: ignore[attr-defined]
        field.ClearField("json_name")
    for nested in message.nested_type:  # type: ignore[attr-defined]
        _without_json_names(nested)

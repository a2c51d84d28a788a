"""The contract: what is on the wire stays, everything is explained, every RPC is there."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dpst.v1 import photo_style_pb2, segmentation_pb2, stylizer_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

from tests.protos.field_numbers import numbers, recorded

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SOURCES = sorted(path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos/dpst/v1").glob("*.proto"))

UNARY, STREAM, STREAMED = (False, False), (False, True), (True, False)
"""Whether requests and responses stream."""

RPCS = {
    (photo_style_pb2, "PhotoStyle"): {
        "Transfer": UNARY,
        "TransferStream": STREAM,
        "SubmitTransfer": UNARY,
        "WatchTransfer": STREAM,
        "RenderLook": STREAM,
        "ExportLook": UNARY,
        "UploadImage": STREAMED,
        "DownloadImage": STREAM,
    },
    (segmentation_pb2, "Segmentation"): {"Segment": UNARY, "ListModels": UNARY},
    (stylizer_pb2, "Stylizer"): {
        "CheckRoom": UNARY,
        "Stylize": STREAM,
        "Render": STREAM,
        "ExportLook": UNARY,
    },
}


@pytest.mark.parametrize(("file", "service"), RPCS, ids=lambda value: value if isinstance(value, str) else "")
def test_service_has_its_rpcs(file: object, service: str) -> None:
    found = {
        method.name: (method.client_streaming, method.server_streaming)
        for method in file.DESCRIPTOR.services_by_name[service].methods  # type: ignore[attr-defined]
    }
    assert found == RPCS[file, service]  # type: ignore[index]


def test_numbers_and_types_are_those_on_record() -> None:
    assert numbers() == recorded(), "an addition? then record it: python -m tests.protos.field_numbers"


def test_buf_finds_nothing() -> None:
    done = subprocess.run([BIN / "buf", "lint"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    """The protos as protoc reads them, comments included."""
    out = tmp_path_factory.mktemp("descriptors") / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", "-Ibuild/protos", "--include_source_info"]
    subprocess.run([*command, f"--descriptor_set_out={out}", *SOURCES], cwd=ROOT, check=True)
    return FileDescriptorSet.FromString(out.read_bytes())


@pytest.mark.parametrize("source", SOURCES)
def test_everything_is_commented(described: FileDescriptorSet, source: str) -> None:
    (file,) = (file for file in described.file if file.name == source)
    comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    silent = [name for path, name in _elements(file) if not comments.get(path)]
    assert not silent


# Numbers of the fields of FileDescriptorProto and its parts, of which source positions are made.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _NESTED, _NESTED_ENUM, _VALUE, _METHOD = 2, 3, 4, 2, 2


def _elements(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for i, message in enumerate(file.message_type):
        yield from _of_message(message, (_MESSAGE, i), message.name)
    for i, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, (_ENUM, i), enum.name)
    for i, service in enumerate(file.service):
        yield (_SERVICE, i), service.name
        yield from (((_SERVICE, i, _METHOD, k), f"{service.name}.{rpc.name}") for k, rpc in enumerate(service.method))


def _of_message(message: DescriptorProto, path: tuple[int, ...], name: str) -> Iterator[tuple[tuple[int, ...], str]]:
    if message.options.map_entry:  # made by protoc from a map field
        return
    yield path, name
    yield from (((*path, _FIELD, i), f"{name}.{field.name}") for i, field in enumerate(message.field))
    for i, nested in enumerate(message.nested_type):
        yield from _of_message(nested, (*path, _NESTED, i), f"{name}.{nested.name}")
    for i, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, (*path, _NESTED_ENUM, i), f"{name}.{enum.name}")


def _of_enum(enum: EnumDescriptorProto, path: tuple[int, ...], name: str) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    yield from (((*path, _VALUE, i), f"{name}.{value.name}") for i, value in enumerate(enum.value))

"""What is on the wire: numbers and types of all fields and enum values of ``dpst.v1``.

    python -m tests.protos.field_numbers

records them in ``field_numbers.json`` beside this file. Do so after adding to the contract; a changed or vanished line
in the diff breaks every caller that was built before.
"""

from __future__ import annotations

import json
from pathlib import Path

from dpst.v1 import (
    image_pb2,
    jobs_pb2,
    labels_pb2,
    look_pb2,
    params_pb2,
    photo_style_pb2,
    progress_pb2,
    report_pb2,
    segmentation_pb2,
    stylizer_pb2,
)
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

__all__ = ["FILES", "RECORD", "numbers", "recorded"]

RECORD = Path(__file__).with_suffix(".json")
FILES = (
    image_pb2,
    jobs_pb2,
    labels_pb2,
    look_pb2,
    params_pb2,
    photo_style_pb2,
    progress_pb2,
    report_pb2,
    segmentation_pb2,
    stylizer_pb2,
)


def numbers() -> dict[str, dict[str, str]]:
    """For each message and enum its fields or values, each with its number, and its type if it is a field."""
    found: dict[str, dict[str, str]] = {}
    for module in FILES:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            _collect(message, file.package, found)
        for enum in file.enum_type:
            found[f"{file.package}.{enum.name}"] = {value.name: str(value.number) for value in enum.value}
    return dict(sorted(found.items()))


def _collect(message: DescriptorProto, scope: str, found: dict[str, dict[str, str]]) -> None:
    name = f"{scope}.{message.name}"
    found[name] = {field.name: f"{field.number} {_type(field)}" for field in message.field}
    for nested in message.nested_type:
        _collect(nested, name, found)


def _type(field: FieldDescriptorProto) -> str:
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {kind}" if field.label == FieldDescriptorProto.LABEL_REPEATED else kind


def recorded() -> dict[str, dict[str, str]]:
    """The record."""
    record: dict[str, dict[str, str]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def main() -> None:
    """Record the contract as it is."""
    RECORD.write_text(json.dumps(numbers(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

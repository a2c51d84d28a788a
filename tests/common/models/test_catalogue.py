"""The packaged catalogue, and what a catalogue may not say."""

from __future__ import annotations

import re

import pytest

from services.common.models import ModelError
from services.common.models.catalogue import catalogue, entry_named, parsed
from services.stylizer.convert import CONVENTIONS
from tests.common.models.catalogue_table import table, written_table

ENTRY = """
[[model]]
name = "net"
version = "1"
task = "features"
licence = "none"
source = "a test"
description = "nothing"
input = {}
[[model.files]]
name = "net.bin"
url = "http://127.0.0.1/net.bin"
size = 5
sha256 = "SHA"
""".replace("SHA", "0" * 64)


def test_the_packaged_catalogue() -> None:
    entries = catalogue()
    names = {"vgg19-torchvision", "vgg19-caffe", "deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3-mnv2-ade20k"}
    assert {entry.name for entry in entries} == names
    for entry in entries:
        assert entry.convert is not None
        assert entry.checked
        (file,) = entry.files
        in_name = re.search(r"-([0-9a-f]{8})\.pth$", file.name)
        if in_name is not None:
            assert file.checksum.startswith(in_name[1]), "as torch.hub checks it"
        if entry.convention is not None:
            assert entry.input == CONVENTIONS[entry.convention], "said twice"


def test_the_document_shows_it() -> None:
    assert written_table() == table(), "remake it: python -m tests.common.models.catalogue_table"


def test_names() -> None:
    entries = parsed(ENTRY, "here")
    assert entry_named(entries, "net") is entry_named(entries, "net/1")
    with pytest.raises(ModelError, match="'nett' is not in the catalogue; there are net"):
        entry_named(entries, "nett")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "net"', 'name = "../net"', "name String should match"),
        ('name = "net"', 'name = ".net"', "name String should match"),
        ('name = "net.bin"', 'name = "a/b"', r"files.0.name String should match"),
        ('name = "net.bin"', 'name = "a..b"', r"files.0.name String should match"),
        ("http:", "file:", r"files.0.url String should match"),
        ("size = 5", "size = 0", r"files.0.size Input should be greater than 0"),
        ('sha256 = "' + "0" * 64 + '"', "", "give either sha256 or sha256_prefix"),
        ('sha256 = "00', 'sha256 = "0', r"files.0.sha256 String should match"),
        ('task = "features"', 'task = "cooking"', "task Input should be 'features' or 'segmentation'"),
        ('licence = "none"', "", "licence Field required"),
        ('licence = "none"', 'licence = "none"\nlicense = "none"', "license Extra inputs are not permitted"),
        ("[[model]]", "[[model", "here: "),
    ],
)
def test_a_wrong_catalogue_is_refused(old: str, new: str, says: str) -> None:
    assert old in ENTRY
    with pytest.raises(ModelError, match=says) as caught:
        parsed(ENTRY.replace(old, new, 1), "here")
    assert str(caught.value).startswith("here: ")


def test_a_name_is_there_once() -> None:
    with pytest.raises(ModelError, match="two models have one name among net, net"):
        parsed(ENTRY + ENTRY, "here")

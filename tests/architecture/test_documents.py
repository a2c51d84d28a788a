"""Documents that repeat what code says must say the same."""

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from dpst.v1 import photo_style_pb2, segmentation_pb2, stylizer_pb2

from gateway.cli import main
from services.common.metrics import Metrics
from services.stylizer.core.look import MAX_LOOK_BYTES
from services.stylizer.core.results import LOOK_VERSION
from tests.architecture.settings_table import PROCESSES, table, written_table

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def document(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("process", PROCESSES)
def test_every_setting_has_a_description_and_a_default(process: str) -> None:
    for name, field in PROCESSES[process].model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert not field.is_required(), name


def test_operations_lists_the_settings() -> None:
    assert written_table() == table(), "remake it: python -m tests.architecture.settings_table"


def test_operations_lists_the_metrics() -> None:
    families = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        if not family.name.startswith("process_")
    }
    listed = re.findall(r"^\| `((?:dpst|grpc)_\w+)`", document("operations.md"), re.MULTILINE)
    assert sorted(listed) == sorted(families)


def test_api_lists_every_rpc() -> None:
    text = document("api.md")
    for file in (photo_style_pb2, segmentation_pb2, stylizer_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert f"`{service.name}` | `{method.name}`" in text


def test_look_names_the_version_and_the_limit() -> None:
    text = document("look.md")
    assert f"Version {LOOK_VERSION} " in text
    assert f"{MAX_LOOK_BYTES} bytes" in text


def test_changelog_package_and_command_agree_on_the_version() -> None:
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert newest is not None
    assert newest[1] == version
    assert CliRunner().invoke(main, ["--version"]).output == f"dpst {version}\n"


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"

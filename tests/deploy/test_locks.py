"""The lock files of ``deploy/locks``: they hold what ``pyproject.toml`` asks for, each file by its SHA-256."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "deploy" / "locks"
_PINNED = re.compile(
    r"^(?P<name>[a-z0-9.-]+)==(?P<version>\S+) \\\n(?P<hashes>(?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE
)


def pinned(kind: str) -> dict[str, Version]:
    """Name to version; every line of the file belongs to a requirement with hashes."""
    text = (LOCKS / f"{kind}.txt").read_text()
    found = list(_PINNED.finditer(text))
    assert "".join(match[0] for match in found) == text
    for match in found:
        assert all(
            re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", part) for part in match["hashes"].split() if part != "\\"
        )
    return {match["name"]: Version(match["version"]) for match in found}


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_holds_what_the_project_asks_for(kind: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(line) for line in (*project["dependencies"], *extras[kind], *extras["otel"], *extras["nats"])]
    limits = [line for line in (LOCKS / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    versions = pinned(kind)
    for requirement in (*asked, *map(Requirement, limits)):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked; make locks"
        for extra in requirement.extras:
            assert canonicalize_name(f"{requirement.name}-{extra}") in versions


def test_processors_and_cards_exclude_each_other() -> None:
    assert not {"onnxruntime-gpu", "torchvision"} & pinned("cpu").keys()
    assert "onnxruntime" not in pinned("gpu")
    assert pinned("cpu")["torch"].local == "cpu"
    assert not any(name.startswith("nvidia-") for name in pinned("cpu"))

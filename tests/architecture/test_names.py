"""Every file is named for what it holds."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("services", "gateway", "protos", "deploy", "tests", "docs")
NAMELESS = ("utils", "helpers", "misc")


def test_no_file_is_called_utils() -> None:
    names = [path for room in ROOMS for path in (ROOT / room).rglob("*") if "__pycache__" not in path.parts]
    assert len(names) > 100
    assert not [path for path in names if any(word in path.stem.lower().split("_") for word in NAMELESS)]

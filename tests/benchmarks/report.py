"""The page that a benchmark leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["report"]


def report(lines: Sequence[str], folder: Path, name: str) -> None:
    """Write ``<name>.md`` into a folder, which is made if there is none, and print it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines)
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)

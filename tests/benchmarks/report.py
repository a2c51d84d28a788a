"""The page that a benchmark leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["report"]


def report(lines: Sequence[str], folder: Path, name: str, record: dict[str, Any] | None = None) -> None:
    """Write ``<name>.md``, and the figures as ``<name>.json``, into a folder, made if there is none; print the page."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines).rstrip()
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    if record is not None:
        (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(text)

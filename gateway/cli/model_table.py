"""What ``dpst models list`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.models.catalogue import Entry
from services.common.models.store import Installed

__all__ = ["model_table"]

_COLUMNS = ("model", "task", "size", "state", "licence")


def model_table(entries: Sequence[Entry], here: Sequence[Installed]) -> str:
    """One line a model: what is here, then what can be pulled. Sizes are on disk, or of the download."""
    rows = [_row_of_installed(model) for model in here]
    names = {(model.name, model.version) for model in here if not model.built_in}
    rows += [_row_of_entry(entry) for entry in entries if (entry.name, entry.version) not in names]
    table = [_COLUMNS, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS) - 1)]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def _row_of_installed(model: Installed) -> tuple[str, ...]:
    state = "damaged" if model.problem else ("built in" if model.built_in else "installed")
    return (
        f"{model.name}/{model.version}",
        model.task or "?",
        _size(model.size),
        state,
        model.problem or model.licence,
    )


def _row_of_entry(entry: Entry) -> tuple[str, ...]:
    return f"{entry.name}/{entry.version}", entry.task, _size(entry.size), "to pull", entry.licence


def _size(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e6:.1f} MB"

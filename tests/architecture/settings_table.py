"""The settings table of docs/operations.md, made from services/common/config.py.

    python -m tests.architecture.settings_table

writes it anew between the markers of that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from services.common.config import (
    GatewaySettings,
    ProcessSettings,
    SegmentationSettings,
    StoreSettings,
    StylizerSettings,
)

__all__ = ["DOCUMENT", "PROCESSES", "table", "written_table"]

DOCUMENT = Path(__file__).parents[2] / "docs/operations.md"
PROCESSES: Mapping[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "segmentation": SegmentationSettings,
    "stylizer": StylizerSettings,
}
_READERS: Mapping[str, type[BaseSettings]] = {**PROCESSES, "dpst models": StoreSettings}
_BEGIN, _END = "<!-- settings -->\n", "<!-- end of settings -->\n"


def table() -> str:
    """The table as Markdown: one row a setting, those of every process first."""
    names: dict[str, list[str]] = {}
    for process, settings in _READERS.items():
        for name in settings.model_fields:
            names.setdefault(name, []).append(process)
    rows = ["| variable | process | default | allowed | meaning |", "|---|---|---|---|---|"]
    for name, processes in sorted(names.items(), key=lambda item: -len(item[1])):
        fields = {process: _READERS[process].model_fields[name] for process in processes}
        field = fields[processes[0]]
        defaults = {process: _text(field.default) for process, field in fields.items()}
        same = len(set(defaults.values())) == 1
        default = defaults[processes[0]] if same else ", ".join(f"{p} {d}" for p, d in defaults.items())
        where = "every" if set(PROCESSES) <= set(processes) else ", ".join(processes)
        meaning = (field.description or "").replace("<", "&lt;")
        rows.append(f"| `DPST_{name.upper()}` | {where} | {default} | {_allowed(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def written_table() -> str:
    """The table as the document has it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)]


def _text(default: Any) -> str:
    if default is None:
        return "unset"
    return str(default).lower() if isinstance(default, bool) else f"`{default}`"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(str, get_args(field.annotation)))
    if field.annotation is bool:
        return "true, false"
    bounds = {
        name: getattr(each, name) for each in field.metadata for name in ("ge", "gt", "le") if hasattr(each, name)
    }
    if "ge" in bounds and "le" in bounds:
        return f"{bounds['ge']}..{bounds['le']}"
    if "ge" in bounds:
        return f"from {bounds['ge']}"
    return f"above {bounds['gt']:g}" if "gt" in bounds else "any"


def main() -> None:
    """Write the table into the document."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    DOCUMENT.write_text(before + _BEGIN + table() + _END + after, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The tables of docs/labels.md, made from services/common/taxonomy.py and class_sets.py.

    python -m tests.common.label_tables

writes them anew between the markers of that file.
"""

from __future__ import annotations

from pathlib import Path

from services.common.class_sets import CLASS_SETS
from services.common.taxonomy import COLOURS, COMMON_LABELS, MIN_AREA_SHARES, NINE_COLOURS, RELATED

__all__ = ["DOCUMENT", "TABLES", "written"]

DOCUMENT = Path(__file__).parents[2] / "docs/labels.md"


def _labels() -> str:
    rows = ["| index | label | colour | at least | related, nearest first |", "|---|---|---|---|---|"]
    for index, label in enumerate(COMMON_LABELS):
        colour = "{:02x}{:02x}{:02x}".format(*COLOURS[label])
        related = ", ".join(RELATED[label])
        rows.append(f"| {index} | {label} | `{colour}` | {MIN_AREA_SHARES[label]:.1%} | {related} |")
    return "\n".join(rows)


def _classes() -> str:
    rows = [f"| label | {' | '.join(CLASS_SETS)} |", "|---" * (1 + len(CLASS_SETS)) + "|"]
    for label in COMMON_LABELS:
        cells = (", ".join(name for name, group in table.items() if group == label) for table in CLASS_SETS.values())
        rows.append(f"| {label} | {' | '.join(cell or '–' for cell in cells)} |")
    return "\n".join(rows)


def _nine() -> str:
    colours = (f"{name} `{red:02x}{green:02x}{blue:02x}`" for name, (red, green, blue) in NINE_COLOURS.items())
    return f"| index | {' | '.join(map(str, range(9)))} |\n{'|---' * 10}|\n| colour | {' | '.join(colours)} |"


TABLES = {"common labels": _labels(), "classes": _classes(), "nine colours": _nine()}


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->\n", f"<!-- end of {name} -->"


def written(name: str) -> str:
    """A table as the document has it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    begin, end = _markers(name)
    return text[text.index(begin) + len(begin) : text.index(end)].rstrip("\n")


def main() -> None:
    """Write the tables into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        begin, end = _markers(name)
        at, until = text.index(begin) + len(begin), text.index(end)
        text = f"{text[:at]}{table}\n{text[until:]}"
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

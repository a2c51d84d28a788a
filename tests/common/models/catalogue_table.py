"""The catalogue's table of docs/models.md, made from services/common/models.toml.

    python -m tests.common.models.catalogue_table

writes it anew between the markers of that file.
"""

from __future__ import annotations

from pathlib import Path

from services.common.models.catalogue import catalogue

__all__ = ["DOCUMENT", "table", "written_table"]

DOCUMENT = Path(__file__).parents[3] / "docs/models.md"
_BEGIN, _END = "<!-- catalogue -->\n", "<!-- end of catalogue -->\n"


def table() -> str:
    """The table as Markdown, one row a model."""
    rows = ["| name | task | what | licence | download | sha256 | checked |", "|---|---|---|---|---|---|---|"]
    for entry in catalogue():
        (file,) = entry.files
        size = f"{file.size} bytes" if file.size is not None else "size not published"
        checksum = f"`{file.sha256}`" if file.sha256 else f"begins with `{file.sha256_prefix}`"
        download = f"[{file.name}]({file.url}), {size}"
        rows.append(
            f"| `{entry.name}` | {entry.task} | {entry.description} | {entry.licence} | {download} | {checksum} "
            f"| {entry.checked} |"
        )
    return "\n".join(rows) + "\n"


def written_table() -> str:
    """The table as the document has it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)]


def main() -> None:
    """Write the table into the document."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    DOCUMENT.write_text(before + _BEGIN + table() + _END + after, encoding="utf-8")


if __name__ == "__main__":
    main()

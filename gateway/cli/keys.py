"""``dpst keys``: API keys of callers."""

from __future__ import annotations

import re
from pathlib import Path

import click

from services.common.keys import KeyFile, KeyFileError, new_key

__all__ = ["keys"]


@click.group()
def keys() -> None:
    """API keys of callers, for DPST_API_KEYS_FILE."""


@keys.command()
@click.argument("name")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to add the entry to; without it, the entry is printed.",
)
def new(name: str, file: Path | None) -> None:
    """Make a key for the caller NAME. The key is shown once and kept nowhere; the file gets its SHA-256."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise click.BadParameter("1 to 64 of A-Z a-z 0-9 . _ -", param_hint="NAME")
    token, entry = new_key(name)
    if file is None:
        click.echo(entry, err=True)
    else:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(f"{text.rstrip()}\n\n{entry}".lstrip(), encoding="utf-8")
        try:
            KeyFile(partial)
        except KeyFileError as error:
            partial.unlink()
            raise click.ClickException(str(error).replace(str(partial), str(file))) from error
        partial.replace(file)
    click.echo(token)

"""``dpst config``: the settings that a process would have, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from services.common.config import (
    GatewaySettings,
    SegmentationSettings,
    StylizerSettings,
    settings_problems,
    unknown_settings,
)

__all__ = ["config"]

_KINDS: Final[Mapping[str, type[BaseSettings]]] = MappingProxyType(
    {"gateway": GatewaySettings, "segmentation": SegmentationSettings, "stylizer": StylizerSettings}
)


@click.command()
@click.argument("process", type=click.Choice(list(_KINDS)), required=False)
@click.option("--help-text", is_flag=True, help="Show what each setting means, too.")
def config(process: str | None, help_text: bool) -> None:
    """Print the effective settings of PROCESS, or of all, and check them: status 2 if one cannot be used.

    Settings are environment variables. What is set in the environment is marked with a star.
    """
    problems = [f"{name}: no such setting" for name in unknown_settings(os.environ)]
    for name, kind in _KINDS.items():
        if process not in (None, name):
            continue
        click.echo(f"# {name}")
        try:
            settings = kind()
        except ValidationError as error:
            problems.append(f"{name}: {settings_problems(error)}")
            continue
        for field, info in kind.model_fields.items():
            if help_text:
                click.echo(f"# {info.description}")
            variable, value = f"DPST_{field.upper()}", getattr(settings, field)
            mark = "  # *" if field in settings.model_fields_set else ""
            click.echo(f"{variable}={_text(value)}{mark}")
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(2)


def _text(value: object) -> str:
    """As it would stand in the environment; unset is empty."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)

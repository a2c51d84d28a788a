"""Flags that say how a segmentation network is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
from dpst.v1 import labels_pb2

__all__ = ["segmentation_flags", "segmentation_options"]

_REFINEMENTS = ("none", "guided", "crf")


class _Scales(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas; the server holds their range."""

    name = "NUMBER,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not of the form NUMBER,NUMBER,...", param, ctx)


_FLAGS = (
    click.option(
        "--refinement", type=click.Choice(_REFINEMENTS), help="How borders of regions follow edges. Default: guided."
    ),
    click.option(
        "--scales",
        type=_Scales(),
        help="Sizes at which photos enter the network, averaged: up to 4 of 0.5..2. Default: 1.",
    ),
    click.option("--flip", is_flag=True, help="Average the mirrored photo in too."),
)


def segmentation_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags ``refinement``, ``scales`` and ``flip`` to a click command."""
    for option in reversed(_FLAGS):
        command = option(command)
    return command


def segmentation_options(values: Mapping[str, Any]) -> labels_pb2.SegmentationOptions:
    """Build the message from the values of ``segmentation_flags``; what was not given stays unset."""
    message = labels_pb2.SegmentationOptions(scales=values["scales"] or (), flip=values["flip"])
    if values["refinement"] is not None:
        message.refinement = labels_pb2.Refinement.Value(f"REFINEMENT_{values['refinement'].upper()}")
    return message

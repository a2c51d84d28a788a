"""Flags of the transfer parameters. A flag that is not given stays unset, so that the server's default applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click
from dpst.v1 import labels_pb2, params_pb2

__all__ = ["FIELDS", "Flag", "parameter_flags", "params_message"]

_MODE = ("field", "paper")
_QUALITY = ("draft", "standard", "high")
_PRESERVE = ("none", "luminance", "chroma")
_POLICY = ("merge", "global", "keep", "reject")


class Flag(NamedTuple):
    """One flag: its name, click type and help."""

    name: str
    kind: Any
    help: str


# By field of TransferParams. The server holds defaults and ranges; a test compares the help.
FIELDS: Mapping[str, Flag] = {
    "mode": Flag("--mode", click.Choice(_MODE), "How the picture is computed. Default: field."),
    "quality": Flag(
        "--quality",
        click.Choice(_QUALITY),
        "Work to be done: size and length of the optimisation. Default: standard.",
    ),
    "strength": Flag("--strength", float, "How much of the look is applied, 0..1. Default: 1.0."),
    "label_strengths": Flag("--label-strength", str, "Strength of one label, NAME=0..1; may be repeated."),
    "preserve": Flag(
        "--preserve", click.Choice(_PRESERVE), "What of the content photo survives unchanged. Default: none."
    ),
    "content_weight": Flag("--content-weight", float, "Weight of the content loss. Default: 5.0."),
    "style_weight": Flag("--style-weight", float, "Weight of each layer's style loss. Default: 100.0."),
    "affine_weight": Flag("--affine-weight", float, "Weight of the matting-Laplacian term. Default: 10000.0."),
    "solve_edge_px": Flag(
        "--solve-edge",
        click.IntRange(1),
        "Long edge in pixels at which the optimisation runs. Default: by --quality.",
    ),
    "max_evaluations": Flag("--max-evaluations", click.IntRange(1), "Most network evaluations. Default: by --quality."),
    "time_budget_seconds": Flag("--time-budget", float, "Most seconds of solving; 0 = no limit. Default: 0.0."),
    "label_policy": Flag(
        "--label-policy",
        click.Choice(_POLICY),
        "What happens to labels that the style photo lacks. Default: merge.",
    ),
    "seed": Flag("--seed", click.IntRange(0), "Seed of everything random. Default: 0."),
    "features": Flag("--features", str, "Feature network as NAME or NAME/VERSION."),
    "preview_every": Flag(
        "--preview-every", click.IntRange(0), "Evaluations between two previews; 0 = none. Default: 5."
    ),
}


def parameter_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of ``FIELDS`` to a click command; its values come under the fields' names."""
    for field, (flag, kind, text) in reversed(list(FIELDS.items())):
        multiple = field == "label_strengths"
        command = click.option(flag, field, type=kind, default=None, multiple=multiple, help=text)(command)
    return command


def params_message(values: Mapping[str, Any]) -> params_pb2.TransferParams:
    """Build the message from the values of ``parameter_flags``; None stays unset."""
    message = params_pb2.TransferParams()
    for field in FIELDS:
        value = values[field]
        if value is None:
            continue
        if field == "label_strengths":
            for entry in value:
                name, strength = _named_strength(entry)
                message.label_strengths[name] = strength
        elif field == "mode":
            message.mode = params_pb2.Mode.Value(f"MODE_{value.upper()}")
        elif field == "quality":
            message.quality = params_pb2.QualityPreset.Value(f"QUALITY_PRESET_{value.upper()}")
        elif field == "preserve":
            message.preserve = params_pb2.Preserve.Value(f"PRESERVE_{value.upper()}")
        elif field == "label_policy":
            message.label_policy = labels_pb2.LabelPolicy.Value(f"LABEL_POLICY_{value.upper()}")
        else:
            setattr(message, field, value)
    return message


def _named_strength(entry: str) -> tuple[str, float]:
    name, _, number = entry.partition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise click.BadParameter(f"{entry!r} is not of the form NAME=NUMBER", param_hint="--label-strength") from error

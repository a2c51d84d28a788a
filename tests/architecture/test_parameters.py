"""The flags of ``dpst stylize`` against the single source of defaults, ``TransferParams``."""

import dataclasses
import re

import click
import pytest

from gateway.cli.parameters import FIELDS, params_message
from gateway.cli.render import render
from gateway.cli.stylize import stylize
from services.stylizer.core.params import CHOICES, Preset, TransferParams
from services.stylizer.messages import params_from_message

OPTIONS = {option.name: option for option in stylize.params if isinstance(option, click.Option)}


def test_every_parameter_is_offered() -> None:
    names = {field.name for field in dataclasses.fields(TransferParams)}
    assert set(FIELDS) == names
    assert names <= set(OPTIONS)


def test_flags_that_are_not_given_mean_the_defaults() -> None:
    """No flag has a default of its own, so that the server's applies."""
    context = stylize.make_context("stylize", [__file__, __file__, "-o", "out.jpg"])
    assert params_from_message(params_message(context.params)) == TransferParams()


def test_render_offers_what_of_them_concerns_it_in_the_same_words() -> None:
    offered = {option.name: option for option in render.params if isinstance(option, click.Option)}
    for name in ("strength", "preserve"):
        assert (offered[name].help, offered[name].type) == (OPTIONS[name].help, OPTIONS[name].type)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_the_servers(name: str) -> None:
    kind = OPTIONS[name].type
    assert isinstance(kind, click.Choice)
    assert tuple(kind.choices) == CHOICES[name]


PRESET_FIELDS = {field.name for field in dataclasses.fields(Preset)}


def test_help_says_what_the_quality_decides() -> None:
    for name in PRESET_FIELDS:
        assert (OPTIONS[name].help or "").endswith("Default: by --quality.")


@pytest.mark.parametrize("name", sorted(set(FIELDS) - PRESET_FIELDS - {"label_strengths", "features"}))
def test_help_says_the_default(name: str) -> None:
    said = re.search(r"Default: (\S+)\.$", OPTIONS[name].help or "")
    assert said is not None
    assert said[1] == str(getattr(TransferParams(), name))

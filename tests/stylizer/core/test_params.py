"""Parameters: limits are enforced, and the proto's comments say the same defaults and limits."""

import dataclasses
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from services.stylizer.core.errors import ParameterError
from services.stylizer.core.params import CHOICES, PRESETS, RANGES, Preset, TransferParams

PROTO = Path(__file__).parents[3] / "protos/dpst/v1/params.proto"


@pytest.mark.parametrize("name", sorted(RANGES))
def test_ends_of_the_range_are_in_and_beyond_is_out(name: str) -> None:
    low, high = RANGES[name]
    whole = isinstance(getattr(TransferParams(), name), int)
    for value in (low, high):
        TransferParams(**{name: int(value) if whole else value})  # type: ignore[arg-type]
    for value in (low - 1, high * 2 + 1, math.nan):
        with pytest.raises(ParameterError, match=f"{name}: got .*must be between"):
            TransferParams(**{name: value})  # type: ignore[arg-type]


def test_choices_are_checked() -> None:
    for name in CHOICES:
        with pytest.raises(ParameterError, match="must be one of"):
            TransferParams(**{name: "nonsense"})  # type: ignore[arg-type]
    assert TransferParams(mode="paper").mode == "paper"
    with pytest.raises(ParameterError, match=r"label_strengths\[sky\]"):
        TransferParams(label_strengths={"sky": 1.5})


def test_every_mode_and_quality_has_a_preset_and_the_plain_defaults_are_one() -> None:
    assert set(PRESETS) == set(CHOICES["mode"])
    for presets in PRESETS.values():
        assert tuple(presets) == CHOICES["quality"]
    assert TransferParams.chosen() == TransferParams()


@pytest.mark.parametrize("mode", CHOICES["mode"])
@pytest.mark.parametrize("quality", CHOICES["quality"])
def test_a_preset_fills_what_is_not_given(mode: str, quality: str) -> None:
    preset = PRESETS[mode][quality]
    params = TransferParams.chosen(mode=mode, quality=quality, seed=7)
    assert (params.solve_edge_px, params.max_evaluations, params.seed) == (
        preset.solve_edge_px,
        preset.max_evaluations,
        7,
    )
    explicit = TransferParams.chosen(mode=mode, quality=quality, max_evaluations=3)
    assert (explicit.solve_edge_px, explicit.max_evaluations) == (preset.solve_edge_px, 3)
    explicit = TransferParams.chosen(mode=mode, quality=quality, solve_edge_px=65)
    assert (explicit.solve_edge_px, explicit.max_evaluations) == (65, preset.max_evaluations)


@pytest.mark.parametrize("name", ["mode", "quality"])
def test_an_unknown_choice_of_preset_is_named(name: str) -> None:
    with pytest.raises(ParameterError, match=f"{name}: got nonsense, must be one of"):
        TransferParams.chosen(**{name: "nonsense"})


def test_survives_pickling() -> None:
    params = TransferParams(label_strengths={"sky": 0.5})
    assert pickle.loads(pickle.dumps(params)) == params


def proto_fields() -> dict[str, str]:
    text = PROTO.read_text()
    body = text[text.index("message TransferParams") :]
    found = re.findall(r"((?:  //[^\n]*\n)+)  (?:optional )?[\w<>, ]+? (\w+) = \d+;", body)
    return {name: " ".join(comment.replace("//", "").split()) for comment, name in found}


def test_proto_has_the_same_fields() -> None:
    assert set(proto_fields()) == {field.name for field in dataclasses.fields(TransferParams)}


PRESET_FIELDS = {field.name for field in dataclasses.fields(Preset)}


@pytest.mark.parametrize("name", sorted(set(proto_fields()) - {"label_strengths"} - PRESET_FIELDS))
def test_proto_comment_says_the_default(name: str) -> None:
    default: Any = getattr(TransferParams(), name)
    said = re.search(r"Default: ([^ ]+?)\.?$", proto_fields()[name])
    assert said is not None, proto_fields()[name]
    assert said[1].strip('"') == str(default)


def test_proto_comments_say_what_the_presets_are() -> None:
    for name in PRESET_FIELDS:
        assert proto_fields()[name].endswith("Default: by `quality`.")
    text = PROTO.read_text()
    for mode, presets in PRESETS.items():
        for quality, preset in presets.items():
            said = re.search(rf"// ([^\n]*)\n  QUALITY_PRESET_{quality.upper()} = ", text)
            assert said is not None
            assert f"{mode}: {preset.solve_edge_px} px, {preset.max_evaluations} evaluations" in said[1]


def test_proto_comment_says_the_range() -> None:
    comments = proto_fields()
    for name in ("content_weight", "style_weight", "solve_edge_px", "max_evaluations"):
        low, high = RANGES[name]
        assert f"{low:g}..{high:g}" in comments[name].replace("1e+05", "100000").replace("100000", f"{1e5:g}"), name

"""Label matching: every policy, small labels, the order of relatedness."""

import pytest

from services.stylizer.core.errors import LabelsUnmatched
from services.stylizer.core.matching import match_labels

RELATED = {"tree": ("grass", "plant"), "water": ("sky",)}


def kinds(policy: str, content: dict[str, float], style: dict[str, float]) -> dict[str, tuple[str, str]]:
    return {m.content_label: (m.kind, m.style_label) for m in match_labels(content, style, policy, RELATED)}


def test_same_names_match_under_every_policy() -> None:
    for policy in ("merge", "global", "keep", "reject"):
        assert kinds(policy, {"sky": 1.0}, {"sky": 0.5, "road": 0.5}) == {"sky": ("same", "sky")}


def test_merge_takes_the_nearest_related_label_that_is_large_enough() -> None:
    assert kinds("merge", {"tree": 1.0}, {"plant": 0.5, "grass": 0.5})["tree"] == ("merged", "grass")
    assert kinds("merge", {"tree": 1.0}, {"plant": 0.5, "grass": 0.0001})["tree"] == ("merged", "plant")
    assert kinds("merge", {"tree": 1.0}, {"sky": 1.0})["tree"] == ("global", "")
    assert kinds("merge", {"unheard of": 1.0}, {"sky": 1.0})["unheard of"] == ("global", "")


def test_global_and_keep() -> None:
    assert kinds("global", {"tree": 1.0}, {"grass": 1.0})["tree"] == ("global", "")
    assert kinds("keep", {"tree": 1.0}, {"grass": 1.0})["tree"] == ("kept", "")


def test_reject_names_the_label_and_what_there_is() -> None:
    with pytest.raises(LabelsUnmatched, match=r"content_labels: got tree, .*grass"):
        match_labels({"tree": 1.0}, {"grass": 1.0}, "reject", RELATED)


def test_reject_overlooks_a_speck() -> None:
    assert kinds("reject", {"sky": 0.9999, "tree": 0.0001}, {"sky": 1.0})["tree"] == ("global", "")


def test_shares_are_reported_largest_first() -> None:
    matches = match_labels({"tree": 0.2, "sky": 0.8}, {"sky": 0.5, "grass": 0.5}, "merge", RELATED)
    assert [(m.content_label, m.content_share, m.style_share) for m in matches] == [
        ("sky", 0.8, 0.5),
        ("tree", 0.2, 0.5),
    ]

"""The quality benchmark from end to end on a made-up pair with the built-in network, and its counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.stylizer.core.results import Quality
from tests.benchmarks import quality
from tests.benchmarks.judged import Row, Solved
from tests.benchmarks.quality_tables import Counts, field_table, sweep_table

EDGE = (64, 96)


def figures(style: float, affine: float, edges: float) -> Quality:
    return Quality(style, 1.0, affine, edges, 0.0, 0.0, 700, ())


def row(pair: str, ours: Quality, published: Quality) -> Row:
    return Row(pair, Solved(40, 12.5, "max_evaluations", 3.0, 0.5, 1000, ours), published)


PUBLISHED = figures(0.2, 300.0, 0.5)
ROWS = [
    row("all", figures(0.1, 200.0, 0.6), PUBLISHED),
    row("style and affine", figures(0.1, 200.0, 0.4), PUBLISHED),
    row("affine and edges", figures(0.3, 200.0, 0.6), PUBLISHED),
    row("ties", PUBLISHED, PUBLISHED),
]


def test_counts() -> None:
    assert Counts.of(ROWS) == Counts(4, style=2, affine=3, edges=2, style_and_affine=2, all_three=1)


def test_the_better_number_is_bold() -> None:
    cells = [[cell.strip() for cell in line.split("|")[2:8]] for line in field_table(ROWS) if line.startswith("| ")][1:]
    assert cells[0] == ["**0.1000**", "0.2000", "**200**", "300", "**0.600**", "0.500"]
    assert cells[2] == ["0.3000", "**0.2000**", "**200**", "300", "**0.600**", "0.500"]
    assert cells[3] == ["0.2000", "0.2000", "300", "300", "0.500", "0.500"]


def test_sweep_takes_medians_of_ratios_pair_by_pair() -> None:
    doubled = [row("b", figures(0.8, 900.0, 0.5), replace(PUBLISHED, style_relative=0.4)) for _ in range(2)]
    line = sweep_table({10: [ROWS[0], *doubled]})[-4]
    assert line.startswith("| 10 | 40 | 12.5 | 2.00 | 3.00 | +0.000 |")


@pytest.fixture
def made_up_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data/pairs/made-up"
    folder.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    generator = np.random.default_rng(0)
    for name in ("content", "style", "published"):
        coarse = generator.integers(0, 255, (8, 12, 3), np.uint8)
        Image.fromarray(coarse).resize(EDGE[::-1], Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    labels = np.zeros((*EDGE, 3), np.uint8)
    labels[32:] = 255
    for name in ("content", "style"):
        Image.fromarray(labels).save(folder / f"{name}_labels.png")
    monkeypatch.setenv("DPST_TEST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DPST_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path


@pytest.mark.slow
def test_one_command_writes_every_table_and_goes_on_where_it_ended(made_up_pair: Path) -> None:
    out, build = made_up_pair / "docs", made_up_pair / "build"
    small = ["--quality", "draft", "--sweep", "1", "3", "--paper-pairs", "made-up", "--paper-evaluations", "4"]
    command = [*small, "--out", str(out), "--build", str(build)]
    quality.main(command)
    assert sorted(path.name for path in out.iterdir()) == [
        f"quality-{part}.{kind}" for part in ("draft", "paper", "sweep", "time") for kind in ("json", "md")
    ]
    field = json.loads((out / "quality-draft.json").read_text())
    assert field["features"] == "vgg19-student/1"
    assert field["counts"]["rows"] == 1
    assert field["rows"][0]["ours"]["preview_seconds"] > 0
    sweep = json.loads((out / "quality-sweep.json").read_text())["rows"]
    assert {key: rows[0]["ours"]["evaluations"] for key, rows in sweep.items()} == {"1": 1, "3": 3}
    paper, beside = json.loads((out / "quality-paper.json").read_text())["rows"][0]
    assert paper["ours"]["evaluations"] == 4
    assert paper["published"] == beside["published"] == field["rows"][0]["published"]
    sheet = np.asarray(Image.open(build / "draft/made-up.png"))
    assert sheet.shape == (2 * EDGE[0], 2 * EDGE[1], 3)
    assert np.array_equal(sheet[EDGE[0] :, : EDGE[1]], np.asarray(Image.open(build / "draft/made-up-ours.png")))

    kept = sorted((build / "rows").glob("*.json"))
    kept[0].unlink()
    before = {path: path.stat().st_mtime_ns for path in kept[1:]}
    quality.main(["--parts", "field", "sweep", "paper", *command])
    assert sorted((build / "rows").glob("*.json")) == kept
    assert {path: path.stat().st_mtime_ns for path in kept[1:]} == before

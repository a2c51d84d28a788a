"""The .cube text: layout, order, and what may stand in its header."""

import io
import re

import numpy as np
import pillow_lut
from PIL import Image

from services.stylizer.core.cube import CUBE_LINE_BYTES, cube_text


def table(points: int = 17) -> np.ndarray:
    """Values that differ in every entry."""
    return np.random.default_rng(0).random((points, points, points, 3))


def test_layout_is_the_specifications() -> None:
    lines = cube_text(table(17), "evening", ["fitted"]).decode("ascii").split("\n")
    assert lines[:5] == [
        'TITLE "evening"',
        "# fitted",
        "LUT_3D_SIZE 17",
        "DOMAIN_MIN 0.0 0.0 0.0",
        "DOMAIN_MAX 1.0 1.0 1.0",
    ]
    assert lines[-1] == ""
    assert len(lines[5:-1]) == 17**3
    assert {len(line) + 1 for line in lines[5:-1]} == {CUBE_LINE_BYTES}
    assert all(re.fullmatch(r"[01]\.\d{6} [01]\.\d{6} [01]\.\d{6}", line) for line in lines[5:-1])


def test_red_changes_fastest() -> None:
    values = table()
    entries = cube_text(values, "").split(b"\n")[4:]
    for red, green, blue in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 5, 7)):
        written = np.array(entries[red + 17 * green + 289 * blue].split(), float)
        np.testing.assert_allclose(written, values[blue, green, red], atol=5.1e-7)


def test_an_independent_reader_gets_the_same_table() -> None:
    values = table(33)
    read = pillow_lut.load_cube_file(io.StringIO(cube_text(values, "evening", ["a comment"]).decode()))
    assert tuple(read.size) == (33, 33, 33)
    np.testing.assert_allclose(np.array(read.table).reshape(33, 33, 33, 3), values, atol=6e-7)
    picture = Image.new("RGB", (2, 1))
    picture.putdata([(255, 0, 0), (0, 0, 255)])
    looked_up = np.asarray(picture.filter(read))[0] / 255
    np.testing.assert_allclose(looked_up, [values[0, 0, -1], values[-1, 0, 0]], atol=1 / 255)


def test_names_from_outside_cannot_change_the_file() -> None:
    text = cube_text(table(), 'sky"\nLUT_3D_SIZE 2\n0 0 0', ["naïve\r\n1 1 1", "x" * 999]).decode("ascii")
    head = text.split("\n")[:6]
    assert head[0] == 'TITLE "sky??LUT_3D_SIZE 2?0 0 0"'
    assert head[1] == "# na?ve??1 1 1"
    assert len(head[2]) < 250
    assert head[3] == "LUT_3D_SIZE 17"

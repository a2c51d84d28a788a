"""Which lookup tables an export gives, and that the error it reports is what an independent reader finds."""

import io
from dataclasses import replace

import numpy as np
import pillow_lut
import pytest
import pyvips
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from services.common.errors import FailedPrecondition, InvalidArgument
from services.stylizer.core.cube import CUBE_LINE_BYTES
from services.stylizer.core.errors import SolveCancelled
from services.stylizer.export import ColourPairs, lookup_tables
from services.stylizer.jobs import ExportJob

SIZE = (80, 60)
JOB = ExportJob("id", b"", b"", 17, "", False, 10**8)


def photo() -> np.ndarray:
    """(60, 80, 3) uint8 of smooth colours with texture."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(30, 220, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + random.normal(0, 5, smooth.shape), 0, 255).round().astype(np.uint8)


def pairs(profile: bytes | None = None) -> ColourPairs:
    """The upper half ("sky") turns blue and dark, the lower ("road") warm, every pixel a little by its place."""
    I = (photo() / 255).astype(np.float32).reshape(-1, 3)
    indices = np.repeat(np.array([0, 1], np.uint8), len(I) // 2)
    sky = I * (0.5, 0.6, 0.8) + (0, 0.02, 0.1)
    road = I**0.8 * (1.0, 0.9, 0.7) + (0.05, 0, 0)
    place = 0.05 * np.sin(np.linspace(0, 40, len(I)))[:, None]
    O = (np.where(indices[:, None] == 0, sky, road) + place).astype(np.float32)
    return ColourPairs(I, O, indices, ("sky", "road"), profile)


def never() -> bool:
    return False


def test_one_table_for_the_whole_picture_one_for_a_label_one_for_each() -> None:
    ((whole,), nothing) = lookup_tables(pairs(), JOB, never)
    ((sky,), _) = lookup_tables(pairs(), replace(JOB, label="sky"), never)
    each, _ = lookup_tables(pairs(), replace(JOB, per_label=True), never)
    assert nothing == ()
    assert (whole.label, whole.area_share, whole.points) == ("", 1.0, 17)
    assert [(lut.label, lut.area_share) for lut in each] == [("sky", 0.5), ("road", 0.5)]
    assert each[0] == sky
    assert sky.mean < 0.5 * whole.mean, "one label's look is nearer to a table than that of both"
    for lut in (whole, *each):
        assert 0 < lut.mean < lut.p95 < lut.max
        assert len(lut.cube) == pytest.approx(17**3 * CUBE_LINE_BYTES, rel=0.01)


def test_the_reported_error_is_what_an_independent_reader_finds() -> None:
    """Another library reads the file and looks up the 8-bit photo; a third measures the difference."""
    made = pairs()
    ((whole,), _) = lookup_tables(made, replace(JOB, points=33), never)
    table = pillow_lut.load_cube_file(io.StringIO(whole.cube.decode()))
    looked_up = np.asarray(Image.fromarray(photo()).filter(table)).reshape(-1, 3) / 255
    found = deltaE_ciede2000(rgb2lab(looked_up), rgb2lab(np.clip(made.O, 0, 1).astype(np.float64)))
    assert whole.mean == pytest.approx(found.mean(), rel=0.05)  # 8-bit rounding and another white point
    assert whole.p95 == pytest.approx(np.percentile(found, 95), rel=0.05)
    assert found.max() < 1.1 * whole.max
    untouched = deltaE_ciede2000(rgb2lab(made.I.astype(np.float64)), rgb2lab(np.clip(made.O, 0, 1).astype(np.float64)))
    assert found.mean() < 0.4 * untouched.mean()


def test_the_file_says_what_it_is() -> None:
    ((sky,), _) = lookup_tables(pairs(), replace(JOB, label="sky"), never)
    text = sky.cube.decode("ascii")
    assert text.startswith('TITLE "dpst: sky"\n# On 50.0% of the photo, CIEDE2000 to the look: mean ')
    assert f"mean {sky.mean:.2f}, 95th percentile {sky.p95:.2f}, maximum {sky.max:.2f}." in text
    assert "# RGB values in and out are sRGB.\n" in text


def test_a_wide_profile_makes_the_same_numbers_differ_more() -> None:
    p3 = bytes(pyvips.Operation.call("profile_load", "p3"))
    ((narrow,), _) = lookup_tables(pairs(), JOB, never)
    ((wide,), _) = lookup_tables(pairs(p3), JOB, never)
    entries = [[line for line in lut.cube.splitlines() if line[:1].isdigit()] for lut in (narrow, wide)]
    assert entries[0] == entries[1]
    assert wide.mean > 1.02 * narrow.mean
    assert b"in the space of the ICC profile of the photo" in wide.cube


def test_unknown_label_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match="label: got 'lake', the look has: road, sky"):
        lookup_tables(pairs(), replace(JOB, label="lake"), never)


def test_labels_without_a_pixel_are_told() -> None:
    with_lake = replace(pairs(), names=("sky", "road", "lake"))
    luts, absent = lookup_tables(with_lake, replace(JOB, per_label=True), never)
    assert [lut.label for lut in luts] == ["sky", "road"]
    assert absent == ("lake",)
    with pytest.raises(FailedPrecondition, match="got 'lake', no pixel of the photo has it; some have: road, sky"):
        lookup_tables(with_lake, replace(JOB, label="lake"), never)


def test_more_than_a_message_holds_is_refused_before_the_work() -> None:
    def fail() -> bool:
        raise AssertionError("the fit began")

    job = replace(JOB, points=65, per_label=True, max_bytes=10**7)
    with pytest.raises(InvalidArgument, match="points: got 65, 2 tables of 14829750 bytes do not fit"):
        lookup_tables(pairs(), job, fail)


def test_can_be_stopped() -> None:
    with pytest.raises(SolveCancelled):
        lookup_tables(pairs(), JOB, lambda: True)

"""Label PNGs of every kind become indices with names; unknown colours and wrong sizes are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from services.common.errors import InvalidArgument
from services.common.images import ImageLimits, PhotoInfo
from services.common.label_maps import (
    LabelMap,
    check_matches_photo,
    decode_label_map,
    encode_label_map,
    encode_mask,
    single_region,
)
from services.common.taxonomy import COLOURS, COMMON_LABELS, NINE_COLOURS

LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=1_000_000, min_edge_px=32, max_edge_px=30_000)


def png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def decoded(data: bytes, names: dict[int, str] | None = None) -> LabelMap:
    return decode_label_map(data, names or {}, "content_labels.png", LIMITS)


def halves(left: Any, right: Any) -> NDArray[np.uint8]:
    pixels = np.empty((40, 60, *np.shape(left)), np.uint8)
    pixels[:, :30], pixels[:, 30:] = left, right
    return pixels


def palette_image(indices: NDArray[np.uint8], colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette([value for colour in colours for value in colour])
    return image


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30, unique=True), st.booleans())
def test_round_trip(present: list[int], named: bool) -> None:
    indices = np.resize(np.array(present, np.uint8), (33, 37))
    names = {index: f"region {index}" for index in present}
    again = decoded(encode_label_map(LabelMap(indices, names)), names if named else None)
    np.testing.assert_array_equal(again.indices, indices)
    assert again.names == (names if named else {index: f"label-{index}" for index in present})


def test_encoded_maps_are_palette_files_in_readable_colours() -> None:
    label_map = LabelMap(halves(0, 4), {0: "sky", 4: "tree"})
    data = encode_label_map(label_map)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), label_map.indices)
    assert image.convert("RGB").getpixel((59, 0)) == COLOURS["tree"]
    for edited in (data, png(image), png(image.convert("RGB"))):  # also after an editor saved it anew
        again = decoded(edited)
        np.testing.assert_array_equal(again.indices, label_map.indices)
        assert again.names == label_map.names


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_and_greyscale_values_are_indices(bits: int) -> None:
    top = min((1 << bits) - 1, 9)
    indices = halves(0, top)
    colours = [(i, 255 - i, 40) for i in range(1 << bits)]
    data = png(palette_image(indices, colours), bits=bits)
    assert data[24] == bits
    again = decoded(data, {0: "sky"})
    np.testing.assert_array_equal(again.indices, indices)
    assert again.names == {0: "sky", top: f"label-{top}"}
    if bits in (1, 8):
        grey = Image.fromarray(indices * np.uint8(255 if bits == 1 else 1)).convert("1" if bits == 1 else "L")
        np.testing.assert_array_equal(decoded(png(grey), {0: "a", 1: "b"}).indices, indices)


def test_interlaced_and_profiled_and_alpha_files_keep_their_indices() -> None:
    indices = halves(3, 7)
    for data in (
        png(palette_image(indices, [(i, i, 9) for i in range(9)]), transparency=3),
        png(Image.fromarray(indices), icc_profile=bytes(200), dpi=(300, 300)),
        png(Image.merge("LA", (Image.fromarray(indices), Image.new("L", (60, 40), 9)))),
    ):
        np.testing.assert_array_equal(decoded(data, {3: "a"}).indices, indices)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_nine_colours(mode: str) -> None:
    names = list(NINE_COLOURS)
    blocks = np.array([NINE_COLOURS[name] for name in names], np.uint8).reshape(3, 3, 3)
    pixels = blocks.repeat(20, axis=0).repeat(20, axis=1)
    if mode == "P":
        order = np.arange(9, dtype=np.uint8)[::-1].reshape(3, 3).repeat(20, axis=0).repeat(20, axis=1)
        data = png(palette_image(order, [NINE_COLOURS[name] for name in reversed(names)]))
    else:
        data = png(Image.fromarray(pixels).convert(mode))
    label_map = decoded(data)
    assert sorted(label_map.names.values()) == sorted(names)
    assert label_map.areas() == pytest.approx(dict.fromkeys(names, 1 / 9))
    assert label_map.names[int(label_map.indices[0, 25])] == names[1]


def test_greyscale_file_in_nine_colours_agrees_with_an_rgb_one() -> None:
    label_map = decoded(png(Image.fromarray(halves(0, 255))))
    assert label_map.areas() == pytest.approx({"black": 0.5, "white": 0.5})
    assert decoded(png(Image.fromarray(halves(0, 1)))).names == {0: "label-0", 1: "label-1"}
    assert decoded(png(Image.fromarray(halves(0, 255))), {255: "sky"}).names == {0: "label-0", 255: "sky"}


def test_soft_seams_are_understood_but_unknown_regions_are_not() -> None:
    pixels = halves((0, 0, 255), (255, 0, 0))
    pixels[:, 29], pixels[:, 30] = (85, 0, 170), (170, 0, 85)
    pixels[5:9, 5:9] = (20, 10, 240)  # within the tolerance
    assert decoded(png(Image.fromarray(pixels))).areas() == pytest.approx({"blue": 0.5, "red": 0.5})
    pixels[20:30, 40:52] = (255, 128, 0)
    with pytest.raises(InvalidArgument, match=r"unknown colour ff8000 at x=\d+ y=\d+.*blue 0000ff, .*purple") as caught:
        decoded(png(Image.fromarray(pixels)))
    assert caught.value.field == "content_labels.png"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes .no PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "no PNG signature"),
        (png(Image.fromarray(halves(0, 9)))[:-20], "damaged or cut off"),
        (png(Image.fromarray(halves(0, 9).astype(np.uint16))), "16 bits a channel"),
        (png(Image.fromarray(np.resize(np.arange(65, dtype=np.uint8), (40, 60)))), "65 labels.*at most 64"),
        (png(Image.new("L", (1500, 1000))), "1500x1000 px, at most 1000000 pixels"),
    ],
)
def test_bad_files_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        decoded(data, {0: "sky"})
    assert caught.value.field == "content_labels.png"


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((4000, 3000), True),
        ((512, 384), True),
        ((512, 385), True),
        ((513, 384), True),
        ((1, 1), True),
        ((8000, 6000), True),
        ((8000, 6002), True),
        ((512, 386), False),
        ((384, 512), False),
        ((4000, 2000), False),
        ((8000, 6010), False),
    ],
)
def test_aspect_ratio(size: tuple[int, int], fits: bool) -> None:
    label_map = single_region(*size)
    info = PhotoInfo("jpeg", 4000, 3000, 8, False, False)
    if fits:
        check_matches_photo(label_map, info, "content_labels")
        return
    with pytest.raises(InvalidArgument, match=rf"content_labels: got {size[0]}x{size[1]} px.*4000x3000"):
        check_matches_photo(label_map, info, "content_labels")


def test_areas_and_resizing() -> None:
    label_map = LabelMap(halves(2, 5), {2: "sky", 5: "sea", 6: "none"})
    assert label_map.areas() == pytest.approx({"sky": 0.5, "sea": 0.5, "none": 0.0})
    assert label_map.resized(6, 4).indices.tolist() == [[2, 2, 2, 5, 5, 5]] * 4
    assert label_map.resized(120, 80).areas() == label_map.areas()
    assert single_region(5, 4).areas() == {"all": 1.0}


def test_mask_png() -> None:
    mask = np.linspace(-0.1, 1.1, 40 * 50, dtype=np.float32).reshape(40, 50)
    image = Image.open(io.BytesIO(encode_mask(mask)))
    assert image.mode == "L"
    assert np.abs(np.asarray(image) / 255 - mask.clip(0, 1)).max() < 0.5 / 255 + 1e-6


@given(st.data())
def test_common_maps_round_trip_with_their_names(data: st.DataObject) -> None:
    present = data.draw(st.lists(st.integers(0, len(COMMON_LABELS) - 1), min_size=1, max_size=13, unique=True))
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    indices = np.random.default_rng(data.draw(st.integers(0, 99))).choice(np.array(present, np.uint8), size)
    names = {index: COMMON_LABELS[index] for index in np.unique(indices).tolist()}
    encoded = encode_label_map(LabelMap(indices, names))
    for file in (encoded, png(Image.open(io.BytesIO(encoded)).convert("RGB"))):  # as palette file and as RGB
        again = decoded(file)
        np.testing.assert_array_equal(again.indices, indices)
        assert again.names == names


@given(st.data())
def test_nine_colour_maps_round_trip(data: st.DataObject) -> None:
    present = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True))
    indices = np.random.default_rng(data.draw(st.integers(0, 99))).choice(np.array(present, np.uint8), (33, 35))
    colours = np.array(list(NINE_COLOURS.values()), np.uint8)
    names = {index: list(NINE_COLOURS)[index] for index in np.unique(indices).tolist()}
    first = decoded(png(Image.fromarray(colours[indices])))
    again = decoded(encode_label_map(first))
    for label_map in (first, again):
        np.testing.assert_array_equal(label_map.indices, indices)
        assert label_map.names == names
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(encode_label_map(first))).convert("RGB")), colours[indices]
    )


def test_published_maps_are_understood(test_data_dir: Path) -> None:
    files = sorted(test_data_dir.glob("pairs/*/*_labels.png"))
    assert files
    for file in files:
        label_map = decoded(file.read_bytes())
        assert set(label_map.names.values()) <= set(NINE_COLOURS), file

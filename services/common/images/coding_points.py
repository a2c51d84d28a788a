"""Colour spaces that a file names by number instead of an ICC profile: ITU-T H.273 code points.

AVIF and HEIF hold them in an nclx box, PNG in its cICP chunk. libvips reads neither.
"""

from __future__ import annotations

from functools import cache

from services.common.errors import InvalidArgument
from services.common.images.isobmff import boxes, find_box
from services.common.images.matrix_profile import BT2020, D65, DISPLAY_P3, matrix_profile, srgb_curve

__all__ = ["named_profile"]

_PNG_HEADER_END = 33
_PRIMARIES = {9: ("BT.2020", BT2020), 12: ("Display P3", DISPLAY_P3)}
_SRGB_PRIMARIES = (1, 2)  # 2: unspecified
_SRGB_CURVES = (1, 2, 6, 13, 14, 15)  # that of BT.709 and its like, which viewers show with sRGB's, 2: unspecified
_GAMMAS = {4: 2.2, 5: 2.8}
_HDR = {16: "PQ", 18: "HLG"}


def named_profile(data: bytes, kind: str, field: str) -> bytes | None:
    """Make an ICC profile of the space that an AVIF, HEIF or PNG file names; None if it is sRGB or none is named.

    Raises InvalidArgument for spaces of high dynamic range, whose values would be taken for something else, and for
    primaries and transfer curves that nobody uses for photos.
    """
    read = {"avif": _nclx, "png": _cicp}.get(kind)
    points = read(data) if read else None
    if points is None:
        return None
    primaries, transfer = points
    if transfer in _HDR:
        raise InvalidArgument(field, f"a picture of high dynamic range ({_HDR[transfer]})", "SDR photos are accepted")
    if primaries not in (*_SRGB_PRIMARIES, *_PRIMARIES) or transfer not in (*_SRGB_CURVES, *_GAMMAS):
        accepted = "primaries 1, 2, 9 or 12 and transfer characteristics 1, 2, 4, 5, 6, 13, 14 or 15 are accepted"
        raise InvalidArgument(field, f"colour primaries {primaries} with transfer characteristics {transfer}", accepted)
    return _profile(primaries, transfer)


@cache
def _profile(primaries: int, transfer: int) -> bytes | None:
    if primaries in _SRGB_PRIMARIES and transfer in _SRGB_CURVES:
        return None
    name, chromaticities = _PRIMARIES.get(primaries, ("BT.709", ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))))
    gamma = _GAMMAS.get(transfer)
    label = f"{name}, {f'gamma {gamma}' if gamma else 'sRGB curve'}"
    return matrix_profile(label, chromaticities, D65, gamma or tuple(srgb_curve()))


def _nclx(data: bytes) -> tuple[int, int] | None:
    found = find_box(data, b"meta", b"iprp", b"ipco")
    if found is None:
        return None
    for kind, start, end in boxes(data, *found):
        if kind == b"colr" and data[start : start + 4] == b"nclx" and end - start >= 8:
            return int.from_bytes(data[start + 4 : start + 6], "big"), int.from_bytes(
                data[start + 6 : start + 8], "big"
            )
    return None


def _cicp(data: bytes) -> tuple[int, int] | None:
    at = _PNG_HEADER_END
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        if data[at + 4 : at + 8] == b"cICP":
            return data[at + 8], data[at + 9]
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return None
